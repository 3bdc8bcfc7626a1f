//! The client of image registries (OCI distribution specification), the fetching half of PullImage.
//!
//! [`RegistryClient`] is made once per daemon. [`RegistryClient::source`] finds the endpoints of an image: mirrors and the
//! registry itself. [`Source::resolve`] turns its reference into a verified manifest and configuration;
//! [`Source::open_blob`] streams a layer. Each endpoint is a `Session` (authorization, redirects) over the `Transport`
//! (connections, retries, HTTPS or HTTP):
//!
//! ```text
//!   source ─▶ resolve, blob ─▶ session ─▶ transport ─▶ clients ─▶ reqwest
//!     │                           └─▶ token, challenge
//!     └─▶ registries (configuration), credentials, auth_file
//! ```
//!
//! Nothing is trusted that a registry sends: documents are bounded and verified by digest, and no credential, token or
//! signed URL is in any error or `Debug` output.

mod auth_file;
mod blob;
mod body;
mod challenge;
mod clients;
mod credentials;
mod error;
#[cfg(podd_fuzzing)]
pub mod fuzzing;
pub(super) mod manifest;
mod platform;
mod resolve;
mod session;
mod signatures;
mod source;
#[cfg(test)]
mod tests;
mod token;
mod transport;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

pub use self::auth_file::{AuthFile, PullAuth};
pub use self::blob::BlobStream;
pub use self::credentials::{Credentials, CredentialsError};
pub use self::error::{ErrorKind, RegistryError, Stage};
pub use self::manifest::{
    Artifact, ArtifactFile, LayerDescriptor, MOST_LAYERS, artifact_of_manifest, layers_of_manifest,
};
pub use self::platform::Platform;
pub use self::resolve::Resolved;
pub use self::source::Source;
pub use self::transport::{SetupError, Timeouts};
pub use super::extract::Compression;

use self::token::Tokens;
use self::transport::Transport;
use super::digest::Digest;
use super::reference::Reference;
use super::registries::Registries;
use crate::sys;

/// How a [`RegistryClient`] behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Registries (`host` or `host:port`, as in references) that may be spoken to by plain HTTP, besides loopback.
    pub insecure_registries: Vec<String>,
    /// How podd introduces itself.
    pub user_agent: String,
    /// Time limits.
    pub timeouts: Timeouts,
    /// A containers-auth.json(5) for endpoints without other credentials; read for each pull.
    pub auth_file: Option<PathBuf>,
    /// Mirrors, locations and certificates.
    pub registries: Arc<Registries>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            user_agent: concat!("podd/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeouts: Timeouts::default(),
            auth_file: None,
            registries: Arc::default(),
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
    registries: Arc<Registries>,
}

impl RegistryClient {
    /// A client with the system's certificate authorities and the environment's proxies, as they are now.
    pub fn new(config: ClientConfig) -> Result<Self, SetupError> {
        let transport = Transport::new(&config.user_agent, config.insecure_registries, config.timeouts)?;
        let (auth_file, registries) = (config.auth_file, config.registries);
        Ok(Self { inner: Arc::new(Inner { transport, tokens: Tokens::default(), auth_file, registries }) })
    }

    /// Where `reference` comes from: its endpoints as the configuration is now, each with what it may be shown.
    pub async fn source(&self, reference: &Reference, auth: &PullAuth) -> Result<Source, RegistryError> {
        let (client, reference, auth) = (self.clone(), reference.clone(), auth.clone());
        sys::blocking(move || Source::open(&client, &reference, &auth)).await
    }
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryClient")
    }
}
