//! Compressed bytes in, tar bytes out: the blob is hashed and counted as it is read, and unpacked by what it is.
//!
//! A descriptor's media type may lie ("tar" layers are often gzip), so the first bytes decide.

use std::io::{self, BufReader, Chain, Cursor, Read};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::error::ExtractError;
use super::gunzip::Gunzip;
use super::stream::Pool;
use crate::image::digest::Digest;

/// How much is read from the blob at a time.
const READ_SIZE: usize = 128 * 1024;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// Zstandard, of one or more frames.
    Zstd,
}

impl Compression {
    /// What the first bytes of a blob say; `None` when they belong to no format that is known.
    pub(in crate::image) fn detect(start: &[u8]) -> Result<Option<Self>, ExtractError> {
        Ok(match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A skippable frame, with which seekable zstd formats may start.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(ExtractError::UnsupportedCompression("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => {
                return Err(ExtractError::UnsupportedCompression("bzip2"));
            }
            _ => None,
        })
    }
}

/// A reader that hashes and counts what passes, and refuses to read more than was announced.
struct Blob<R> {
    input: R,
    hash: Sha256,
    count: u64,
    announced: u64,
    failure: Option<ExtractError>,
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buffer) {
                Ok(n) => {
                    self.hash.update(&buffer[..n]);
                    self.count += n as u64;
                    if self.count <= self.announced {
                        return Ok(n);
                    }
                    let (expected, actual) = (self.announced, self.count);
                    self.failure = Some(ExtractError::BlobTooLong { expected, actual });
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => self.failure = Some(ExtractError::Input(e)),
            }
            // The decoders pass this on; the cause is kept aside, where no decoder can disguise it.
            return Err(io::Error::other("the blob cannot be read"));
        }
    }
}

type Body<R> = BufReader<Chain<Cursor<Vec<u8>>, Blob<R>>>;

enum Format<R: Read> {
    Plain(Body<R>),
    Gzip(Box<Gunzip<Body<R>>>),
    Zstd(zstd::Decoder<'static, Body<R>>),
}

/// The tar bytes of a blob.
pub(super) struct Decoder<R: Read> {
    format: Format<R>,
    pool: Pool,
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `input`; `hint` counts only where they tell nothing.
    pub(super) fn new(input: R, hint: Compression, announced: u64) -> Result<Self, ExtractError> {
        let mut blob = Blob { input, hash: Sha256::new(), count: 0, announced, failure: None };
        let mut start = Vec::with_capacity(6);
        let read = blob.by_ref().take(6).read_to_end(&mut start);
        if let Some(failure) = blob.failure.take() {
            return Err(failure);
        }
        read.map_err(ExtractError::Input)?;
        let compression = Compression::detect(&start)?;
        if compression.is_none() && hint != Compression::None {
            tracing::debug!(?hint, "layer is a plain tar, whatever its media type says");
        }
        let body = BufReader::with_capacity(READ_SIZE, Cursor::new(start).chain(blob));
        let format = match compression.unwrap_or(Compression::None) {
            Compression::None => Format::Plain(body),
            Compression::Gzip => Format::Gzip(Box::new(Gunzip::new(body))),
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(body)
                    .map_err(|source| ExtractError::Decompress { format: "zstd", source })?;
                Format::Zstd(decoder)
            }
        };
        Ok(Self { format, pool: Pool::default() })
    }

    /// The next chunk; only the last is not a full one, and none is empty.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, ExtractError> {
        let mut chunk = self.pool.take();
        let read = match &mut self.format {
            Format::Plain(body) => chunk.fill(body),
            Format::Gzip(decoder) => chunk.fill(decoder),
            Format::Zstd(decoder) => chunk.fill(decoder),
        };
        read.map_err(|e| self.explain(e))?;
        Ok(chunk.into_bytes())
    }

    /// Reads what a decoder may have left of the blob and returns the digest of the whole.
    pub(super) fn finish(mut self) -> Result<Digest, ExtractError> {
        let rest = io::copy(self.blob(), &mut io::sink());
        let blob = self.blob();
        if let Some(failure) = blob.failure.take() {
            return Err(failure);
        }
        rest.map_err(ExtractError::Input)?;
        if blob.count < blob.announced {
            return Err(ExtractError::BlobTooShort { expected: blob.announced, actual: blob.count });
        }
        let hash = std::mem::take(&mut blob.hash);
        Ok(Digest::from_sha256(hash.finalize().into()))
    }

    fn blob(&mut self) -> &mut Blob<R> {
        let body = match &mut self.format {
            Format::Plain(body) => body,
            Format::Gzip(decoder) => decoder.get_mut(),
            Format::Zstd(decoder) => decoder.get_mut(),
        };
        body.get_mut().get_mut().1
    }

    fn explain(&mut self, source: io::Error) -> ExtractError {
        let format = match &self.format {
            Format::Plain(_) => "tar",
            Format::Gzip(_) => "gzip",
            Format::Zstd(_) => "zstd",
        };
        let blob = self.blob();
        match blob.failure.take() {
            Some(failure) => failure,
            None if source.kind() == io::ErrorKind::UnexpectedEof && blob.count < blob.announced => {
                ExtractError::BlobTooShort { expected: blob.announced, actual: blob.count }
            }
            None if source.kind() == io::ErrorKind::UnexpectedEof => ExtractError::Truncated(match format {
                "gzip" => "its gzip stream",
                _ => "its zstd stream",
            }),
            None => ExtractError::Decompress { format, source },
        }
    }
}
