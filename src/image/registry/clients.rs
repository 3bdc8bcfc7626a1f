//! HTTP clients by what they believe: one for all registries without certificates of their own, and one for each set of
//! authorities, client certificate and trust that an endpoint's configuration names.
//!
//! The files are read for each pull and a client is found by their content, so that a renewed certificate is used by the
//! next pull and connections are shared as long as nothing changes. What cannot be used is reported once; an endpoint that
//! had certificates before keeps them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, Url};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::transport::{SetupError, is_loopback};
use crate::image::registries::Trust;

/// More sets of certificates than a node has registries; beyond it all clients are made anew.
const MOST_CLIENTS: usize = 64;
/// More hosts with certificates of their own; likewise. Images may name any number of hosts.
const MOST_AUTHORITIES: usize = 1024;
/// The largest certificate or key file, in bytes: a bundle of all public authorities takes a fifth of it.
const LARGEST_FILE: u64 = 1024 * 1024;

/// The clients of one set of certificates.
#[derive(Clone)]
pub(super) struct Clients {
    /// For hosts on loopback, which are never behind a proxy.
    direct: Client,
    /// For all others, by the proxy of the environment where there is one.
    outward: Client,
}

impl Clients {
    /// The client for a URL.
    pub(super) fn of(&self, url: &Url) -> &Client {
        match url.host_str() {
            Some(host) if is_loopback(host) => &self.direct,
            _ => &self.outward,
        }
    }
}

/// A certificate or key that cannot be used. Nothing of a key is ever repeated.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {LARGEST_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{} has no certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} has no private key in PEM form", .0.display())]
    NoKey(PathBuf),
    #[error("{} is a client certificate without its key {}", cert.display(), key.display())]
    Unpaired { cert: PathBuf, key: PathBuf },
    #[error("the client certificate {} cannot be used: {reason}", path.display())]
    Client { path: PathBuf, reason: String },
    #[error("{0}")]
    Setup(String),
}

/// All clients.
pub(super) struct ClientPool {
    user_agent: String,
    connect: Duration,
    roots: Arc<RootCertStore>,
    common: Clients,
    // Held for map operations; never over an await.
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    by_content: HashMap<[u8; 32], Clients>,
    /// The last that could be made for an endpoint, and what was wrong after that.
    by_authority: HashMap<String, (Clients, Option<String>)>,
}

/// The content of the files that a [`Trust`] names.
struct Material {
    ca: Vec<(PathBuf, Vec<u8>)>,
    client: Option<ClientCertificate>,
    verify: bool,
}

struct ClientCertificate {
    path: PathBuf,
    cert: Vec<u8>,
    key_path: PathBuf,
    key: Vec<u8>,
}

impl ClientPool {
    /// The pool with the system's certificate authorities and the environment's proxies, as they are now.
    pub(super) fn new(user_agent: &str, connect: Duration) -> Result<Self, SetupError> {
        let roots = Arc::new(system_roots());
        let plain = Material { ca: Vec::new(), client: None, verify: true };
        let setup = |e: TrustError| SetupError(Box::new(e));
        let tls = plain.tls(&roots).map_err(setup)?;
        let common = build(user_agent, connect, &tls).map_err(setup)?;
        let user_agent = user_agent.to_owned();
        Ok(Self { user_agent, connect, roots, common, made: Mutex::default() })
    }

    /// The clients for an endpoint. Blocks: it reads certificates.
    pub(super) fn get(&self, authority: &str, trust: &Trust) -> Result<Clients, TrustError> {
        let error = match Material::read(trust).and_then(|material| self.find_or_make(authority, &material)) {
            Ok(clients) => return Ok(clients),
            Err(error) => error,
        };
        let mut made = self.lock();
        let Some((clients, complaint)) = made.by_authority.get_mut(authority) else { return Err(error) };
        let text = error.to_string();
        if complaint.as_ref() != Some(&text) {
            tracing::error!(registry = authority, "{text}; the certificates from before stay in use");
            *complaint = Some(text);
        }
        Ok(clients.clone())
    }

    /// How many sets of clients were made besides the common one.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().by_content.len()
    }

    fn find_or_make(&self, authority: &str, material: &Material) -> Result<Clients, TrustError> {
        if material.ca.is_empty() && material.client.is_none() && material.verify {
            return Ok(self.common.clone());
        }
        let content = material.content();
        let known = self.lock().by_content.get(&content).cloned();
        let clients = match known {
            Some(clients) => clients,
            None => build(&self.user_agent, self.connect, &material.tls(&self.roots)?)?,
        };
        let mut made = self.lock();
        if made.by_content.len() >= MOST_CLIENTS || made.by_authority.len() >= MOST_AUTHORITIES {
            *made = Made::default();
        }
        made.by_content.insert(content, clients.clone());
        made.by_authority.insert(authority.to_owned(), (clients.clone(), None));
        Ok(clients)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Material {
    /// Reads what the configuration names, then the directory: `*.crt` are authorities, `*.cert` with `*.key` is us.
    fn read(trust: &Trust) -> Result<Self, TrustError> {
        let mut authorities = trust.ca.clone();
        let mut pairs = trust.client.clone();
        for path in list(trust.directory.as_deref())? {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => authorities.push(path),
                Some("cert") => pairs.push((path.clone(), path.with_extension("key"))),
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(TrustError::Unpaired { cert: path.with_extension("cert"), key: path });
                }
                Some(_) | None => {}
            }
        }
        let ca = authorities.into_iter().map(|path| Ok((path.clone(), read(&path)?)));
        let client = pairs.into_iter().next().map(|(path, key_path)| {
            if !key_path.exists() {
                return Err(TrustError::Unpaired { cert: path, key: key_path });
            }
            Ok(ClientCertificate { cert: read(&path)?, key: read(&key_path)?, path, key_path })
        });
        Ok(Self {
            ca: ca.collect::<Result<_, TrustError>>()?,
            client: client.transpose()?,
            verify: trust.verify,
        })
    }

    /// What tells two sets of certificates apart.
    fn content(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update(bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        field(&[u8::from(self.verify), u8::from(self.client.is_some())]);
        if let Some(client) = &self.client {
            field(&client.cert);
            field(&client.key);
        }
        for (_, ca) in &self.ca {
            field(ca);
        }
        hash.finalize().into()
    }

    fn tls(&self, system: &Arc<RootCertStore>) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| TrustError::Setup(e.to_string()))?;
        let builder = match self.verify {
            true => builder.with_root_certificates(self.roots(system)?),
            false => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider))),
        };
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let key = PrivateKeyDer::from_pem_slice(&client.key)
                    .map_err(|_| TrustError::NoKey(client.key_path.clone()))?;
                let unusable = |e: rustls::Error| TrustError::Client {
                    path: client.path.clone(),
                    reason: e.to_string(),
                };
                builder
                    .with_client_auth_cert(certificates(&client.path, &client.cert)?, key)
                    .map_err(unusable)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self, system: &Arc<RootCertStore>) -> Result<Arc<RootCertStore>, TrustError> {
        if self.ca.is_empty() {
            return Ok(Arc::clone(system));
        }
        let mut roots = RootCertStore::clone(system);
        for (path, pem) in &self.ca {
            let (added, _) = roots.add_parsable_certificates(certificates(path, pem)?);
            if added == 0 {
                return Err(TrustError::NoCertificate(path.clone()));
            }
        }
        Ok(Arc::new(roots))
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    if found.is_empty() { Err(TrustError::NoCertificate(path.to_owned())) } else { Ok(found) }
}

fn build(user_agent: &str, connect: Duration, tls: &ClientConfig) -> Result<Clients, TrustError> {
    let builder = || {
        Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .http1_only()
            .user_agent(user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect)
            .pool_idle_timeout(Duration::from_secs(30))
    };
    let build =
        |builder: reqwest::ClientBuilder| builder.build().map_err(|e| TrustError::Setup(e.to_string()));
    Ok(Clients { direct: build(builder().no_proxy())?, outward: build(builder())? })
}

/// The system's certificate authorities. A node without any can still pull by plain HTTP, so their absence is no error
/// here; a handshake then fails as one with an unknown issuer.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        tracing::warn!(
            "no certificate authorities on this system: registries without certificates of their own in \
             images.certs_dir can be reached by plain HTTP only"
        );
    }
    roots
}

/// The files of a directory by name; none where there is no directory.
fn list(directory: Option<&Path>) -> Result<Vec<PathBuf>, TrustError> {
    let Some(directory) = directory else { return Ok(Vec::new()) };
    let failed = |source| TrustError::Read { path: directory.to_owned(), source };
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut paths =
        listed.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    use io::Read;
    let failed = |source| TrustError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(failed)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE { Err(TrustError::TooLarge(path.to_owned())) } else { Ok(bytes) }
}

/// Takes any certificate, for endpoints that the administrator has declared insecure.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature by a key that nobody vouches for proves nothing.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
