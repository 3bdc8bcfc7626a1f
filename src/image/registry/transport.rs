//! HTTP requests, one hop each: connections, time limits, retries, and the choice between HTTPS and plain HTTP.
//!
//! Redirects and authorization are the business of [`super::session`]. Everything is HTTP/1.1: each layer then has a
//! connection of its own, whose back-pressure is TCP's, so that memory stays flat however slow the disk is.

use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Request, Response, Url};
use rustls::AlertDescription;

use super::clients::{ClientPool, Clients};
use super::error::{Context, RegistryError, causes};
use crate::image::digest::Digest;
use crate::image::registries::{Endpoint, Scheme};
use crate::telemetry::metrics;

/// How often a request is tried in all.
pub(super) const TRIES: u32 = 3;
/// The longest pause that a registry may ask for; beyond it the pull fails and the kubelet tries again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a damaged blob is remembered: longer than the kubelet waits between two pulls at most (5 minutes).
const DAMAGE_MEMORY: Duration = Duration::from_secs(600);
/// More damaged blobs than are worth remembering.
const MOST_DAMAGE: usize = 1024;

/// How long each part of an exchange may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Connecting, TLS included.
    pub connect: Duration,
    /// From the request to the answer's header.
    pub header: Duration,
    /// A whole manifest, configuration or token.
    pub document: Duration,
    /// A blob without a single byte.
    pub stall: Duration,
    /// The pause before the first retry; it doubles with each.
    pub backoff: Duration,
    /// How long an endpoint that could not be reached is passed over where there are others.
    pub down: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            header: Duration::from_secs(30),
            document: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            backoff: Duration::from_millis(250),
            down: Duration::from_secs(30),
        }
    }
}

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("set up the HTTP client for registries")]
pub struct SetupError(#[source] pub(super) Box<dyn Error + Send + Sync>);

/// How an endpoint is spoken to: with which clients, and how often a request is tried in all.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) clients: Clients,
    pub(super) tries: u32,
}

pub(super) struct Transport {
    pub(super) pool: ClientPool,
    insecure: Vec<String>,
    pub(super) timeouts: Timeouts,
    /// Which scheme an endpoint answered by, for those that may use either. Held for a look-up, never over an await.
    schemes: Mutex<HashMap<String, &'static str>>,
    /// Until when an endpoint that could not be reached is passed over. Held likewise.
    down: Mutex<HashMap<String, Instant>>,
    /// Until when a place is passed over for a blob that was damaged there. Held likewise.
    damage: Mutex<HashMap<(String, Digest), Instant>>,
}

impl Transport {
    pub(super) fn new(
        user_agent: &str,
        insecure: Vec<String>,
        timeouts: Timeouts,
    ) -> Result<Self, SetupError> {
        let pool = ClientPool::new(user_agent, timeouts.connect)?;
        Ok(Self {
            pool,
            insecure,
            timeouts,
            schemes: Mutex::default(),
            down: Mutex::default(),
            damage: Mutex::default(),
        })
    }

    /// Whether plain HTTP will do for an endpoint.
    pub(super) fn allows_plain(&self, endpoint: &Endpoint) -> bool {
        match endpoint.scheme {
            Scheme::Https => false,
            Scheme::Http | Scheme::Either => true,
            Scheme::Default => {
                let names = [endpoint.reference.registry(), endpoint.authority.as_str()];
                self.insecure.iter().any(|allowed| names.contains(&allowed.as_str()))
                    || is_loopback(&endpoint.authority)
            }
        }
    }

    /// The URL of an endpoint's root: HTTPS, or what answers where plain HTTP is allowed.
    pub(super) async fn base(
        &self,
        link: &Link,
        endpoint: &Endpoint,
        context: &Context,
    ) -> Result<Url, RegistryError> {
        let authority = &endpoint.authority;
        let url = |scheme| {
            Url::parse(&format!("{scheme}://{authority}/"))
                .map_err(|e| context.invalid(format!("registry address: {e}")))
        };
        if endpoint.scheme == Scheme::Http {
            return url("http");
        }
        if !self.allows_plain(endpoint) {
            return url("https");
        }
        let known = self.lock().get(authority).copied();
        let scheme = match known {
            Some(scheme) => scheme,
            None => self.find_scheme(link, &url("https")?, &url("http")?, context).await?,
        };
        self.lock().insert(authority.clone(), scheme);
        url(scheme)
    }

    /// Whether an endpoint could not be reached a moment ago.
    pub(super) fn is_down(&self, authority: &str) -> bool {
        self.downs().get(authority).is_some_and(|until| *until > Instant::now())
    }

    /// Notes whether an endpoint could be reached.
    pub(super) fn note_reached(&self, authority: &str, reached: bool) {
        let mut downs = self.downs();
        if reached {
            downs.remove(authority);
        } else {
            downs.retain(|_, until| *until > Instant::now());
            downs.insert(authority.to_owned(), Instant::now() + self.timeouts.down);
        }
    }

    /// Whether a place had a damaged copy of a blob.
    pub(super) fn has_damaged(&self, place: String, blob: &Digest) -> bool {
        let damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.get(&(place, blob.clone())).is_some_and(|until| *until > Instant::now())
    }

    /// Notes that a place has a damaged copy of a blob.
    pub(super) fn note_damage(&self, place: String, blob: &Digest) {
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.retain(|_, until| *until > Instant::now());
        if damage.len() < MOST_DAMAGE {
            damage.insert((place, blob.clone()), Instant::now() + DAMAGE_MEMORY);
        }
    }

    /// Forgets how a registry was spoken to, after it could not be reached that way.
    pub(super) fn forget(&self, registry: &str) {
        self.lock().remove(registry);
    }

    /// Sends one request, again where a passing failure makes that worthwhile; the last answer whatever its status.
    pub(super) async fn send(
        &self,
        link: &Link,
        url: &Url,
        method: Method,
        headers: &HeaderMap,
        body: Option<&str>,
        context: &Context,
    ) -> Result<Response, RegistryError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut request = Request::new(method.clone(), url.clone());
            *request.headers_mut() = headers.clone();
            *request.body_mut() = body.map(|text| text.to_owned().into());
            let sent =
                tokio::time::timeout(self.timeouts.header, link.clients.of(url).execute(request)).await;
            let is_last = tries >= link.tries;
            let pause = match sent {
                Ok(Ok(response)) => match self.pause_before_retry(&response, tries, is_last) {
                    Some(pause) => pause,
                    None => return Ok(response),
                },
                Ok(Err(e)) => match tls_fault(&e) {
                    Some(fault) => return Err(context.unreachable(fault)),
                    None if is_last => return Err(context.transport(e)),
                    None => self.backoff(tries),
                },
                Err(_) if is_last => {
                    let limit = self.timeouts.header;
                    return Err(context.unreachable(format!("no answer within {limit:?}")));
                }
                Err(_) => self.backoff(tries),
            };
            metrics().retry();
            tokio::time::sleep(pause).await;
        }
    }

    /// A pause that doubles with each failure, with up to half of it added so that nodes do not retry in step.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let pause = self.timeouts.backoff * 2u32.pow(failures.saturating_sub(1).min(6));
        let noise = RandomState::new().hash_one(failures) % 512;
        pause + pause * u32::try_from(noise).unwrap_or_default() / 1024
    }

    /// How long to wait before asking again; `None` where this answer stands.
    fn pause_before_retry(&self, response: &Response, tries: u32, is_last: bool) -> Option<Duration> {
        let is_passing = matches!(
            response.status(),
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        if !is_passing || is_last {
            return None;
        }
        let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        match asked.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs) {
            Some(pause) if pause > LONGEST_PAUSE => None,
            Some(pause) => Some(pause.max(self.backoff(tries))),
            None => Some(self.backoff(tries)),
        }
    }

    async fn find_scheme(
        &self,
        link: &Link,
        https: &Url,
        http: &Url,
        context: &Context,
    ) -> Result<&'static str, RegistryError> {
        let mut tries = 1;
        loop {
            match self.probe(link, https, http, context).await {
                Err(_) if tries < link.tries => {
                    metrics().retry();
                    tokio::time::sleep(self.backoff(tries)).await;
                }
                result => return result,
            }
            tries += 1;
        }
    }

    /// HTTPS where it works, plain HTTP where only that does. A certificate that is not trusted is an error, no reason
    /// to speak plainly. Nothing secret is in these requests.
    async fn probe(
        &self,
        link: &Link,
        https: &Url,
        http: &Url,
        context: &Context,
    ) -> Result<&'static str, RegistryError> {
        let ping = async |root: &Url| {
            let mut url = root.clone();
            url.set_path("v2/");
            let request = link.clients.of(&url).get(url.clone()).send();
            tokio::time::timeout(self.timeouts.header, request).await
        };
        match ping(https).await {
            Ok(Ok(_)) => return Ok("https"),
            Ok(Err(e)) => {
                if let Some(fault) = tls_fault(&e) {
                    return Err(context.unreachable(fault));
                }
            }
            Err(_) => {}
        }
        match ping(http).await {
            Ok(Ok(_)) => Ok("http"),
            Ok(Err(e)) => Err(context.transport(e)),
            Err(_) => Err(context.unreachable("no answer by HTTPS nor by HTTP")),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, &'static str>> {
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn downs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an address (`host`, `host:port`) is this machine's own.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => address.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What is wrong between two that both speak TLS, where that is at the root of a failed request. A server of plain HTTP
/// is none: what it sends is no TLS message.
fn tls_fault(error: &reqwest::Error) -> Option<String> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        match cause.downcast_ref() {
            Some(rustls::Error::InvalidMessage(_)) => return None,
            Some(fault @ rustls::Error::InvalidCertificate(_)) => {
                return Some(format!("the registry's certificate: {}", causes(fault)));
            }
            Some(fault @ rustls::Error::AlertReceived(alert)) => {
                let hint =
                    if may_want_certificate(*alert) { " (does it want a client certificate?)" } else { "" };
                return Some(format!("the registry ends TLS: {fault}{hint}"));
            }
            Some(fault) => return Some(format!("TLS with the registry: {}", causes(fault))),
            None => {}
        }
        // The source of an io::Error is that of what it wraps, not what it wraps.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source());
    }
    None
}

/// Whether a server may say this to a client without a certificate, or with one that it does not know.
fn may_want_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::HandshakeFailure
            | AlertDescription::AccessDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_every_form() {
        for address in ["localhost", "localhost:5000", "127.0.0.1", "127.8.8.8:1", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["localhost.io", "128.0.0.1", "r.io:5000", "[::2]:5000", "", "127.0.0.1.nip.io"] {
            assert!(!is_loopback(address), "{address}");
        }
    }
}
