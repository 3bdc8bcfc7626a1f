//! The one table from errors to gRPC codes, and the one place where a failure is logged with its whole chain.

use std::borrow::Borrow;
use std::error::Error;
use std::io::{self, ErrorKind};

use tonic::{Code, Status};

use crate::image::{ImageError, ImageErrorKind};
use crate::pod::{EventsError, PodError, chain};

/// The longest message that is sent, in bytes; gRPC carries it in a header, which clients bound.
const MESSAGE_MAX: usize = 4096;

/// By this word at the beginning of a message without a code (UNKNOWN) the kubelet knows that a registry is out of order
/// (k8s.io/cri-api, pkg/errors; evalCRIPullErr in the kubelet).
const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
/// The same for an image that the signature policy does not let be used.
const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";
/// And for an image that cannot be mounted as a volume.
const IMAGE_VOLUME_MOUNT_FAILED: &str = "ImageVolumeMountFailed";

/// A failed operation of a pod or container as the client gets it.
pub(super) fn pod(rpc: &'static str, error: impl Borrow<PodError>) -> Status {
    let error = error.borrow();
    let code = match error {
        PodError::NotFound { .. } | PodError::NoImage(_) => Code::NotFound,
        PodError::Ambiguous { .. }
        | PodError::Invalid { .. }
        | PodError::ImageVolume { .. }
        | PodError::UnknownHandler { .. } => Code::InvalidArgument,
        PodError::State { .. } | PodError::NotNow { .. } => Code::FailedPrecondition,
        PodError::Exists { .. } => Code::AlreadyExists,
        PodError::ExecTimeout { .. } => Code::DeadlineExceeded,
        PodError::Stopping => Code::Unavailable,
        PodError::Stage { source, .. } => stage_code(source.as_ref()),
    };
    let word = match error {
        PodError::Stage { source, .. } => {
            source.downcast_ref::<ImageError>().and_then(|error| word(error.kind()))
        }
        PodError::ImageVolume { .. } => Some(IMAGE_VOLUME_MOUNT_FAILED),
        PodError::NotFound { .. }
        | PodError::NoImage(_)
        | PodError::Ambiguous { .. }
        | PodError::Invalid { .. }
        | PodError::UnknownHandler { .. }
        | PodError::State { .. }
        | PodError::NotNow { .. }
        | PodError::Exists { .. }
        | PodError::ExecTimeout { .. }
        | PodError::Stopping => None,
    };
    answer(rpc, code, word, error)
}

/// A failed operation of an image as the client gets it.
pub(super) fn image(rpc: &'static str, error: &ImageError) -> Status {
    answer(rpc, image_code(error.kind()), word(error.kind()), error)
}

/// Why a client gets no events, or no more of them.
pub(super) fn events(error: EventsError) -> Status {
    let code = match error {
        EventsError::TooMany | EventsError::TooSlow => Code::ResourceExhausted,
        EventsError::Stopping => Code::Unavailable,
    };
    answer("GetContainerEvents", code, None, &error)
}

/// The word by which the kubelet tells a failure apart.
fn word(kind: ImageErrorKind) -> Option<&'static str> {
    match kind {
        ImageErrorKind::Unavailable => Some(REGISTRY_UNAVAILABLE),
        ImageErrorKind::Untrusted => Some(SIGNATURE_VALIDATION_FAILED),
        ImageErrorKind::NotFound
        | ImageErrorKind::Denied
        | ImageErrorKind::Invalid
        | ImageErrorKind::Corrupt
        | ImageErrorKind::NoSpace
        | ImageErrorKind::Internal => None,
    }
}

/// An RPC that a later version delivers.
pub(super) fn unimplemented<T>(rpc: &'static str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{rpc} is not implemented by this version of podd")))
}

fn stage_code(source: &(dyn Error + 'static)) -> Code {
    if let Some(error) = source.downcast_ref::<ImageError>() {
        return image_code(error.kind());
    }
    let mut next = Some(source);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) = kind {
            return Code::ResourceExhausted;
        }
        next = cause.source();
    }
    Code::Internal
}

fn image_code(kind: ImageErrorKind) -> Code {
    match kind {
        ImageErrorKind::NotFound => Code::NotFound,
        ImageErrorKind::Denied => Code::PermissionDenied,
        // The kubelet takes its words only from messages without a code.
        ImageErrorKind::Unavailable | ImageErrorKind::Untrusted => Code::Unknown,
        ImageErrorKind::Invalid => Code::InvalidArgument,
        ImageErrorKind::Corrupt => Code::DataLoss,
        ImageErrorKind::NoSpace => Code::ResourceExhausted,
        ImageErrorKind::Internal => Code::Internal,
    }
}

fn answer(rpc: &'static str, code: Code, word: Option<&'static str>, error: &dyn Error) -> Status {
    let mut message = chain(error);
    if let Some(word) = word {
        message.insert_str(0, ": ");
        message.insert_str(0, word);
    }
    match code {
        Code::NotFound | Code::InvalidArgument => tracing::info!(rpc, ?code, "{message}"),
        _ => tracing::warn!(rpc, ?code, "{message}"),
    }
    if message.len() > MESSAGE_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
    }
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::policy::PolicyError;

    /// The kubelet looks for its words at the very beginning, and only where there is no code.
    #[test]
    fn an_image_that_is_not_trusted_is_told_in_the_words_of_the_kubelet() {
        let untrusted = || ImageError::from(PolicyError::Missing("/etc/p.json".into()));
        let of_pull = image("PullImage", &untrusted());
        let took = std::time::Duration::from_millis(1);
        let stage =
            PodError::Stage { stage: "s", object: "o".to_owned(), took, source: Box::new(untrusted()) };
        for status in [of_pull, pod("CreateContainer", stage)] {
            assert_eq!(status.code(), Code::Unknown);
            assert!(status.message().starts_with("SignatureValidationFailed: "), "{}", status.message());
            assert!(status.message().contains("/etc/p.json"), "{}", status.message());
        }
    }
}
