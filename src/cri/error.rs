//! The one table from errors to gRPC codes, and the one place where a failure is logged with its whole chain.

use std::borrow::Borrow;
use std::error::Error;
use std::io::{self, ErrorKind};

use tonic::{Code, Status};

use crate::image::{ImageError, ImageErrorKind};
use crate::pod::{PodError, chain};

/// The longest message that is sent, in bytes; gRPC carries it in a header, which clients bound.
const MESSAGE_MAX: usize = 4096;

/// A failed operation of a pod or container as the client gets it.
pub(super) fn pod(rpc: &'static str, error: impl Borrow<PodError>) -> Status {
    let error = error.borrow();
    let code = match error {
        PodError::NotFound { .. } | PodError::NoImage(_) => Code::NotFound,
        PodError::Ambiguous { .. } | PodError::Invalid { .. } | PodError::UnknownHandler { .. } => {
            Code::InvalidArgument
        }
        PodError::State { .. } => Code::FailedPrecondition,
        PodError::Exists { .. } => Code::AlreadyExists,
        PodError::ExecTimeout { .. } => Code::DeadlineExceeded,
        PodError::Stopping => Code::Unavailable,
        PodError::Stage { source, .. } => stage_code(source.as_ref()),
    };
    answer(rpc, code, error)
}

/// A failed operation of an image as the client gets it.
pub(super) fn image(rpc: &'static str, error: &ImageError) -> Status {
    answer(rpc, image_code(error.kind()), error)
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
        ImageErrorKind::Unavailable => Code::Unavailable,
        ImageErrorKind::Invalid => Code::InvalidArgument,
        ImageErrorKind::Corrupt => Code::DataLoss,
        ImageErrorKind::NoSpace => Code::ResourceExhausted,
        ImageErrorKind::Internal => Code::Internal,
    }
}

fn answer(rpc: &'static str, code: Code, error: &dyn Error) -> Status {
    let mut message = chain(error);
    match code {
        Code::NotFound | Code::InvalidArgument => tracing::info!(rpc, ?code, "{message}"),
        _ => tracing::warn!(rpc, ?code, "{message}"),
    }
    if message.len() > MESSAGE_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
    }
    Status::new(code, message)
}
