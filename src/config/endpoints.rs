//! `[streaming]`, `[metrics]`, `[tracing]` and `[nri]`: what others connect to besides the CRI, and who is told of it.

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
    /// A unix socket where it listens as well; empty is off.
    pub socket: PathBuf,
    /// The certificate of the address, in PEM with those between it and the root; empty: no TLS.
    pub tls_cert: PathBuf,
    /// The certificate's key, in PEM.
    pub tls_key: PathBuf,
    /// Who signs the certificates that scrapers must show, in PEM; empty: they show none.
    pub tls_client_ca: PathBuf,
}

/// Traces of operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TracingConfig {
    /// The collector, as host:port or `http://host:port`; empty is off.
    pub endpoint: String,
    /// How many of a million operations are traced that no caller has decided about.
    pub sampling_rate_per_million: u64,
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
        let none = PathBuf::new;
        Self { address: None, socket: none(), tls_cert: none(), tls_key: none(), tls_client_ca: none() }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.address("address", &mut self.address);
        reader.optional_path("socket", &mut self.socket);
        reader.optional_path("tls_cert", &mut self.tls_cert);
        reader.optional_path("tls_key", &mut self.tls_key);
        reader.optional_path("tls_client_ca", &mut self.tls_client_ca);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("metrics", "Prometheus");
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        page.key("address", print::text(&address), "host:port; empty: off");
        page.key("socket", print::path(&self.socket), "a unix socket, too; empty: off");
        page.key("tls_cert", print::path(&self.tls_cert), "PEM, read anew when it changes; empty: no TLS");
        page.key("tls_key", print::path(&self.tls_key), "PEM");
        page.key(
            "tls_client_ca",
            print::path(&self.tls_client_ca),
            "PEM: scrapers need certificates; empty: not",
        );
    }
}

impl TracingConfig {
    /// The endpoint with its scheme, or what is wrong with it.
    pub fn uri(&self) -> Result<http::Uri, String> {
        let text = match self.endpoint.contains("://") {
            true => self.endpoint.clone(),
            false => format!("http://{}", self.endpoint),
        };
        let wrong = || format!("{:?} is not host:port", self.endpoint);
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http") if uri.port_u16().is_some() && uri.path() == "/" => Ok(uri),
            Some("https") => Err("TLS is not spoken to collectors; name one on the node".to_owned()),
            _ => Err(wrong()),
        }
    }

    pub(super) fn defaults() -> Self {
        Self { endpoint: String::new(), sampling_rate_per_million: 0 }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.string("endpoint", &mut self.endpoint);
        reader.number("sampling_rate_per_million", 0..=1_000_000, &mut self.sampling_rate_per_million);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("tracing", "OpenTelemetry");
        page.key("endpoint", print::text(&self.endpoint), "OTLP over gRPC: host:port; empty: off");
        let rate = self.sampling_rate_per_million;
        page.key("sampling_rate_per_million", rate, "of what no caller has decided about");
    }

    pub(super) fn check(&self, problem: &mut impl FnMut(&str, String)) {
        if !self.endpoint.is_empty()
            && let Err(why) = self.uri()
        {
            problem("tracing.endpoint", why);
        }
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
