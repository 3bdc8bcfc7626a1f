//! The bodies of answers, with a bound on their size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use super::error::{Context, ErrorKind, RegistryError};

/// Reads a body of at most `limit` bytes within `time`.
pub(super) async fn read_body(
    mut response: Response,
    limit: usize,
    time: Duration,
    context: &Context,
) -> Result<Bytes, RegistryError> {
    let too_large = || context.error(ErrorKind::TooLarge, format!("more than {limit} bytes"));
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| context.transport(e))? {
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    match tokio::time::timeout(time, read).await {
        Ok(result) => result,
        Err(_) => Err(context.unavailable(format!("the answer was not complete within {time:?}"))),
    }
}
