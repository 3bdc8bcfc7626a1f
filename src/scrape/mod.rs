//! The Prometheus endpoint: `GET /metrics` over TCP, with TLS or without, and over a unix socket.
//!
//! ```text
//!  connection ─► one of CONNECTIONS_MAX ─► HTTP/1 ─► GET /metrics ─► registry: what was counted (`telemetry`)
//!                                                                             what is there now (`gather.rs`)
//!                                                                             the process (`process.rs`)
//! ```
//!
//! A scrape takes locks for a copy and reads a few files of /proc; it waits for no operation, starts nothing, and looks at no
//! disk. Its form is OpenMetrics where the scraper asks for it, else Prometheus' own text.

mod gather;
mod process;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::cri::{ListenError, listen};
use crate::pod::Pods;
use crate::streaming::Streaming;
use crate::telemetry::metrics;
use crate::tls::{Tls, TlsError, TlsFiles};
use gather::Gatherer;

/// How long a client may take for its handshake, for a request, or between two.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection may last.
const LIFETIME: Duration = Duration::from_secs(600);
/// How many connections there may be.
const CONNECTIONS_MAX: usize = 32;
/// How long the server waits before it accepts again when it has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The content type of OpenMetrics, as scrapers ask for it.
const OPENMETRICS: &str = "application/openmetrics-text";
const OPENMETRICS_CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The endpoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not there, or taken.
    #[error("cannot listen on {address}, the value of metrics.address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The unix socket.
    #[error("metrics.socket")]
    Socket(#[from] ListenError),
    /// The files of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The endpoint as it is served. Clones are the same one.
#[derive(Clone)]
struct Endpoint {
    registry: Arc<Registry>,
    tls: Arc<Option<Tls>>,
    room: Arc<Semaphore>,
}

/// An endpoint that listens; its socket goes with it.
#[derive(Debug, Default)]
pub struct Listening {
    /// Where it listens over TCP.
    pub address: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Listens where the configuration says, if it does, and serves in the background.
pub async fn start(pods: &Arc<Pods>, streaming: &Streaming) -> Result<Listening, StartError> {
    let config = &pods.config().metrics;
    let mut listening = Listening::default();
    if config.address.is_none() && config.socket.as_os_str().is_empty() {
        return Ok(listening);
    }
    let mut registry = Registry::with_prefix("podd");
    metrics().register(&mut registry);
    registry.register_collector(Box::new(Gatherer::new(Arc::clone(pods), streaming.clone())));
    let endpoint = Endpoint {
        registry: Arc::new(registry),
        tls: Arc::new(Tls::open(TlsFiles::of_metrics(config))?),
        room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    if let Some(address) = config.address {
        let failed = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, tls = endpoint.tls.is_some(), "metrics are served");
        listening.address = Some(address);
        tokio::spawn(endpoint.clone().accept_tcp(listener));
    }
    if !config.socket.as_os_str().is_empty() {
        listening.socket = Some(config.socket.clone());
        let listener = listen::bind(Path::new(&config.socket))?;
        tracing::info!(socket = %config.socket.display(), "metrics are served");
        tokio::spawn(endpoint.accept_unix(listener));
    }
    Ok(listening)
}

impl Endpoint {
    async fn accept_tcp(self, listener: TcpListener) {
        loop {
            let accepted = listener.accept().await;
            let Some((socket, permit)) = self.admit(accepted).await else { continue };
            let endpoint = self.clone();
            tokio::spawn(async move {
                let served = async {
                    match &*endpoint.tls {
                        None => endpoint.serve(socket).await,
                        Some(tls) => {
                            let handshake = TlsAcceptor::from(tls.settings()).accept(socket);
                            match tokio::time::timeout(PATIENCE, handshake).await {
                                Ok(Ok(socket)) => endpoint.serve(socket).await,
                                Ok(Err(error)) => tracing::debug!(%error, "a scraper's TLS handshake failed"),
                                Err(_) => tracing::debug!("a scraper did not finish its TLS handshake"),
                            }
                        }
                    }
                };
                let _ = tokio::time::timeout(LIFETIME, served).await;
                drop(permit);
            });
        }
    }

    async fn accept_unix(self, listener: UnixListener) {
        loop {
            let accepted = listener.accept().await;
            let Some((socket, permit)) = self.admit(accepted).await else { continue };
            let endpoint = self.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(LIFETIME, endpoint.serve(socket)).await;
                drop(permit);
            });
        }
    }

    /// A connection, and its place among those that there may be; one too many is closed.
    async fn admit<T, A>(&self, accepted: io::Result<(T, A)>) -> Option<(T, OwnedSemaphorePermit)> {
        match accepted {
            Ok((socket, _)) => Some((socket, Arc::clone(&self.room).try_acquire_owned().ok()?)),
            Err(error) => {
                tracing::warn!(%error, "the metrics endpoint could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&self, socket: T) {
        let answer = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(self.answer(request.method(), request.uri().path(), request.headers()))
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_headers(64).max_buf_size(16 << 10);
        if let Err(error) = http.serve_connection(TokioIo::new(socket), answer).await {
            tracing::debug!(%error, "a scraper left");
        }
    }

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<String> {
        let refuse = |status: StatusCode, text: &str| {
            let mut response = Response::new(format!("{text}\n"));
            *response.status_mut() = status;
            response
        };
        if path != "/metrics" {
            return refuse(StatusCode::NOT_FOUND, "404: there is only /metrics");
        }
        if method != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "405: only GET");
        }
        let mut page = String::with_capacity(32 << 10);
        let (written, content) = match wants_openmetrics(headers) {
            true => (text::encode(&mut page, &self.registry), OPENMETRICS_CONTENT),
            false => (prometheus_text::encode(&mut page, &self.registry), prometheus_text::CONTENT_TYPE),
        };
        if let Err(error) = written {
            tracing::error!(%error, "the metrics cannot be written");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "500: see podd's log");
        }
        let mut response = Response::new(page);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
        response
    }
}

/// Prometheus names what it prefers first or with the greater weight; who names OpenMetrics at all reads it.
fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        parts.next() == Some(OPENMETRICS) && !parts.any(|part| part == "q=0")
    })
}
