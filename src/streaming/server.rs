//! The HTTP server: a token becomes a session, once (B29).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::negotiate::{Offer, Refusal, Upgrade, negotiate};
use super::session::Session;
use super::tokens::{Tokens, TooMany};
use super::websocket::{self, Channels, Direction, Encoding};
use super::{exec, forward, spdy};
use crate::pod::Pods;
use crate::runtime::Wants;
use crate::telemetry::metrics;
use crate::tls::{Tls, TlsError, TlsFiles};

/// How long a client may take for its request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How many connections there may be.
const CONNECTIONS_MAX: usize = 4096;
/// How long the server waits before it accepts again when it has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const REMOTE_COMMAND: Offer = Offer {
    spdy: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ],
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
};
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PORT_FORWARD: Offer = Offer {
    spdy: &["portforward.k8s.io"],
    websocket: &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"],
};

/// What a client was promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// A command in a container.
    Exec {
        /// The container's ID.
        container: String,
        /// The command.
        command: Vec<String>,
        /// Its streams.
        wants: Wants,
    },
    /// The streams of a container's first process.
    Attach {
        /// The container's ID.
        container: String,
        /// Its streams.
        wants: Wants,
    },
    /// Ports of a pod.
    PortForward {
        /// The pod's ID.
        pod: String,
        /// The ports, for clients that do not name them themselves.
        ports: Vec<u16>,
    },
}

impl Promise {
    fn path(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }

    fn offer(&self) -> &'static Offer {
        match self {
            Self::Exec { .. } | Self::Attach { .. } => &REMOTE_COMMAND,
            Self::PortForward { .. } => &PORT_FORWARD,
        }
    }
}

/// The server cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not there, or taken.
    #[error("cannot listen on {address}, the value of streaming.address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The streaming server. Clones are the same one.
#[derive(Clone)]
pub struct Streaming {
    inner: Arc<Inner>,
}

struct Inner {
    pods: Arc<Pods>,
    tokens: Tokens<Promise>,
    address: SocketAddr,
    tls: Option<Tls>,
    /// How long a session may be silent.
    idle: Duration,
    room: Arc<Semaphore>,
}

impl Streaming {
    /// Listens where the configuration says, and serves in the background.
    pub async fn start(pods: Arc<Pods>) -> Result<Self, StartError> {
        let config = &pods.config().streaming;
        let tls = Tls::open(TlsFiles::of_streaming(config))?;
        let (address, idle) = (config.address, Duration::from_secs(config.idle_timeout_seconds));
        let failed = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let inner = Inner {
            pods,
            tokens: Tokens::new(),
            address,
            tls,
            idle,
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        let server = Self { inner: Arc::new(inner) };
        tokio::spawn(server.clone().accept(listener));
        Ok(server)
    }

    /// The URL at which a client finds what it was promised, for a minute and once.
    pub fn promise(&self, promise: Promise) -> Result<String, TooMany> {
        let path = promise.path();
        let token = self.inner.tokens.issue(promise)?;
        let scheme = if self.inner.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}/{path}/{token}", self.inner.address))
    }

    /// How many promises wait for their clients.
    pub fn promises(&self) -> usize {
        self.inner.tokens.len()
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = listener.accept().await;
            let Ok(permit) = Arc::clone(&self.inner.room).acquire_owned().await else { return };
            match accepted {
                Ok((socket, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        server.serve(socket).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the streaming server could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One connection, with TLS or without.
    async fn serve(&self, socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        let Some(tls) = &self.inner.tls else { return self.requests(socket).await };
        let handshake = TlsAcceptor::from(tls.settings()).accept(socket);
        match tokio::time::timeout(REQUEST_PATIENCE, handshake).await {
            Ok(Ok(socket)) => self.requests(socket).await,
            Ok(Err(error)) => tracing::warn!(%error, "a TLS handshake of the streaming server failed"),
            Err(_) => tracing::warn!("a client of the streaming server did not finish its TLS handshake"),
        }
    }

    /// A connection's requests, and the session that it becomes.
    async fn requests<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&self, socket: T) {
        let (sessions, mut upgraded) = tokio::sync::mpsc::channel(1);
        let answer = service_fn(|request: Request<Incoming>| {
            let answer = self.answer(request);
            let sessions = sessions.clone();
            async move {
                Ok::<_, Infallible>(match answer {
                    Ok((response, session)) => {
                        // There is one upgrade in the life of a connection.
                        let _ = sessions.try_send(session);
                        response
                    }
                    Err(refusal) => refusal.response(),
                })
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(REQUEST_PATIENCE);
        if let Err(error) = http.serve_connection(TokioIo::new(socket), answer).with_upgrades().await {
            tracing::debug!(%error, "a client of the streaming server left");
        }
        if let Ok((promise, upgrade, on_upgrade)) = upgraded.try_recv() {
            match on_upgrade.await {
                Ok(io) => self.session(promise, upgrade, TokioIo::new(io)).await,
                Err(error) => tracing::warn!(%error, "a streaming connection could not be upgraded"),
            }
        }
    }

    /// A token is good once, also when the client then cannot be served.
    #[allow(clippy::type_complexity)]
    fn answer(&self, mut request: Request<Incoming>) -> Result<(Response<String>, Upgraded), Refusal> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "405: only GET and POST"));
        }
        let absent =
            || Refusal::new(StatusCode::NOT_FOUND, "404: no such request, or it was used or is too old");
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let (kind, token) = path.ok_or_else(absent)?;
        let promise = self.inner.tokens.redeem(token).filter(|promise| promise.path() == kind);
        let promise = promise.ok_or_else(absent)?;
        let upgrade = negotiate(request.headers(), promise.offer())?;
        let on_upgrade = hyper::upgrade::on(&mut request);
        Ok((upgrade.response(), (promise, upgrade, on_upgrade)))
    }

    async fn session(&self, promise: Promise, upgrade: Upgrade, io: TokioIo<hyper::upgrade::Upgraded>) {
        let _counted = metrics().session(promise.path());
        let (pods, idle) = (Arc::clone(&self.inner.pods), self.inner.idle);
        match promise {
            Promise::Exec { container, command, wants } => {
                if let Some(session) = open(upgrade, io, wants, idle).await {
                    exec::serve(&pods, &container, &command, wants, session).await;
                }
            }
            Promise::Attach { container, wants } => {
                if let Some(session) = open(upgrade, io, wants, idle).await {
                    exec::attach(&pods, &container, wants, session).await;
                }
            }
            Promise::PortForward { pod, ports } => {
                let dial = move |port| {
                    let (pods, pod) = (Arc::clone(&pods), pod.clone());
                    async move {
                        let connected = pods.connect_to_port(&pod, port).await;
                        connected.map_err(|error| crate::pod::chain(&error))
                    }
                };
                match upgrade {
                    Upgrade::Spdy(_) => forward::over_spdy(spdy::Connection::new(io, idle), dial).await,
                    Upgrade::WebSocket(Some(TUNNEL), _) => {
                        let inner = websocket::tunnel(io).await;
                        forward::over_spdy(spdy::Connection::new(inner, idle), dial).await;
                    }
                    Upgrade::WebSocket(protocol, _) => {
                        let directions: Vec<_> =
                            ports.iter().flat_map(|_| [Direction::Both, Direction::Out]).collect();
                        let channels = Channels::new(io, &directions, encoding(protocol), false, idle).await;
                        forward::over_channels(channels, &ports, dial).await;
                    }
                }
            }
        }
    }
}

/// A connection that is about to become a session.
type Upgraded = (Promise, Upgrade, OnUpgrade);

/// The session of an exec or attach; `None` when the client does not open its streams.
async fn open(
    upgrade: Upgrade,
    io: TokioIo<hyper::upgrade::Upgraded>,
    wants: Wants,
    idle: Duration,
) -> Option<Session> {
    match upgrade {
        Upgrade::Spdy(protocol) => Session::over_spdy(spdy::Connection::new(io, idle), wants, protocol).await,
        Upgrade::WebSocket(protocol, _) => {
            let used = |wanted, direction| if wanted { direction } else { Direction::Unused };
            let directions = [
                used(wants.stdin, Direction::In),
                used(wants.stdout, Direction::Out),
                used(wants.stderr, Direction::Out),
                Direction::Out,
                used(wants.tty, Direction::In),
            ];
            let version = protocol.unwrap_or_default();
            let close_signal = version.starts_with("v5.");
            let channels = Channels::new(io, &directions, encoding(protocol), close_signal, idle).await;
            Session::over_channels(channels, wants, version.starts_with('v')).await
        }
    }
}

fn encoding(protocol: Option<&str>) -> Encoding {
    match protocol.is_some_and(|protocol| protocol.contains("base64")) {
        true => Encoding::Base64,
        false => Encoding::Binary,
    }
}
