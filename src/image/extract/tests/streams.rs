//! Compression, digests, and blobs or disks that end too soon.

use std::io::Write;

use flate2::write::GzEncoder;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar() -> Vec<u8> {
    let text: String = (0..100_000).map(|n| format!("{n} ")).collect();
    Tar::new().file("big", &text).file("small", "x").finish()
}

fn attempt(blob: &[u8], expected: &LayerExpectation) -> Result<Extracted, ExtractError> {
    let scratch = tempfile::tempdir().unwrap();
    extract_layer(blob, Compression::Gzip, expected, scratch.path(), &Limits::default())
}

#[test]
fn every_compression_is_told_by_its_first_bytes() {
    let tar = tar();
    let (front, back) = tar.split_at(300_000);
    let members = [gzip(front), gzip(back)].concat();
    let frames = [zstd::encode_all(front, 1).unwrap(), zstd::encode_all(back, 1).unwrap()].concat();
    let skippable = [b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc".as_slice(), &frames].concat();
    let expected = attempt(&tar, &expectation(&tar, &tar)).unwrap();
    assert_eq!(expected.inodes, 3);
    for blob in [gzip(&tar), members, frames, skippable] {
        assert_eq!(attempt(&blob, &expectation(&blob, &tar)).unwrap(), expected);
    }
    let message = attempt(b"\xfd7zXZ\0etc", &expectation(b"\xfd7zXZ\0etc", b"")).unwrap_err().to_string();
    assert!(message.contains("xz"), "{message}");
}

#[test]
fn empty_layers_and_missing_end_markers_are_accepted() {
    for tar in [Vec::new(), vec![0; 512], vec![0; 10_240], Tar::new().file("f", "x").unfinished()] {
        assert!(attempt(&tar, &expectation(&tar, &tar)).is_ok());
        let blob = gzip(&tar);
        assert!(attempt(&blob, &expectation(&blob, &tar)).is_ok());
    }
}

#[test]
fn bytes_after_the_end_count() {
    let mut tar = tar();
    tar.extend_from_slice(&vec![7; 500_000]);
    assert!(attempt(&tar, &expectation(&tar, &tar)).is_ok());
    let blob = gzip(&tar);
    assert!(attempt(&blob, &expectation(&blob, &tar)).is_ok());
}

#[test]
fn digests_and_length_must_agree() {
    let tar = tar();
    let blob = gzip(&tar);
    let right = expectation(&blob, &tar);
    let wrong = Digest::of(b"something else");
    let error = attempt(&blob, &LayerExpectation { digest: wrong.clone(), ..right.clone() }).unwrap_err();
    assert!(matches!(error, ExtractError::BlobDigest { .. }), "{error}");
    let error = attempt(&blob, &LayerExpectation { diff_id: wrong, ..right.clone() }).unwrap_err();
    assert!(matches!(error, ExtractError::DiffId { .. }), "{error}");
    let error = attempt(&blob, &LayerExpectation { size: right.size - 1, ..right.clone() }).unwrap_err();
    assert!(matches!(error, ExtractError::BlobTooLong { .. }), "{error}");
    let error = attempt(&blob, &LayerExpectation { size: right.size + 1, ..right }).unwrap_err();
    assert!(matches!(error, ExtractError::BlobTooShort { .. }), "{error}");
}

#[test]
fn a_stream_that_ends_too_soon_is_said_to() {
    let tar = tar();
    for blob in [gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap(), tar.clone()] {
        let cut = &blob[..blob.len() / 2];
        let whole = expectation(&blob, &tar);
        let error = attempt(cut, &whole).unwrap_err();
        assert!(matches!(error, ExtractError::BlobTooShort { .. }), "{error}");
        let error = attempt(cut, &expectation(cut, &tar)).unwrap_err();
        assert!(matches!(error, ExtractError::Truncated(_)), "{error}");
    }
    let cut = gzip(&tar[..tar.len() - 1024 - 700]);
    assert!(matches!(attempt(&cut, &expectation(&cut, &tar)), Err(ExtractError::Truncated(_))));
    let mut damaged = gzip(&tar);
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    let error = attempt(&damaged, &expectation(&damaged, &tar)).unwrap_err();
    assert!(matches!(error, ExtractError::Decompress { .. } | ExtractError::Archive(_)), "{error}");
}

#[test]
fn a_failing_reader_is_the_cause() {
    struct Failing(Vec<u8>);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match std::mem::take(&mut self.0) {
                bytes if bytes.is_empty() => Err(std::io::Error::other("connection reset")),
                bytes => {
                    buffer[..1].copy_from_slice(&bytes[..1]);
                    self.0 = bytes[1..].to_vec();
                    Ok(1)
                }
            }
        }
    }
    let tar = Tar::new().file("f", "x").finish();
    for blob in [gzip(&tar), tar.clone(), vec![]] {
        let scratch = tempfile::tempdir().unwrap();
        let mut expected = expectation(&blob, &tar);
        expected.size += 10;
        let input = Failing(blob);
        let error = extract_layer(input, Compression::Gzip, &expected, scratch.path(), &Limits::default());
        let error = error.unwrap_err();
        assert!(matches!(&error, ExtractError::Input(e) if e.to_string() == "connection reset"), "{error}");
    }
}

/// When unpacking fails, the reader is let go of, so that a fetch that waits in it ends.
#[test]
fn a_failure_ends_the_fetch() {
    struct Endless {
        _alive: std::sync::mpsc::Sender<()>,
    }
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(0x55);
            Ok(buffer.len())
        }
    }
    let (alive, ended) = std::sync::mpsc::channel();
    let scratch = tempfile::tempdir().unwrap();
    let expected = LayerExpectation { size: u64::MAX, ..expectation(b"", b"") };
    let error = extract_layer(
        Endless { _alive: alive },
        Compression::None,
        &expected,
        scratch.path(),
        &Limits::default(),
    );
    assert!(matches!(error, Err(ExtractError::Archive(_))), "{error:?}");
    assert_eq!(ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
}

#[test]
fn a_full_disk_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let _mount = SmallDisk::new(scratch.path());
    let limits = Limits::default();
    let big = tar();
    let by_bytes = extract(&big, &big, &scratch.path().join("a"), &limits);
    std::fs::remove_dir_all(scratch.path().join("a")).unwrap();
    let many = (0..100).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), "")).finish();
    let by_inodes = extract(&many, &many, &scratch.path().join("b"), &limits);
    for result in [by_bytes, by_inodes] {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("no space is left") && message.contains(scratch.path().to_str().unwrap()),
            "{message}"
        );
    }
}

/// A fetch that feeds a channel: whole, broken off by the peer, and given up after an error.
#[tokio::test]
async fn a_blob_may_arrive_in_pieces() {
    let tar = tar();
    let blob = gzip(&tar);
    let fetch = async |end: Option<std::io::Error>, count: usize| {
        let (sender, pieces) = tokio::sync::mpsc::channel(2);
        let (expected, scratch) = (expectation(&blob, &tar), tempfile::tempdir().unwrap());
        let extraction = tokio::task::spawn_blocking(move || {
            let input = ChannelReader::new(pieces);
            extract_layer(input, Compression::Gzip, &expected, scratch.path(), &Limits::default())
        });
        for piece in blob.chunks(10_000).take(count) {
            sender.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
        }
        if let Some(error) = end {
            sender.send(Err(error)).await.unwrap();
        }
        drop(sender);
        extraction.await.unwrap()
    };
    assert_eq!(fetch(None, usize::MAX).await.unwrap().inodes, 3);
    assert!(matches!(fetch(None, 3).await, Err(ExtractError::BlobTooShort { actual: 30_000, .. })));
    let reset = std::io::Error::other("connection reset");
    assert!(matches!(fetch(Some(reset), 3).await, Err(ExtractError::Input(_))));
}
