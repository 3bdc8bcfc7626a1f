//! One pull's conversation with one endpoint: authorization and redirects over the [`transport`](super::transport).
//!
//! A request is sent without credentials until the registry asks for them. They are shown to the registry's own origin and
//! to the token service that it names, nowhere else: a redirect to another origin (a blob's storage, as a rule) drops them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};

use super::RegistryClient;
use super::body::read_body;
use super::challenge::{self, Challenge};
use super::clients::Clients;
use super::credentials::{Credentials, sensitive};
use super::error::{Context, ErrorKind, RegistryError, message_of};
use super::token::{Authorization, Key, TokenRequest};
use super::transport::{Link, TRIES};
use crate::image::reference::Reference;
use crate::image::registries::Endpoint;
use crate::telemetry::metrics;

const MOST_REDIRECTS: usize = 10;
/// The most that is read of a failure's body.
const LARGEST_MESSAGE: usize = 16 * 1024;

/// One image at one endpoint, with the credentials for that.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) client: RegistryClient,
    /// The image by its own name, for messages.
    pub(super) reference: Reference,
    pub(super) endpoint: Arc<Endpoint>,
    link: Link,
    credentials: Credentials,
}

/// An answer, and whether it came from the registry itself rather than from where that sent us.
struct Answer {
    response: Response,
    at_origin: bool,
}

impl Session {
    pub(super) fn new(
        client: &RegistryClient,
        reference: &Reference,
        endpoint: Endpoint,
        clients: Clients,
        credentials: Credentials,
    ) -> Self {
        let (client, reference) = (client.clone(), reference.clone());
        let link = Link { clients, tries: TRIES };
        Self { client, reference, endpoint: Arc::new(endpoint), link, credentials }
    }

    /// The same, trying each request so many times.
    pub(super) fn with_tries(&self, tries: u32) -> Self {
        Self { link: Link { tries, ..self.link.clone() }, ..self.clone() }
    }

    /// The endpoint for messages: the host, or the image's name there where that is another than its own.
    pub(super) fn label(&self) -> String {
        match self.endpoint.reference == self.reference {
            true => self.endpoint.authority.clone(),
            false => self.endpoint.reference.name(),
        }
    }

    /// Fetches `path` below the repository; the answer is a success.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: &HeaderMap,
        context: &Context,
    ) -> Result<Response, RegistryError> {
        let transport = &self.client.inner.transport;
        let result = self.get_at_base(path, headers, context).await;
        match &result {
            Ok(_) => transport.note_reached(&self.endpoint.authority, true),
            Err(e) if e.kind() == ErrorKind::Unavailable && e.status().is_none() => {
                transport.forget(&self.endpoint.authority);
                if e.is_unreachable() {
                    transport.note_reached(&self.endpoint.authority, false);
                }
            }
            Err(_) => {}
        }
        result
    }

    async fn get_at_base(
        &self,
        path: &str,
        headers: &HeaderMap,
        context: &Context,
    ) -> Result<Response, RegistryError> {
        let endpoint = &self.endpoint;
        let base = self.client.inner.transport.base(&self.link, endpoint, context).await?;
        let mut url = base
            .join(&format!("{}{}/{path}", endpoint.root, endpoint.reference.repository()))
            .map_err(|e| context.invalid(format!("request address: {e}")))?;
        if let Some(registry) = &endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        self.get_authorized(&url, headers, context).await
    }

    /// Fetches a whole document of at most `limit` bytes, again where the connection breaks in the middle.
    pub(super) async fn document(
        &self,
        path: &str,
        headers: &HeaderMap,
        limit: usize,
        context: &Context,
    ) -> Result<(HeaderMap, Bytes), RegistryError> {
        let transport = &self.client.inner.transport;
        let mut tries = 0;
        loop {
            tries += 1;
            let response = self.get(path, headers, context).await?;
            let answered = response.headers().clone();
            match read_body(response, limit, transport.timeouts.document, context).await {
                Ok(body) => return Ok((answered, body)),
                Err(e) if e.kind() == ErrorKind::Unavailable && tries < self.link.tries => {
                    metrics().retry();
                    tokio::time::sleep(transport.backoff(tries)).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn get_authorized(
        &self,
        url: &Url,
        headers: &HeaderMap,
        context: &Context,
    ) -> Result<Response, RegistryError> {
        let tokens = &self.client.inner.tokens;
        let key = self.key();
        let known = tokens.get(&key);
        let answer = self.follow(url, headers, known.as_ref(), context).await?;
        if answer.response.status() != StatusCode::UNAUTHORIZED || !answer.at_origin {
            return self.accept(answer.response, known.as_ref(), context).await;
        }
        tokens.forget(&key);
        let Some(authorization) = self.authorize(&answer.response, context).await? else {
            return self.accept(answer.response, known.as_ref(), context).await;
        };
        let header = Some(&authorization.header);
        let answer = self.follow(url, headers, header, context).await?;
        let response = self.accept(answer.response, header, context).await?;
        tokens.put(key, &authorization);
        Ok(response)
    }

    fn key(&self) -> Key {
        Key {
            registry: format!("{}{}", self.endpoint.authority, self.endpoint.root),
            repository: self.endpoint.reference.repository().to_owned(),
            identity: self.credentials.identity(),
        }
    }

    /// The answer to the registry's challenge; `None` where the credentials at hand answer none of it.
    async fn authorize(
        &self,
        response: &Response,
        context: &Context,
    ) -> Result<Option<Authorization>, RegistryError> {
        let values = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> =
            values.take(8).filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        for challenge in &challenges {
            let header = match (challenge, &self.credentials) {
                (Challenge::Bearer { .. }, Credentials::RegistryToken(token)) => {
                    sensitive(&format!("Bearer {token}"))
                }
                (Challenge::Bearer { realm, service, scope }, credentials) => {
                    let own_scope = || format!("repository:{}:pull", self.endpoint.reference.repository());
                    let request = TokenRequest {
                        realm,
                        service: service.as_deref(),
                        scope: scope.clone().unwrap_or_else(own_scope),
                        credentials,
                        plain: self.allows_plain(),
                        link: &self.link,
                    };
                    return request.fetch(&self.client.inner.transport, context).await.map(Some);
                }
                (Challenge::Basic, Credentials::Basic { username, password }) => {
                    Credentials::basic_header(username, password)
                }
                (Challenge::Basic, _) => None,
            };
            if let Some(header) = header {
                return Ok(Some(Authorization { header, life: Duration::from_secs(3600) }));
            }
        }
        Ok(None)
    }

    /// Sends a request to where the registry says that it should go.
    async fn follow(
        &self,
        start: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        context: &Context,
    ) -> Result<Answer, RegistryError> {
        let mut url = start.clone();
        let own = &self.endpoint.headers;
        let mut here = headers.clone();
        here.extend(own.clone());
        if let Some(value) = authorization {
            here.insert(header::AUTHORIZATION, value.clone());
        }
        let mut at_origin = true;
        for _ in 0..=MOST_REDIRECTS {
            let headers = if at_origin { &here } else { headers };
            let transport = &self.client.inner.transport;
            let response = transport.send(&self.link, &url, Method::GET, headers, None, context).await?;
            if !is_redirect(response.status()) {
                return Ok(Answer { response, at_origin });
            }
            url = self.next_hop(&url, &response, context)?;
            if url.origin() != start.origin() {
                at_origin = false;
            }
        }
        Err(context.invalid(format!("the registry redirects more than {MOST_REDIRECTS} times")))
    }

    fn next_hop(&self, url: &Url, response: &Response, context: &Context) -> Result<Url, RegistryError> {
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location =
            location.ok_or_else(|| context.invalid("the registry redirects without a location"))?;
        let mut next = url
            .join(location)
            .map_err(|e| context.invalid(format!("the registry redirects to no URL: {e}")))?;
        if !is_allowed_hop(url.scheme(), next.scheme(), self.allows_plain()) {
            let detail = format!("the registry redirects to a {} URL, only https is allowed", next.scheme());
            return Err(context.invalid(detail));
        }
        let _ = next.set_username("");
        let _ = next.set_password(None);
        Ok(next)
    }

    /// A success, or the error that the registry's words make of it.
    async fn accept(
        &self,
        response: Response,
        authorization: Option<&HeaderValue>,
        context: &Context,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut secrets = self.credentials.secrets();
        let sent =
            authorization.and_then(|value| value.to_str().ok()).and_then(|text| text.split(' ').next_back());
        secrets.extend(sent.map(str::to_owned));
        let own = self.endpoint.headers.values().filter_map(|value| value.to_str().ok());
        secrets.extend(own.map(str::to_owned));
        let body =
            read_body(response, LARGEST_MESSAGE, self.client.inner.transport.timeouts.header, context).await;
        let message = message_of(&body.unwrap_or_default(), &secrets);
        let hint = match (status, &self.credentials) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Credentials::Anonymous)
                if !self.endpoint.home =>
            {
                "the auth file has no credentials for this mirror"
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Credentials::Anonymous) => {
                "no credentials were given (does the image exist, does the pod name a pull secret?)"
            }
            (StatusCode::UNAUTHORIZED, _) => "the credentials were not accepted",
            (StatusCode::TOO_MANY_REQUESTS, Credentials::Anonymous) => {
                "the registry limits the rate: credentials or a mirror may raise it"
            }
            _ => "",
        };
        let parts = [message.as_str(), hint].into_iter().filter(|part| !part.is_empty());
        Err(context.status(status, parts.collect::<Vec<_>>().join("; ")))
    }

    fn allows_plain(&self) -> bool {
        self.client.inner.transport.allows_plain(&self.endpoint)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// Whether a redirect may change the scheme like this: never from HTTPS to less, unless the registry is trusted plainly.
fn is_allowed_hop(from: &str, to: &str, allows_plain: bool) -> bool {
    match (from, to) {
        (_, "https") | ("http", "http") => true,
        ("https", "http") => allows_plain,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_does_not_leave_https() {
        assert!(is_allowed_hop("https", "https", false));
        assert!(is_allowed_hop("http", "https", true));
        assert!(!is_allowed_hop("https", "http", false));
        assert!(is_allowed_hop("https", "http", true));
        assert!(!is_allowed_hop("http", "file", true));
    }
}
