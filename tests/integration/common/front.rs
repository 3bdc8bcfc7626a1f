//! A server in front of the shared registry: it demands bearer tokens, or breaks blobs on their way.
//!
//! docker-registry's own token mode wants certificates and signed tokens, which would test docker-registry. The protocol
//! that a client sees (challenge, token server with scope, bearer header) is the same here.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, RANGE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use super::registry::{self, PASSWORD, USER};

/// A bearer token that is good without asking for one (the CRI's `registry_token`).
pub const REGISTRY_TOKEN: &str = "standing-token-4410";

/// What the front does to the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Tokens are demanded; the token server gives one to anybody.
    AnonymousTokens,
    /// Tokens are demanded; the token server wants [`USER`] and [`PASSWORD`].
    UserTokens,
    /// Every blob has one byte changed.
    Corrupt,
    /// The first so many answers with a layer break off after half of the body.
    Cut(usize),
    /// The first so many requests are answered 429 and `Retry-After: 0`.
    Busy(usize),
    /// The first answer with a layer breaks off after half of the body, and then nobody listens any more.
    Dies,
    /// Every layer has one byte changed, but not the configurations.
    CorruptLayers,
    /// The second half of every layer waits for [`Front::release`].
    Holds,
    /// Nothing is done; the requests are only counted.
    Watches,
}

/// A blob larger than this is a layer and no configuration, in bytes.
const LAYER: usize = 64 << 10;

/// The running server; it ends with the value.
#[derive(Debug)]
pub struct Front {
    /// Its `host:port`.
    pub host: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    host: String,
    backend: String,
    behaviour: Behaviour,
    tokens: AtomicUsize,
    blobs: AtomicUsize,
    ranges: AtomicUsize,
    requests: AtomicUsize,
    cuts: AtomicUsize,
    dead: AtomicBool,
    death: Notify,
    /// Closed when what is held may go on.
    held: Arc<Semaphore>,
    seen: Mutex<Vec<String>>,
    client: reqwest::Client,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Front {
    /// Listens on a free loopback port and passes on to the shared registry.
    pub async fn new(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            host: host.clone(),
            backend: registry::shared().await.host().to_owned(),
            behaviour,
            tokens: AtomicUsize::new(0),
            blobs: AtomicUsize::new(0),
            ranges: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            death: Notify::new(),
            held: Arc::new(Semaphore::new(0)),
            seen: Mutex::default(),
            client: registry::client(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { host, state, task }
    }

    /// How many tokens were given out.
    pub fn tokens(&self) -> usize {
        self.state.tokens.load(Ordering::Relaxed)
    }

    /// How many blob requests there were.
    pub fn blobs(&self) -> usize {
        self.state.blobs.load(Ordering::Relaxed)
    }

    /// The paths with queries, and the authorization, of all requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Lets go on what [`Behaviour::Holds`] has held up.
    pub fn release(&self) {
        self.state.held.close();
    }

    /// How many of them asked for a range.
    pub fn ranges(&self) -> usize {
        self.state.ranges.load(Ordering::Relaxed)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            () = state.death.notified() => return,
        };
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move {
                match state.dead.load(Ordering::Relaxed) {
                    true => Err(std::io::Error::other("the server is dead")),
                    false => Ok(state.answer(request).await),
                }
            }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let nth = self.requests.fetch_add(1, Ordering::Relaxed);
        let shown =
            request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.seen.lock().unwrap().push(format!("{} {shown}", request.uri().path_and_query().unwrap()));
        if let Behaviour::Busy(times) = self.behaviour
            && nth < times
        {
            let mut answer = plain(StatusCode::TOO_MANY_REQUESTS, "slow down");
            answer.headers_mut().insert("retry-after", HeaderValue::from_static("0"));
            return answer;
        }
        if matches!(self.behaviour, Behaviour::AnonymousTokens | Behaviour::UserTokens) {
            if request.uri().path() == "/token" {
                return self.token(&request);
            }
            if !self.is_authorized(&request) {
                return self.challenge(request.uri().path());
            }
        }
        self.pass_on(&request).await
    }

    /// A token is the scope that it is good for, so that one for another repository is refused.
    fn token(&self, request: &Request<Incoming>) -> Response<Body> {
        let wanted = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if self.behaviour == Behaviour::UserTokens && given != Some(&wanted) {
            return plain(
                StatusCode::UNAUTHORIZED,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
            );
        }
        let query = request.uri().query().unwrap_or_default();
        let scope = query.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap_or_default();
        let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%3a", ":").replace("%2f", "/");
        self.tokens.fetch_add(1, Ordering::Relaxed);
        let token = STANDARD.encode(&scope);
        plain(StatusCode::OK, &format!(r#"{{"token":"{token}","access_token":"{token}","expires_in":300}}"#))
    }

    fn is_authorized(&self, request: &Request<Incoming>) -> bool {
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = given.and_then(|value| value.strip_prefix("Bearer ")) else { return false };
        token == REGISTRY_TOKEN || token == STANDARD.encode(scope_of(request.uri().path()))
    }

    fn challenge(&self, path: &str) -> Response<Body> {
        let (host, scope) = (&self.host, scope_of(path));
        let text = format!(r#"Bearer realm="http://{host}/token",service="podd-tests",scope="{scope}""#);
        let mut answer = plain(StatusCode::UNAUTHORIZED, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_str(&text).unwrap());
        answer
    }

    async fn pass_on(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers() {
            if name != HOST && name != AUTHORIZATION {
                headers.append(name, value.clone());
            }
        }
        let ranged = headers.contains_key(RANGE);
        let uri = format!("http://{}{}", self.backend, request.uri().path_and_query().unwrap());
        let backend =
            self.client.request(request.method().clone(), uri).headers(headers).send().await.unwrap();
        let (status, headers) = (backend.status(), backend.headers().clone());
        let body = backend.bytes().await.unwrap();
        let is_blob = request.uri().path().contains("/blobs/") && request.method() == Method::GET;
        let body = if is_blob { self.spoil(body, ranged) } else { whole(body) };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }

    fn spoil(&self, body: Bytes, ranged: bool) -> Body {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.ranges.fetch_add(usize::from(ranged), Ordering::Relaxed);
        match self.behaviour {
            Behaviour::CorruptLayers if body.len() <= LAYER => whole(body),
            Behaviour::Corrupt | Behaviour::CorruptLayers => {
                let mut bytes = body.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                whole(bytes.into())
            }
            Behaviour::Cut(times)
                if body.len() > LAYER && self.cuts.fetch_add(1, Ordering::Relaxed) < times =>
            {
                half(&body)
            }
            Behaviour::Dies if body.len() > LAYER => {
                self.dead.store(true, Ordering::Relaxed);
                self.death.notify_one();
                half(&body)
            }
            Behaviour::Holds if body.len() > LAYER => halves(&body, Arc::clone(&self.held)),
            Behaviour::Holds
            | Behaviour::Cut(_)
            | Behaviour::AnonymousTokens
            | Behaviour::UserTokens
            | Behaviour::Busy(_)
            | Behaviour::Dies
            | Behaviour::Watches => whole(body),
        }
    }
}

/// `/v2/a/b/manifests/1` is about `repository:a/b:pull`.
fn scope_of(path: &str) -> String {
    let name = path.trim_start_matches("/v2/");
    let end = name.find("/manifests/").or_else(|| name.find("/blobs/")).unwrap_or(0);
    format!("repository:{}:pull", &name[..end])
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// Half of a body that promises all of it.
fn half(bytes: &Bytes) -> Body {
    let half = Ok(Frame::data(bytes.slice(..bytes.len() / 2)));
    let broken = Err(std::io::Error::other("the line is cut"));
    BodyExt::boxed(StreamBody::new(stream::iter([half, broken])))
}

/// A body whose second half comes when `held` is closed.
fn halves(bytes: &Bytes, held: Arc<Semaphore>) -> Body {
    let mut bytes = bytes.clone();
    let first = bytes.split_to(bytes.len() / 2);
    let second = async move {
        held.acquire().await.unwrap_err();
        Ok(Frame::data(bytes))
    };
    let first = stream::iter([Ok(Frame::data(first))]);
    BodyExt::boxed(StreamBody::new(first.chain(stream::once(second))))
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut answer = Response::new(whole(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, text.len().into());
    answer
}

#[tokio::test]
async fn a_token_is_good_for_its_repository_only() {
    let front = Front::new(Behaviour::UserTokens).await;
    let pushed = super::busybox().push(registry::shared().await, "harness/token", "1").await.via(&front.host);
    let url = format!("http://{}/v2/harness/token/manifests/1", front.host);
    assert!(pushed.reference.starts_with(&front.host));
    let client = registry::client();
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let ask =
        format!("http://{}/token?service=podd-tests&scope=repository%3Aharness%2Ftoken%3Apull", front.host);
    assert_eq!(client.get(&ask).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let answer =
        client.get(&ask).basic_auth(USER, Some(PASSWORD)).send().await.unwrap().bytes().await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    let token = answer["token"].as_str().unwrap();
    let accept = "application/vnd.oci.image.manifest.v1+json";
    let got = client.get(&url).header("accept", accept).bearer_auth(token).send().await.unwrap();
    assert_eq!(got.status(), StatusCode::OK);
    let other = format!("http://{}/v2/harness/other/manifests/1", front.host);
    assert_eq!(
        client.get(&other).bearer_auth(token).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}
