//! What can go wrong with an image, and what each failure means to a client.

use super::digest::Digest;
use super::extract::ExtractError;
use super::reference::InvalidReference;
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
    /// What the registry serves is not what it promises, or not what podd can use.
    Corrupt,
    /// The disk is full.
    NoSpace,
    /// The node's own failure.
    Internal,
}

impl ImageError {
    /// What it means to a client.
    pub fn kind(&self) -> ImageErrorKind {
        match self {
            Self::Reference(_) | Self::Credentials(_) => ImageErrorKind::Invalid,
            Self::NoImage(_) => ImageErrorKind::NotFound,
            Self::Registry(error) => match error.kind() {
                ErrorKind::NotFound => ImageErrorKind::NotFound,
                ErrorKind::Unauthorized | ErrorKind::Denied => ImageErrorKind::Denied,
                ErrorKind::Unavailable => ImageErrorKind::Unavailable,
                ErrorKind::TooLarge | ErrorKind::Invalid | ErrorKind::DigestMismatch => {
                    ImageErrorKind::Corrupt
                }
            },
            Self::Layer { source: ExtractError::NoSpace(_), .. } | Self::Store(StoreError::NoSpace(_)) => {
                ImageErrorKind::NoSpace
            }
            Self::Layer { source: ExtractError::Staging { .. }, .. } => ImageErrorKind::Internal,
            Self::Layer { .. } => ImageErrorKind::Corrupt,
            Self::Store(StoreError::Ambiguous { .. }) => ImageErrorKind::Invalid,
            Self::Store(_) | Self::Setup(_) | Self::NoSource { .. } => ImageErrorKind::Internal,
        }
    }
}
