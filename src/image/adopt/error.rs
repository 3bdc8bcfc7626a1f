//! What can go wrong while images of another runtime are taken over.

use std::io;
use std::path::PathBuf;

use crate::image::archive::ArchiveError;
use crate::image::digest::Digest;
use crate::image::extract::ExtractError;
use crate::image::store::StoreError;

/// An image, or a whole store, that cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AdoptError {
    #[error("there is no image store of containerd or CRI-O in {}: name one with --root", .0.display())]
    NoStore(PathBuf),
    #[error("both containerd and CRI-O have an image store here: choose with --from")]
    TwoStores,
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the database {} cannot be read: {reason}", path.display())]
    Database { path: PathBuf, reason: &'static str },
    #[error("{} cannot be read: {reason}", path.display())]
    Document { path: PathBuf, reason: String },
    #[error("the image is not whole")]
    Content(#[from] ArchiveError),
    #[error("it is an artifact ({0:?}), not a container image")]
    Artifact(String),
    #[error("layer {0} is neither a blob nor a snapshot there")]
    NoLayer(Digest),
    #[error("layer {layer}: {reason}")]
    Layer { layer: String, reason: String },
    #[error("take layer {layer}")]
    Unpack {
        layer: String,
        #[source]
        source: ExtractError,
    },
    #[error("cannot {operation} {path:?} of the layer in {}", tree.display())]
    Tree {
        operation: &'static str,
        tree: PathBuf,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} of the layer in {} is refused: {reason}", tree.display())]
    Refused { tree: PathBuf, path: String, reason: &'static str },
    #[error("the layer in {} is on another file system or mount than podd's store, so its files cannot be linked", .0.display())]
    OtherFileSystem(PathBuf),
    #[error("the file system of {} cannot share the content of files (reflink)", .0.display())]
    NoReflink(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreError),
}
