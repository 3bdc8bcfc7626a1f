//! TLS of what podd serves over TCP: certificate and key from files, read anew when they have changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::config::{MetricsConfig, StreamingConfig};

/// A file that TLS cannot be had from.
#[derive(Debug, thiserror::Error)]
#[error("{}, the value of {section}.{key}: {why}", path.display())]
pub struct TlsError {
    section: &'static str,
    key: &'static str,
    path: PathBuf,
    why: String,
}

/// The files of one server, in PEM, as its section of the configuration names them; an empty path is none.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    section: &'static str,
    tls_cert: PathBuf,
    tls_key: PathBuf,
    tls_client_ca: PathBuf,
}

impl TlsFiles {
    /// Those of the streaming server.
    pub fn of_streaming(config: &StreamingConfig) -> Self {
        Self {
            section: "streaming",
            tls_cert: config.tls_cert.clone(),
            tls_key: config.tls_key.clone(),
            tls_client_ca: config.tls_client_ca.clone(),
        }
    }

    /// Those of the metrics.
    pub fn of_metrics(config: &MetricsConfig) -> Self {
        Self {
            section: "metrics",
            tls_cert: config.tls_cert.clone(),
            tls_key: config.tls_key.clone(),
            tls_client_ca: config.tls_client_ca.clone(),
        }
    }
}

/// What is needed for a handshake, as it was when the files were looked at last.
pub struct Tls {
    files: TlsFiles,
    // Held while files are read, which is seldom and short.
    current: Mutex<(Stamps, Arc<ServerConfig>)>,
}

/// By which a changed file is told: length and time of each.
type Stamps = [Option<(u64, SystemTime)>; 3];

impl Tls {
    /// `None` where the configuration asks for none.
    pub fn open(files: TlsFiles) -> Result<Option<Self>, TlsError> {
        if files.tls_cert.as_os_str().is_empty() {
            return Ok(None);
        }
        let current = Mutex::new((stamps(&files), Arc::new(load(&files)?)));
        Ok(Some(Self { files, current }))
    }

    /// The settings for the next handshake. Files that are new and bad leave it with the old ones, and say so.
    pub fn settings(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        if now != current.0 {
            current.0 = now;
            match load(&self.files) {
                Ok(settings) => {
                    tracing::info!(section = self.files.section, "the certificate was read anew");
                    current.1 = Arc::new(settings);
                }
                Err(error) => tracing::error!(%error, "the old certificate stays in use"),
            }
        }
        Arc::clone(&current.1)
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    [&files.tls_cert, &files.tls_key, &files.tls_client_ca].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.len(), found.modified().ok()?))
    })
}

fn load(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let certificates = files.certificates("tls_cert", &files.tls_cert)?;
    let bad = |key, path: &Path, why: String| files.bad(key, path, why);
    let text = files.read("tls_key", &files.tls_key)?;
    let key = PrivateKeyDer::from_pem_slice(&text);
    let key =
        key.map_err(|e| bad("tls_key", &files.tls_key, format!("there is no private key in it: {e}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| bad("tls_cert", &files.tls_cert, e.to_string()))?;
    let builder = match files.tls_client_ca.as_os_str().is_empty() {
        true => builder.with_no_client_auth(),
        false => {
            let path = &files.tls_client_ca;
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(files.certificates("tls_client_ca", path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder
                .with_client_cert_verifier(verifier.map_err(|e| bad("tls_client_ca", path, e.to_string()))?)
        }
    };
    let settings = builder.with_single_cert(certificates, key);
    settings.map_err(|e| bad("tls_key", &files.tls_key, format!("it does not go with the certificate: {e}")))
}

impl TlsFiles {
    fn bad(&self, key: &'static str, path: &Path, why: String) -> TlsError {
        TlsError { section: self.section, key, path: path.to_owned(), why }
    }

    fn certificates(&self, key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let text = self.read(key, path)?;
        let found: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
        match found.is_empty() {
            true => Err(self.bad(key, path, "there is no certificate in it".to_owned())),
            false => Ok(found),
        }
    }

    fn read(&self, key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
        fs::read(path).map_err(|error| self.bad(key, path, error.to_string()))
    }
}
