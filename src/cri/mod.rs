//! The edge: converts requests, calls `pod` and `image`, renders answers, and nothing else.
//!
//! [`serve`] owns the socket and the life of the server. Reads answer from published views and wait for no operation;
//! what changes something runs detached from the client's connection (`operations.rs`).

mod authority;
mod containers;
mod error;
mod events;
mod images;
mod info;
pub(crate) mod listen;
mod metrics;
mod observe;
mod operations;
mod pods;
mod render;
mod runtime;
mod stats;
mod stream;
mod streaming;
mod validate;
mod verbose;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::api::image_service_server::ImageServiceServer;
use crate::api::runtime_service_server::RuntimeServiceServer;
use crate::pod::Pods;
use crate::streaming::Streaming;
use authority::Tolerant;
pub use listen::ListenError;
use observe::Observed;
use operations::Operations;

/// The largest message from a client (B30).
const MESSAGE_MAX: usize = 16 << 20;
/// How long a stopping daemon waits for the operations under way: a little more than a stop's usual grace.
const DRAIN: Duration = Duration::from_secs(40);
/// How long it waits after that for connections to close; clients that watch something may never do.
const CLOSE: Duration = Duration::from_secs(1);

/// The server failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the server on the socket failed")]
    Transport(#[from] tonic::transport::Error),
}

/// What both services are made of.
#[derive(Clone)]
struct Service {
    pods: Arc<Pods>,
    streaming: Streaming,
    operations: Operations,
}

/// Serves the CRI until `shutdown` resolves, then drains. `ready` is called once clients can connect.
pub async fn serve(
    socket: &Path,
    pods: Arc<Pods>,
    streaming: Streaming,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let listener = listen::bind(socket)?;
    let events = pods.events().clone();
    let service = Service { pods, streaming, operations: Operations::default() };
    let operations = service.operations.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RuntimeServiceServer<Service>>().await;
    health.set_serving::<ImageServiceServer<Service>>().await;
    let stopping = operations.clone();
    let server = Server::builder()
        .add_service(Observed(
            RuntimeServiceServer::new(service.clone()).max_decoding_message_size(MESSAGE_MAX),
        ))
        .add_service(Observed(ImageServiceServer::new(service).max_decoding_message_size(MESSAGE_MAX)))
        .add_service(health_service)
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listener).map(|client| client.map(Tolerant::new)),
            async move { stopping.stopping().await },
        );
    let mut server = tokio::spawn(server);
    ready();
    tokio::select! {
        ended = &mut server => return ended.map_or(Ok(()), |result| result.map_err(ServeError::from)),
        () = shutdown => {}
    }
    tracing::info!("stopping: waiting for the operations under way");
    operations.stop();
    let _ = std::fs::remove_file(socket);
    if tokio::time::timeout(DRAIN, operations.drained()).await.is_err() {
        tracing::warn!(
            "operations are still under way after {} s; recovery will settle them",
            DRAIN.as_secs()
        );
    }
    // Now that nothing happens any more.
    events.close();
    let _ = tokio::time::timeout(CLOSE, &mut server).await;
    server.abort();
    Ok(())
}
