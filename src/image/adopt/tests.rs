//! Databases, notes and trees, whole and damaged. What real stores give is tested from outside, with the programs that made
//! them. These tests need root.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::Mode;
use super::bolt::{Bolt, Bucket, Value};
use super::error::AdoptError;
use super::split::Split;
use super::tree::{self, Manner};
use crate::image::extract::{FILES, Limits, Listed, fingerprint, read_inventory};
use crate::sys::fs;

const PAGE: usize = 512;

/// A page with a header and what follows.
fn page(number: u64, flags: u16, count: u16, body: &[u8]) -> Vec<u8> {
    let mut page = number.to_ne_bytes().to_vec();
    page.extend(flags.to_ne_bytes());
    page.extend(count.to_ne_bytes());
    page.extend(0u32.to_ne_bytes());
    page.extend_from_slice(body);
    assert!(page.len() <= PAGE);
    page
}

fn padded(mut page: Vec<u8>) -> Vec<u8> {
    page.resize(PAGE, 0);
    page
}

/// The elements of a leaf.
fn leaf(entries: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let (mut heads, mut tail) = (Vec::new(), Vec::new());
    for (index, (flags, key, value)) in entries.iter().enumerate() {
        let position = (entries.len() - index) * 16 + tail.len();
        for number in [*flags as usize, position, key.len(), value.len()] {
            heads.extend(u32::try_from(number).unwrap().to_ne_bytes());
        }
        tail.extend_from_slice(key);
        tail.extend_from_slice(value);
    }
    [heads, tail].concat()
}

fn branch(entries: &[(&[u8], u64)]) -> Vec<u8> {
    let (mut heads, mut tail) = (Vec::new(), Vec::new());
    for (index, (key, number)) in entries.iter().enumerate() {
        let position = (entries.len() - index) * 16 + tail.len();
        heads.extend(u32::try_from(position).unwrap().to_ne_bytes());
        heads.extend(u32::try_from(key.len()).unwrap().to_ne_bytes());
        heads.extend(number.to_ne_bytes());
        tail.extend_from_slice(key);
    }
    [heads, tail].concat()
}

fn meta(number: u64, transaction: u64, root: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for word in [0xED0C_DAEDu32, 2, u32::try_from(PAGE).unwrap(), 0] {
        body.extend(word.to_ne_bytes());
    }
    for word in [root, 0, 2, 9, transaction] {
        body.extend(word.to_ne_bytes());
    }
    let sum = body.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    body.extend(sum.to_ne_bytes());
    padded(page(number, 4, 0, &body))
}

/// A root that is a branch over two leaves, with a bucket inside a value and one on a page of its own.
fn database() -> Vec<u8> {
    let inline = page(0, 2, 1, &leaf(&[(0, b"inner", b"one")]));
    let inline = [&[0; 16][..], &inline].concat();
    let outside = [&6u64.to_ne_bytes()[..], &[0; 8]].concat();
    [
        meta(0, 7, 3),
        meta(1, 6, 99),
        padded(page(2, 16, 0, b"")),
        padded(page(3, 1, 2, &branch(&[(b"a", 4), (b"m", 5)]))),
        padded(page(4, 2, 2, &leaf(&[(0, b"a", b"first"), (1, b"b", &inline)]))),
        padded(page(5, 2, 2, &leaf(&[(1, b"m", &outside), (0, b"z", b"last")]))),
        padded(page(6, 2, 1, &leaf(&[(0, b"far", b"two")]))),
    ]
    .concat()
}

fn count(bucket: Bucket<'_>, depth: usize) -> Result<usize, &'static str> {
    let mut sum = 0;
    for (_, value) in bucket.entries()? {
        sum += match value {
            Value::Bucket(inner) if depth > 0 => count(inner, depth - 1)?,
            Value::Bucket(_) | Value::Bytes(_) => 1,
        };
    }
    Ok(sum)
}

#[test]
fn buckets_are_found_on_pages_and_in_values() {
    let bolt = Bolt::of(database()).ok().unwrap();
    let root = bolt.root().unwrap();
    let keys: Vec<_> = root.entries().unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"a", b"b", b"m", b"z"]);
    assert_eq!(root.bytes("z").unwrap(), Some(&b"last"[..]));
    assert_eq!(root.bytes("b").unwrap(), None);
    assert_eq!(root.bytes("nothing").unwrap(), None);
    assert_eq!(root.bucket(&["b"]).unwrap().unwrap().bytes("inner").unwrap(), Some(&b"one"[..]));
    assert_eq!(root.bucket(&["m"]).unwrap().unwrap().bytes("far").unwrap(), Some(&b"two"[..]));
    assert!(root.bucket(&["m", "far"]).unwrap().is_none());
    assert_eq!(count(root, 4), Ok(4));
}

#[test]
fn the_later_of_the_valid_transactions_counts() {
    let mut bytes = database();
    // The second one would lead to a page that is not there.
    bytes[PAGE..2 * PAGE].copy_from_slice(&meta(1, 8, 99));
    assert!(Bolt::of(bytes.clone()).ok().unwrap().root().is_err());
    bytes[PAGE + 20] ^= 1;
    assert!(Bolt::of(bytes.clone()).ok().unwrap().root().is_ok());
    bytes[..PAGE].fill(0);
    assert!(Bolt::of(bytes.clone()).is_err());
    bytes[PAGE..2 * PAGE].copy_from_slice(&meta(1, 8, 3));
    assert!(Bolt::of(bytes).ok().unwrap().root().is_ok());
    for bytes in [vec![], vec![0; 100], vec![0xff; 10_000]] {
        assert!(Bolt::of(bytes).is_err());
    }
}

#[test]
fn circles_end() {
    let mut bytes = database();
    bytes[3 * PAGE..4 * PAGE].copy_from_slice(&padded(page(3, 1, 1, &branch(&[(b"a", 3)]))));
    let bolt = Bolt::of(bytes).ok().unwrap();
    assert!(bolt.root().unwrap().entries().is_err());
    assert!(bolt.root().unwrap().get(b"a").is_err());
}

/// Takes what `make` puts into a directory; gives the directory that it is in then.
fn taken(mode: Mode, make: impl FnOnce(&Path)) -> Result<(tempfile::TempDir, PathBuf), AdoptError> {
    let scratch = tempfile::tempdir().unwrap();
    let from = scratch.path().join("from");
    std::fs::create_dir(&from).unwrap();
    make(&from);
    let manner = Manner { mode, read: false, limits: &Limits::default() };
    tree::take(&from, scratch.path(), manner, None, &AtomicBool::new(false))?;
    let to = scratch.path().join(FILES);
    Ok((scratch, to))
}

#[test]
fn a_layer_that_exceeds_the_configured_size_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let from = scratch.path().join("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("large"), vec![1; 2 << 20]).unwrap();
    let limits = |max_unpacked_bytes| Limits { max_unpacked_bytes, ..Limits::default() };
    for (most, fits) in [(4 << 20, true), (1 << 20, false)] {
        let staging = tempfile::tempdir_in(scratch.path()).unwrap();
        let manner = Manner { mode: Mode::Copy, read: false, limits: &limits(most) };
        let taken = tree::take(&from, staging.path(), manner, None, &AtomicBool::new(false));
        assert_eq!(taken.is_ok(), fits, "{most}");
    }
}

#[test]
fn files_are_linked_or_copied_with_their_holes_and_links() {
    for mode in [Mode::Hardlink, Mode::Copy] {
        let (scratch, to) = taken(mode, |from| {
            let sparse = std::fs::File::create(from.join("sparse")).unwrap();
            sparse.write_all_at(b"data", 5 << 20).unwrap();
            sparse.set_len(9 << 20).unwrap();
            std::fs::write(from.join("one"), "one").unwrap();
            std::fs::hard_link(from.join("one"), from.join("two")).unwrap();
            std::os::unix::fs::symlink("/etc", from.join("link")).unwrap();
            std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
        })
        .unwrap();
        let stat = |name: &str| to.join(name).symlink_metadata().unwrap();
        let original = scratch.path().join("from/one").metadata().unwrap();
        assert_eq!(stat("one").ino() == original.ino(), mode == Mode::Hardlink);
        assert_eq!(stat("one").ino(), stat("two").ino());
        assert_eq!((stat("sparse").len(), stat("sparse").blocks() < 1000), (9 << 20, true));
        let content = std::fs::read(to.join("sparse")).unwrap();
        assert!(
            &content[5 << 20..(5 << 20) + 4] == b"data" && content.iter().filter(|&&b| b != 0).count() == 4
        );
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/etc"));
        assert!(!to.join("socket").exists());
    }
}

#[test]
fn what_was_taken_is_listed_and_content_that_was_read_has_its_fingerprint() {
    for (mode, read, printed) in
        [(Mode::Copy, false, true), (Mode::Hardlink, false, false), (Mode::Hardlink, true, true)]
    {
        let scratch = tempfile::tempdir().unwrap();
        let from = scratch.path().join("from");
        std::fs::create_dir_all(from.join("dir")).unwrap();
        std::fs::write(from.join("dir/file"), "content").unwrap();
        std::fs::hard_link(from.join("dir/file"), from.join("twin")).unwrap();
        let holes = std::fs::File::create(from.join("holes")).unwrap();
        holes.set_len(1 << 30).unwrap();
        fs::set_xattr(holes.as_fd(), b"user.one", b"1").unwrap();
        let root = fs::open_directory(&from).unwrap();
        fs::make_whiteout(root.as_fd(), b"gone").unwrap();
        fs::make_node(root.as_fd(), b"null", rustix::fs::FileType::CharacterDevice, 1, 3).unwrap();
        std::os::unix::fs::symlink("dir", from.join("link")).unwrap();
        let listed = BTreeSet::from([Vec::new()]);
        let stop = AtomicBool::new(false);
        tree::take(
            &from,
            scratch.path(),
            Manner { mode, read, limits: &Limits::default() },
            Some(&listed),
            &stop,
        )
        .unwrap();
        let files = read_inventory(scratch.path()).unwrap();
        let names: Vec<_> = files.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["", "dir", "dir/file", "gone", "holes", "link", "null", "twin"]);
        let print = fingerprint(&b"content"[..]).unwrap().1;
        for name in [&b"dir/file"[..], b"twin"] {
            let Listed::File { metadata, size: 7, print: found } = files[name] else { panic!("{files:?}") };
            assert_eq!((found, metadata.mode), (printed.then_some(print), 0o644), "{mode:?}");
        }
        let Listed::File { metadata, size, print: None } = files[&b"holes"[..]] else { panic!("{files:?}") };
        assert_eq!((size, metadata.attributes), (1 << 30, 1));
        assert!(matches!(&files[&b"link"[..]], Listed::Link { target, .. } if target == b"dir"));
        assert!(matches!(files[&b"null"[..]], Listed::Node { device: (1, 3), .. }));
        assert!(matches!(files[&b"gone"[..]], Listed::Whiteout));
        assert!(matches!(files[&b"dir"[..]], Listed::ImpliedDirectory));
        assert!(matches!(files[&b""[..]], Listed::Directory(_)));
    }
}

#[test]
fn what_an_overlay_would_take_from_elsewhere_is_refused() {
    for name in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
        for mode in [Mode::Hardlink, Mode::Copy] {
            let refused = taken(mode, |from| {
                std::fs::write(from.join("file"), "").unwrap();
                let file = std::fs::File::open(from.join("file")).unwrap();
                fs::set_xattr(file.as_fd(), name.as_bytes(), b"/other").unwrap();
            });
            assert!(matches!(refused, Err(AdoptError::Refused { .. })), "{name}");
        }
    }
}

#[test]
fn unlisted_directories_are_left_to_the_layers_below() {
    let scratch = tempfile::tempdir().unwrap();
    let from = scratch.path().join("from");
    std::fs::create_dir_all(from.join("listed/unlisted")).unwrap();
    let directory = fs::open_directory(&from.join("listed/unlisted")).unwrap();
    fs::set_owner_and_mode(directory.as_fd(), 7, 7, 0o700).unwrap();
    let listed = BTreeSet::from([b"listed".to_vec()]);
    let stop = AtomicBool::new(false);
    let manner = Manner { mode: Mode::Copy, read: false, limits: &Limits::default() };
    let extracted = tree::take(&from, scratch.path(), manner, Some(&listed), &stop).unwrap();
    assert_eq!(extracted.implied_directories, [Path::new(""), Path::new("listed/unlisted")]);
    let stat = scratch.path().join(FILES).join("listed/unlisted").metadata().unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (0, 0o755));
}

/// What the notes give with a directory that has a file `a` of three bytes, and a secret beside it.
fn split(notes: &str) -> Result<Vec<u8>, String> {
    let scratch = tempfile::tempdir().unwrap();
    let tree: PathBuf = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("a"), "abc").unwrap();
    std::fs::write(scratch.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", tree.join("link")).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(notes.as_bytes()).unwrap();
    let path = scratch.path().join("notes");
    std::fs::write(&path, encoder.finish().unwrap()).unwrap();
    let mut split = Split::open(&path, &tree).map_err(|e| e.to_string())?;
    let mut content = Vec::new();
    split.read_to_end(&mut content).map_err(|e| e.to_string())?;
    assert_eq!(content.len() as u64, split.size());
    Ok(content)
}

#[test]
fn an_archive_is_put_together_of_notes_and_files() {
    let notes = "{\"type\":2,\"payload\":\"aGVhZA==\",\"position\":0}\n{\"type\":1,\"name\":\"./a\",\"size\":3,\"position\":1}\n\
                 {\"type\":1,\"name\":\"dir/\",\"position\":2}\n{\"type\":2,\"payload\":\"dGFpbA==\",\"position\":3}\n";
    assert_eq!(split(notes), Ok(b"headabctail".to_vec()));
    assert_eq!(split(""), Ok(Vec::new()));
}

#[test]
fn notes_that_lie_fail() {
    for name in ["../secret", "link", "/../secret", "missing", ""] {
        let refused = split(&format!("{{\"type\":1,\"name\":\"{name}\",\"size\":6}}"));
        assert!(refused.is_err(), "{name}: {refused:?}");
    }
    assert!(split("{\"type\":1,\"name\":\"a\",\"size\":4}").unwrap_err().contains("shorter"));
    for notes in ["{", "{\"type\":9}", "{\"type\":2,\"payload\":\"%\"}", "[]"] {
        assert!(split(notes).is_err(), "{notes}");
    }
}

proptest! {
    #[test]
    fn damage_is_an_error_and_never_a_panic(at in 0usize..7 * PAGE, byte: u8, length in 0usize..7 * PAGE) {
        let mut bytes = database();
        bytes[at] = byte;
        for bytes in [bytes.clone(), bytes[..length].to_vec()] {
            if let Ok(bolt) = Bolt::of(bytes)
                && let Ok(root) = bolt.root()
            {
                let _ = count(root, 4);
                for key in ["a", "b", "m", "z"] {
                    let _ = root.get(key.as_bytes()).map(drop);
                }
            }
        }
    }
}
