//! HTTP requests, one hop each: connections, time limits, retries, and the choice between HTTPS and plain HTTP.
//!
//! Redirects and authorization are the business of [`super::session`]. Everything is HTTP/1.1: each layer then has a
//! connection of its own, whose back-pressure is TCP's, so that memory stays flat however slow the disk is.

use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Client, Request, Response, Url};

use super::error::{Context, RegistryError, causes};

/// How often a request is tried in all.
pub(super) const TRIES: u32 = 3;
/// The longest pause that a registry may ask for; beyond it the pull fails and the kubelet tries again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            header: Duration::from_secs(30),
            document: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            backoff: Duration::from_millis(250),
        }
    }
}

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("set up the HTTP client for registries")]
pub struct SetupError(#[source] Box<dyn Error + Send + Sync>);

pub(super) struct Transport {
    /// For hosts on loopback, which are never behind a proxy.
    direct: Client,
    /// For all others, by the proxy of the environment where there is one.
    outward: Client,
    insecure: Vec<String>,
    pub(super) timeouts: Timeouts,
    /// Which scheme a registry answered by, for those that may use either. Held for a look-up, never over an await.
    schemes: Mutex<HashMap<String, &'static str>>,
}

impl Transport {
    pub(super) fn new(
        user_agent: &str,
        insecure: Vec<String>,
        timeouts: Timeouts,
    ) -> Result<Self, SetupError> {
        let tls = tls_config()?;
        let builder = || {
            Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .http1_only()
                .user_agent(user_agent)
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(timeouts.connect)
                .pool_idle_timeout(Duration::from_secs(30))
        };
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|e| SetupError(Box::new(e)));
        let (direct, outward) = (build(builder().no_proxy())?, build(builder())?);
        Ok(Self { direct, outward, insecure, timeouts, schemes: Mutex::default() })
    }

    /// Whether plain HTTP will do for a registry (`host:port`).
    pub(super) fn allows_plain(&self, registry: &str) -> bool {
        self.insecure.iter().any(|allowed| allowed == registry) || is_loopback(registry)
    }

    /// The URL of a registry's root: HTTPS, or what answers where plain HTTP is allowed.
    pub(super) async fn base(&self, registry: &str, context: &Context) -> Result<Url, RegistryError> {
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let url = |scheme| {
            Url::parse(&format!("{scheme}://{host}/"))
                .map_err(|e| context.invalid(format!("registry address: {e}")))
        };
        if !self.allows_plain(registry) {
            return url("https");
        }
        let known = self.lock().get(registry).copied();
        let scheme = match known {
            Some(scheme) => scheme,
            None => self.find_scheme(&url("https")?, &url("http")?, context).await?,
        };
        self.lock().insert(registry.to_owned(), scheme);
        url(scheme)
    }

    /// Forgets how a registry was spoken to, after it could not be reached that way.
    pub(super) fn forget(&self, registry: &str) {
        self.lock().remove(registry);
    }

    /// Sends one request, again where a passing failure makes that worthwhile; the last answer whatever its status.
    pub(super) async fn send(
        &self,
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
            let sent = tokio::time::timeout(self.timeouts.header, self.client(url).execute(request)).await;
            let pause = match sent {
                Ok(Ok(response)) => match self.pause_before_retry(&response, tries) {
                    Some(pause) => pause,
                    None => return Ok(response),
                },
                Ok(Err(e)) if tries == TRIES || certificate_fault(&e).is_some() => {
                    return Err(context.transport(e));
                }
                Ok(Err(_)) => self.backoff(tries),
                Err(_) if tries == TRIES => {
                    let limit = self.timeouts.header;
                    return Err(context.unavailable(format!("no answer within {limit:?}")));
                }
                Err(_) => self.backoff(tries),
            };
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
    fn pause_before_retry(&self, response: &Response, tries: u32) -> Option<Duration> {
        let is_passing = matches!(
            response.status(),
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        if !is_passing || tries == TRIES {
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
        https: &Url,
        http: &Url,
        context: &Context,
    ) -> Result<&'static str, RegistryError> {
        let mut tries = 1;
        loop {
            match self.probe(https, http, context).await {
                Err(_) if tries < TRIES => tokio::time::sleep(self.backoff(tries)).await,
                result => return result,
            }
            tries += 1;
        }
    }

    /// HTTPS where it works, plain HTTP where only that does. A certificate that is not trusted is an error, no reason
    /// to speak plainly. Nothing secret is in these requests.
    async fn probe(&self, https: &Url, http: &Url, context: &Context) -> Result<&'static str, RegistryError> {
        let ping = async |root: &Url| {
            let mut url = root.clone();
            url.set_path("v2/");
            let request = self.client(&url).get(url.clone()).send();
            tokio::time::timeout(self.timeouts.header, request).await
        };
        match ping(https).await {
            Ok(Ok(_)) => return Ok("https"),
            Ok(Err(e)) => {
                if let Some(fault) = certificate_fault(&e) {
                    return Err(context.unavailable(format!("the registry's certificate: {fault}")));
                }
            }
            Err(_) => {}
        }
        match ping(http).await {
            Ok(Ok(_)) => Ok("http"),
            Ok(Err(e)) => Err(context.transport(e)),
            Err(_) => Err(context.unavailable("no answer by HTTPS nor by HTTP")),
        }
    }

    fn client(&self, url: &Url) -> &Client {
        match url.host_str() {
            Some(host) if is_loopback(host) => &self.direct,
            _ => &self.outward,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, &'static str>> {
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// TLS with the system's certificate authorities. A node without any can still pull by plain HTTP, so their absence is
/// no error here; a handshake then fails as one with an unknown issuer.
fn tls_config() -> Result<rustls::ClientConfig, SetupError> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            "no certificate authorities on this system: registries can be reached by plain HTTP only"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SetupError(Box::new(e)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether an address (`host`, `host:port`) is this machine's own.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => address.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The text of a certificate problem, where one is at the root of a failed request.
fn certificate_fault(error: &reqwest::Error) -> Option<String> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(fault @ rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
            return Some(causes(fault));
        }
        // The source of an io::Error is that of what it wraps, not what it wraps.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source());
    }
    None
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
