//! The client of image registries (OCI distribution specification), the fetching half of PullImage.
//!
//! [`RegistryClient`] is made once per daemon. [`RegistryClient::resolve`] turns a reference into a verified manifest and
//! configuration; [`RegistryClient::open_blob`] streams a layer. Each call is a `Session` (authorization, redirects) over
//! the `Transport` (connections, retries, HTTPS or HTTP):
//!
//! ```text
//!   resolve, open_blob ─▶ session ─▶ transport ─▶ reqwest
//!                            └─▶ token, challenge, credentials
//! ```
//!
//! Nothing is trusted that a registry sends: documents are bounded and verified by digest, and no credential, token or
//! signed URL is in any error or `Debug` output.

mod blob;
mod body;
mod challenge;
mod credentials;
mod error;
pub(super) mod manifest;
mod platform;
mod resolve;
mod session;
#[cfg(test)]
mod tests;
mod token;
mod transport;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

pub use self::blob::BlobStream;
pub use self::credentials::{Credentials, CredentialsError};
pub use self::error::{ErrorKind, RegistryError, Stage};
pub use self::manifest::{LayerDescriptor, MOST_LAYERS, layers_of_manifest};
pub use self::platform::Platform;
pub use self::resolve::Resolved;
pub use self::transport::{SetupError, Timeouts};
pub use super::extract::Compression;

use self::error::{Context, causes};
use self::session::Session;
use self::token::Tokens;
use self::transport::Transport;
use super::digest::Digest;
use super::reference::Reference;

/// How a [`RegistryClient`] behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Registries (`host` or `host:port`, as in references) that may be spoken to by plain HTTP, besides loopback.
    pub insecure_registries: Vec<String>,
    /// How podd introduces itself.
    pub user_agent: String,
    /// Time limits.
    pub timeouts: Timeouts,
    /// A containers-auth.json(5) for pulls without credentials; read at each use.
    pub auth_file: Option<PathBuf>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            user_agent: concat!("podd/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeouts: Timeouts::default(),
            auth_file: None,
        }
    }
}

/// The bytes of a configuration by its digest, where they need not be fetched.
pub type Known<'a> = dyn Fn(&Digest) -> Option<Bytes> + Sync + 'a;

/// A client of all registries, to be shared; a clone is the same client.
#[derive(Clone)]
pub struct RegistryClient {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Transport,
    tokens: Tokens,
    auth_file: Option<PathBuf>,
}

impl RegistryClient {
    /// A client with the system's certificate authorities and the environment's proxies, as they are now.
    pub fn new(config: ClientConfig) -> Result<Self, SetupError> {
        let transport = Transport::new(&config.user_agent, config.insecure_registries, config.timeouts)?;
        Ok(Self {
            inner: Arc::new(Inner { transport, tokens: Tokens::default(), auth_file: config.auth_file }),
        })
    }

    /// Finds the image that `reference` names for `platform`: its manifest and configuration, verified, and its layers.
    pub async fn resolve(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        self.resolve_knowing(reference, credentials, platform, &|_| None).await
    }

    /// As [`Self::resolve`], but takes a configuration that is known already from `known` and not from the registry.
    pub async fn resolve_knowing(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        platform: &Platform,
        known: &Known<'_>,
    ) -> Result<Resolved, RegistryError> {
        self.session(reference, credentials)?.resolve(platform, known).await
    }

    /// Begins to fetch a layer. The stream gives `size` bytes or an error; the consumer verifies their digest.
    pub async fn open_blob(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobStream, RegistryError> {
        BlobStream::open(self.session(reference, credentials)?, digest, size).await
    }

    fn session(&self, reference: &Reference, credentials: &Credentials) -> Result<Session, RegistryError> {
        let credentials = match (credentials, &self.inner.auth_file) {
            (Credentials::Anonymous, Some(path)) => Credentials::from_file(path, reference).map_err(|e| {
                Context::new(Stage::ReadCredentials, reference.to_string())
                    .error(ErrorKind::Unauthorized, causes(&e))
            })?,
            (given, _) => given.clone(),
        };
        Ok(Session::new(self, reference, credentials))
    }
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryClient")
    }
}
