//! A registry with faults: a real HTTP/1.1 server on a loopback port whose answers a test writes itself.
//!
//! It records every request, and can break a body off, let it stall, or never end it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::registries::{Registries, parse};
use crate::image::registry::{
    BlobStream, ClientConfig, Credentials, Platform, PullAuth, RegistryClient, RegistryError, Resolved,
    Source, Timeouts,
};

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A request as the server saw it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) authorization: Option<String>,
    pub(super) range: Option<String>,
    pub(super) body: String,
    /// How many requests for the same path came before.
    pub(super) earlier: usize,
}

/// How the body of an answer goes on.
pub(super) enum Tail {
    /// It ends as it should.
    Ends,
    /// The connection breaks.
    Breaks,
    /// Nothing comes any more, and the connection stays.
    Stalls,
    /// It repeats for ever.
    Repeats,
    /// The same with a pause before each.
    Trickles(Duration),
}

pub(super) struct Reply {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    bytes: Bytes,
    tail: Tail,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self { status, headers: Vec::new(), bytes: Bytes::new(), tail: Tail::Ends }
    }

    pub(super) fn ok(bytes: impl Into<Bytes>) -> Self {
        Self::status(200).body(bytes)
    }

    pub(super) fn body(self, bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), ..self }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same answer with another first byte.
    pub(super) fn corrupted(self) -> Self {
        let mut bytes = self.bytes.to_vec();
        bytes[0] ^= 1;
        self.body(bytes)
    }

    pub(super) fn tail(self, tail: Tail) -> Self {
        Self { tail, ..self }
    }

    /// The same answer with only the first `count` bytes of its body, all of them promised.
    pub(super) fn broken_after(mut self, count: usize, tail: Tail) -> Self {
        let promised = self.bytes.len();
        self.bytes.truncate(count);
        self.header("content-length", promised.to_string()).tail(tail)
    }

    fn into_response(self) -> Response<StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>> {
        let mut builder = Response::builder().status(self.status);
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        if matches!(self.tail, Tail::Ends) {
            builder = builder.header(header::CONTENT_LENGTH, self.bytes.len());
        }
        let bytes = self.bytes.clone();
        let first = stream::iter((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
        let body = match self.tail {
            Tail::Ends => first.boxed(),
            // A moment between the bytes and the break, so that the bytes are sent.
            Tail::Breaks => first
                .chain(stream::once(async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(io::Error::other("broken on purpose"))
                }))
                .boxed(),
            Tail::Stalls => first.chain(stream::pending()).boxed(),
            Tail::Trickles(pause) => {
                let bytes = self.bytes;
                let steps = stream::repeat(bytes).then(move |bytes| async move {
                    tokio::time::sleep(pause).await;
                    Ok(Frame::data(bytes))
                });
                steps.boxed()
            }
            Tail::Repeats => stream::repeat(self.bytes).map(|bytes| Ok(Frame::data(bytes))).boxed(),
        };
        builder.body(StreamBody::new(body)).unwrap()
    }
}

/// The server; it ends when it is dropped.
pub(super) struct FaultRegistry {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl FaultRegistry {
    pub(super) async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(listener, Arc::new(handler), Arc::clone(&seen)));
        Self { address, seen, task }
    }

    /// All requests so far, without those that only ask whether a registry is there.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path != "/v2/").cloned().collect()
    }

    pub(super) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }
}

impl Drop for FaultRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

async fn accept(listener: TcpListener, handler: Handler, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
        let service = service_fn(move |request| answer(request, Arc::clone(&handler), Arc::clone(&seen)));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Handler,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>>, Infallible> {
    let (head, body) = request.into_parts();
    let text = |name: header::HeaderName| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let body = body.collect().await.unwrap_or(Full::<Bytes>::default().collect().await.unwrap()).to_bytes();
    let path = head.uri.path().to_owned();
    let seen = {
        let mut log = log.lock().unwrap();
        let seen = Seen {
            method: head.method.to_string(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            authorization: text(header::AUTHORIZATION),
            range: text(header::RANGE),
            body: String::from_utf8_lossy(&body).into_owned(),
            earlier: log.iter().filter(|seen| seen.path == path).count(),
            path,
        };
        log.push(seen.clone());
        seen
    };
    Ok(handler(&seen).into_response())
}

/// What a registry without faults has, by path.
#[derive(Default, Clone)]
pub(super) struct Catalog(BTreeMap<String, (String, Bytes)>);

impl Catalog {
    /// A repository `app` with an image of the given layers, tagged `v1`.
    pub(super) fn with_image(layers: &[&[u8]]) -> Self {
        let mut catalog = Self::default();
        let manifest = catalog.add_image(layers, "amd64");
        catalog.add_manifest("v1", OCI_MANIFEST, &manifest);
        catalog
    }

    /// Adds an image's blobs and gives its manifest.
    pub(super) fn add_image(&mut self, layers: &[&[u8]], architecture: &str) -> Value {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.add_blob(OCI_CONFIG, config.to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|layer| self.add_blob(OCI_LAYER, layer)).collect();
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers })
    }

    /// Adds a blob and gives its descriptor.
    pub(super) fn add_blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let entry = ("application/octet-stream".to_owned(), Bytes::copy_from_slice(bytes));
        self.0.insert(format!("/v2/app/blobs/{digest}"), entry);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Adds a manifest or index under a tag and under its digest, and gives its descriptor.
    pub(super) fn add_manifest(&mut self, tag: &str, media_type: &str, document: &Value) -> Value {
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::of(&bytes);
        let entry = (media_type.to_owned(), bytes.clone());
        self.0.insert(format!("/v2/app/manifests/{tag}"), entry.clone());
        self.0.insert(format!("/v2/app/manifests/{digest}"), entry);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// What a registry without faults answers.
    pub(super) fn answer(&self, seen: &Seen) -> Reply {
        let Some((content_type, bytes)) = self.0.get(&seen.path) else {
            let code = if seen.path.contains("/manifests/") { "manifest unknown" } else { "blob unknown" };
            return Reply::status(404)
                .body(json!({ "errors": [{ "code": "X", "message": code }] }).to_string());
        };
        let first = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split('-').next());
        match first.and_then(|first| first.parse::<usize>().ok()) {
            Some(first) => Reply::status(206)
                .body(bytes.slice(first..))
                .header("content-range", format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len())),
            None => Reply::ok(bytes.clone()).header("content-type", content_type),
        }
    }
}

/// A client that loses no time.
pub(super) fn client() -> RegistryClient {
    RegistryClient::new(config()).unwrap()
}

pub(super) fn config() -> ClientConfig {
    let timeouts = Timeouts {
        connect: Duration::from_secs(5),
        header: Duration::from_secs(5),
        document: Duration::from_secs(5),
        stall: Duration::from_millis(300),
        backoff: Duration::from_millis(5),
        down: Duration::from_secs(5),
    };
    ClientConfig { timeouts, ..ClientConfig::default() }
}

/// A client that knows the endpoints of a `registries.conf`.
pub(super) fn client_with(conf: &str) -> RegistryClient {
    let registries = Arc::new(Registries::fixed(parse(conf).unwrap()));
    RegistryClient::new(ClientConfig { registries, ..config() }).unwrap()
}

impl RegistryClient {
    async fn test_source(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Source, RegistryError> {
        self.source(reference, &PullAuth::new(credentials.clone(), None)).await
    }

    pub(super) async fn resolve(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        self.test_source(reference, credentials).await?.resolve(platform, &|_| None).await
    }

    pub(super) async fn open_blob(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobStream, RegistryError> {
        self.test_source(reference, credentials).await?.open_blob(digest, size).await
    }
}
