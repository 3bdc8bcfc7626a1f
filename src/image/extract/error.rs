//! What can go wrong between a layer's blob and its files.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::image::digest::Digest;

/// A layer that could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ExtractError {
    #[error("reading the layer's blob failed")]
    Input(#[source] io::Error),
    #[error("the layer is not valid {format} data")]
    Decompress {
        format: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the layer is compressed with {0}, which is not supported: use gzip, zstd or none")]
    UnsupportedCompression(&'static str),
    #[error("the layer ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("the layer is not a valid tar archive")]
    Archive(#[source] tar_core::parse::ParseError),
    #[error("the layer's entry {path:?} is refused: {reason}")]
    Refused { path: String, reason: String },
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("cannot {operation} {path:?} of the layer")]
    Entry {
        operation: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot {operation} {}", path.display())]
    Staging {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no space is left on the file system of {}: free some, or give the image store more", .0.display())]
    NoSpace(PathBuf),
    #[error("the layer's blob has {actual} bytes or more where its descriptor says {expected}")]
    BlobTooLong { expected: u64, actual: u64 },
    #[error("the layer's blob ended after {actual} of {expected} bytes")]
    BlobTooShort { expected: u64, actual: u64 },
    #[error("the layer's blob has the digest {actual} where {expected} was asked for")]
    BlobDigest { expected: Digest, actual: Digest },
    #[error("the layer unpacks to {actual} where the image's configuration says {expected}")]
    DiffId { expected: Digest, actual: Digest },
}

impl ExtractError {
    pub(super) fn refused(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Refused { path: String::from_utf8_lossy(path).into_owned(), reason: reason.into() }
    }

    /// An error of the kernel about one entry; a full disk is told apart, whatever was being done.
    pub(super) fn entry(operation: &'static str, path: &[u8], staging: &Path, source: Errno) -> Self {
        match source {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace(staging.to_owned()),
            source => {
                let path = String::from_utf8_lossy(path).into_owned();
                Self::Entry { operation, path, source: source.into() }
            }
        }
    }

    /// An error of the kernel about the staging directory itself.
    pub(super) fn staging(operation: &'static str, path: &Path, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace(path.to_owned()),
            _ => Self::Staging { operation, path: path.to_owned(), source },
        }
    }
}
