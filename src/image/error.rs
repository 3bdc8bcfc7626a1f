//! What can go wrong with an image, and what each failure means to a client.

use std::io;

use rustix::io::Errno;

use super::digest::Digest;
use super::extract::ExtractError;
use super::policy::PolicyError;
use super::reference::{InvalidReference, Reference};
use super::registries::LoadError;
use super::registry::{CredentialsError, ErrorKind, RegistryError, SetupError};
use super::store::StoreError;

/// A failed operation on an image.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    #[error("the credentials of the request cannot be used")]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("unpack layer {layer} of {reference}")]
    Layer {
        reference: String,
        layer: Digest,
        #[source]
        source: ExtractError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no image {0:?}")]
    NoImage(String),
    #[error(
        "no registry is known for layer {index} of image {image}: it has neither tag nor repository digest"
    )]
    NoSource { image: Digest, index: usize },
    #[error("cannot get ready to speak to registries")]
    Setup(#[from] SetupError),
    #[error("images.inflate = \"isal\" cannot be had; use \"zlib-rs\"")]
    Inflate(#[source] io::Error),
    #[error(transparent)]
    Registries(#[from] LoadError),
    #[error(
        "short name {name:?} may mean {}, and short-name-mode is enforcing: write the registry's name too", list(.candidates)
    )]
    AmbiguousName { name: String, candidates: Vec<Reference> },
    #[error("short name {name:?} was not found under any of its names: {}", outcomes(.failures))]
    NoCandidate { name: String, failures: Vec<ImageError> },
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No signature is kept with the image, but the policy asks for one.
    #[error(
        "no signature is kept with the image on this node: pull {0} again, so that its signatures are fetched"
    )]
    NoSignatureKept(String, #[source] PolicyError),
}

/// What a failure means to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageErrorKind {
    /// There is no such image.
    NotFound,
    /// The registry refuses it to these credentials.
    Denied,
    /// The registry cannot be reached or is out of order; trying again later may help.
    Unavailable,
    /// The request is wrong.
    Invalid,
    /// The signature policy does not let it be used.
    Untrusted,
    /// What the registry serves is not what it promises, or not what podd can use.
    Corrupt,
    /// The disk is full.
    NoSpace,
    /// The node's own failure.
    Internal,
}

impl ImageErrorKind {
    /// Its name for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Invalid => "invalid",
            Self::Untrusted => "untrusted",
            Self::Corrupt => "corrupt",
            Self::NoSpace => "no_space",
            Self::Internal => "internal",
        }
    }
}

impl ImageError {
    /// What it means to a client.
    pub fn kind(&self) -> ImageErrorKind {
        match self {
            Self::Reference(_) | Self::Credentials(_) => ImageErrorKind::Invalid,
            Self::NoImage(_) => ImageErrorKind::NotFound,
            Self::Registry(error) => match error.kind() {
                ErrorKind::NotFound => ImageErrorKind::NotFound,
                ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::Refused => ImageErrorKind::Denied,
                ErrorKind::Unavailable => ImageErrorKind::Unavailable,
                ErrorKind::TooLarge | ErrorKind::Invalid | ErrorKind::DigestMismatch => {
                    ImageErrorKind::Corrupt
                }
            },
            Self::Layer { source: ExtractError::NoSpace(_), .. } | Self::Store(StoreError::NoSpace(_)) => {
                ImageErrorKind::NoSpace
            }
            Self::Layer { source: ExtractError::Staging { .. }, .. } => ImageErrorKind::Internal,
            Self::Layer { source: ExtractError::Entry { source, .. }, .. } if is_of_the_node(source) => {
                ImageErrorKind::Internal
            }
            Self::Layer { .. } => ImageErrorKind::Corrupt,
            Self::Store(StoreError::Ambiguous { .. }) => ImageErrorKind::Invalid,
            Self::AmbiguousName { .. } => ImageErrorKind::Invalid,
            // What may pass or can be mended says more than "not found".
            Self::NoCandidate { failures, .. } => {
                let kinds = failures.iter().map(Self::kind);
                kinds
                    .clone()
                    .find(|kind| *kind != ImageErrorKind::NotFound)
                    .unwrap_or(ImageErrorKind::NotFound)
            }
            Self::Policy(_) | Self::NoSignatureKept(..) => ImageErrorKind::Untrusted,
            Self::Store(_)
            | Self::Setup(_)
            | Self::Inflate(_)
            | Self::Registries(_)
            | Self::NoSource { .. } => ImageErrorKind::Internal,
        }
    }
}

/// Whether the kernel refused because of the disk or of the node, and not because of what a layer wants.
fn is_of_the_node(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::IO | Errno::ROFS | Errno::NOMEM | Errno::NFILE | Errno::MFILE))
}

fn list(references: &[Reference]) -> String {
    references.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

fn outcomes(failures: &[ImageError]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
