//! `[streaming]`, `[metrics]` and `[nri]`: what others connect to besides the CRI.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// The streaming server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamingConfig {
    /// Where it listens; port 0 takes any that is free.
    pub address: SocketAddr,
    /// Its certificate, in PEM with those between it and the root; empty: no TLS.
    pub tls_cert: PathBuf,
    /// The certificate's key, in PEM.
    pub tls_key: PathBuf,
    /// Who signs the certificates that clients must show, in PEM; empty: they show none.
    pub tls_client_ca: PathBuf,
    /// How long a session may be silent, in seconds.
    pub idle_timeout_seconds: u64,
}

/// The Prometheus endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetricsConfig {
    /// Where it listens; `None` is off.
    pub address: Option<SocketAddr>,
}

/// The Node Resource Interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NriConfig {
    /// The plugins' socket; empty is off.
    pub socket: PathBuf,
}

impl StreamingConfig {
    pub(super) fn defaults() -> Self {
        let none = PathBuf::new;
        let address = ([127, 0, 0, 1], 0).into();
        Self {
            address,
            tls_cert: none(),
            tls_key: none(),
            tls_client_ca: none(),
            idle_timeout_seconds: 4 * 3600,
        }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        let mut address = Some(self.address);
        reader.address("address", &mut address);
        self.address = address.unwrap_or(self.address);
        reader.optional_path("tls_cert", &mut self.tls_cert);
        reader.optional_path("tls_key", &mut self.tls_key);
        reader.optional_path("tls_client_ca", &mut self.tls_client_ca);
        reader.number("idle_timeout_seconds", 1..=365 * 86_400, &mut self.idle_timeout_seconds);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("streaming", "exec, attach and port-forward");
        page.key("address", print::text(&self.address.to_string()), "port 0: any that is free");
        page.key("tls_cert", print::path(&self.tls_cert), "PEM, read anew when it changes; empty: no TLS");
        page.key("tls_key", print::path(&self.tls_key), "PEM");
        page.key(
            "tls_client_ca",
            print::path(&self.tls_client_ca),
            "PEM: clients need certificates; empty: not",
        );
        page.key("idle_timeout_seconds", self.idle_timeout_seconds, "a silent session is ended");
    }
}

impl MetricsConfig {
    pub(super) fn defaults() -> Self {
        Self { address: None }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.address("address", &mut self.address);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("metrics", "Prometheus");
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        page.key("address", print::text(&address), "host:port; empty: off");
    }
}

impl NriConfig {
    pub(super) fn defaults() -> Self {
        Self { socket: PathBuf::new() }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.optional_path("socket", &mut self.socket);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("nri", "Node Resource Interface");
        page.key("socket", print::path(&self.socket), "the plugins' socket; empty: off");
    }
}
