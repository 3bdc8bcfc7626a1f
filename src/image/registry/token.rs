//! Tokens: fetched from the service that a Bearer challenge names, kept until they expire.
//!
//! What a token was fetched for is its key: registry, repository and the identity of the credentials. The service gets
//! the credentials, so it has to be an HTTPS URL, unless the registry itself may be spoken to plainly.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::body::read_body;
use super::credentials::{Credentials, sensitive};
use super::error::{Context, ErrorKind, RegistryError, Stage, message_of};
use super::transport::{Link, Transport};

/// The most that a token service may answer.
const LARGEST_ANSWER: usize = 256 * 1024;
/// The life of a token that does not tell (distribution token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// A token is not used in the last moments of its life.
const MARGIN: Duration = Duration::from_secs(5);
/// More tokens than a node has repositories; beyond it all are forgotten.
const MOST_TOKENS: usize = 1024;

/// What an `Authorization` header is good for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) identity: [u8; 32],
}

/// `Authorization` headers that worked.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, (HeaderValue, Instant)>>);

impl Tokens {
    pub(super) fn get(&self, key: &Key) -> Option<HeaderValue> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|(_, expiry)| *expiry > Instant::now()).map(|(token, _)| token.clone())
    }

    pub(super) fn put(&self, key: Key, authorization: &Authorization) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MOST_TOKENS {
            tokens.clear();
        }
        tokens.insert(key, (authorization.header.clone(), Instant::now() + authorization.life));
    }

    pub(super) fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// A header that answers a challenge, and for how long.
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    pub(super) life: Duration,
}

/// A Bearer challenge to be answered for a repository.
pub(super) struct TokenRequest<'a> {
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) scope: String,
    pub(super) credentials: &'a Credentials,
    /// Whether the realm may be a plain HTTP URL.
    pub(super) plain: bool,
    /// How the registry is spoken to, and so its token service.
    pub(super) link: &'a Link,
}

impl TokenRequest<'_> {
    /// Asks the token service.
    pub(super) async fn fetch(
        &self,
        transport: &Transport,
        context: &Context,
    ) -> Result<Authorization, RegistryError> {
        let context = context.at(Stage::FetchToken);
        let realm = self.realm_url(&context)?;
        let response = match self.credentials {
            Credentials::IdentityToken(token) => self.post(transport, &realm, token, &context).await?,
            _ => self.get(transport, &realm, &context).await?,
        };
        let status = response.status();
        let body = read_body(response, LARGEST_ANSWER, transport.timeouts.document, &context).await;
        if !status.is_success() {
            return Err(
                context.status(status, message_of(&body.unwrap_or_default(), &self.credentials.secrets()))
            );
        }
        parse(&body?, &context)
    }

    fn realm_url(&self, context: &Context) -> Result<Url, RegistryError> {
        let mut url = Url::parse(self.realm).map_err(|e| {
            context.invalid(format!("the registry names a token service that is not a URL: {e}"))
        })?;
        if url.scheme() != "https" && !(url.scheme() == "http" && self.plain) {
            return Err(context.error(
                ErrorKind::Denied,
                format!("the registry sends credentials to a {} URL, only https is allowed", url.scheme()),
            ));
        }
        // The credentials are ours to add, not the registry's.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(url)
    }

    async fn get(
        &self,
        transport: &Transport,
        realm: &Url,
        context: &Context,
    ) -> Result<Response, RegistryError> {
        let mut url = realm.clone();
        let mut headers = HeaderMap::new();
        self.add_parameters(&mut url);
        if let Credentials::Basic { username, password } = self.credentials {
            url.query_pairs_mut().append_pair("account", username);
            if let Some(value) = Credentials::basic_header(username, password) {
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        transport.send(self.link, &url, Method::GET, &headers, None, context).await
    }

    async fn post(
        &self,
        transport: &Transport,
        realm: &Url,
        refresh_token: &str,
        context: &Context,
    ) -> Result<Response, RegistryError> {
        // A form is written as a query is.
        let mut form = realm.clone();
        form.set_query(None);
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", "podd")
            .append_pair("refresh_token", refresh_token);
        self.add_parameters(&mut form);
        let mut headers = HeaderMap::new();
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form_type);
        transport.send(self.link, realm, Method::POST, &headers, form.query(), context).await
    }

    fn add_parameters(&self, url: &mut Url) {
        let mut query = url.query_pairs_mut();
        if let Some(service) = self.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &self.scope);
    }
}

fn parse(body: &[u8], context: &Context) -> Result<Authorization, RegistryError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
        #[serde(default)]
        expires_in: Option<u64>,
    }
    // The cause is left out: it could quote the token.
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| context.invalid("the token service's answer is not JSON"))?;
    let token = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let token = token.ok_or_else(|| context.invalid("the token service's answer has no token"))?;
    let header = sensitive(&format!("Bearer {token}"))
        .ok_or_else(|| context.invalid("the token service's token is not a header value"))?;
    let life = answer.expires_in.filter(|seconds| *seconds > 0).map_or(DEFAULT_LIFE, Duration::from_secs);
    Ok(Authorization { header, life: life.min(LONGEST_LIFE).saturating_sub(MARGIN) })
}
