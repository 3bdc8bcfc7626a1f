//! What can go wrong with an archive of images.

use std::io;
use std::path::PathBuf;

use crate::image::digest::Digest;
use crate::image::extract::ExtractError;
use crate::image::reference::Reference;
use crate::image::store::StoreError;

/// An archive that cannot be imported, or an image that cannot be exported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ArchiveError {
    #[error("cannot {operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("the archive is not valid {format} data")]
    Decompress {
        format: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the archive cannot be decompressed")]
    Compression(#[source] ExtractError),
    #[error("cannot keep the archive's content in the image store")]
    Spool(#[source] io::Error),
    #[error("the archive is larger than {limit} bytes when it is decompressed")]
    SpoolLimit { limit: u64 },
    #[error("the archive is not a valid tar")]
    Tar(#[source] tar_core::parse::ParseError),
    #[error("the archive ends in the middle of {0}: copy it again")]
    Truncated(String),
    #[error("the archive has more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("the archive's entry {name:?} is refused: {reason}")]
    Entry { name: String, reason: &'static str },
    #[error("it is no image archive: it has neither an index.json (OCI) nor a manifest.json (docker save)")]
    NoImages,
    #[error("the archive has no {0:?}")]
    Missing(String),
    #[error("{name:?} of the archive has more than {limit} bytes")]
    TooLarge { name: String, limit: u64 },
    #[error("{name:?} of the archive has {actual} bytes where {expected} were announced")]
    Size { name: String, expected: u64, actual: u64 },
    #[error("{name:?} of the archive has the digest {actual} where {expected} was expected")]
    Digest { name: String, expected: Digest, actual: Digest },
    #[error("{name:?} of the archive: {reason}")]
    Document { name: String, reason: String },
    #[error("unpack {layer} of the archive")]
    Layer {
        layer: String,
        #[source]
        source: ExtractError,
    },
    #[error("no image of the archive has the name {name}; it has {}", list(.names))]
    NoSuchName { name: Reference, names: Vec<String> },
    #[error("{0} is not a name for an image: give NAME:TAG, without a digest")]
    NameWithDigest(Reference),
    #[error("there is no image {0}")]
    NoImage(String),
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ArchiveError {
    pub(super) fn document(name: &str, reason: &(impl ToString + ?Sized)) -> Self {
        Self::Document { name: name.to_owned(), reason: reason.to_string() }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "no names".to_owned(),
        some => some.join(", "),
    }
}
