//! Registries as the node's administrator describes them: which endpoints serve an image, and what a short name stands for.
//!
//! ```text
//!   registries.conf, registries.conf.d/*.conf ─▶ conf::parse ─┐
//!   <hosts_dir>/<host>/hosts.toml ─────────────▶ hosts::parse ┴▶ Snapshot ─▶ plan: a reference's endpoints, in order
//!                                                                        └▶ candidates: a short name's references
//! ```
//!
//! All of it is pure but for `load`, which owns the files: it reads them at start, and again when one of them has changed.
//! Nothing here speaks to a registry. Certificates are only named here (by path); who connects reads them.

mod conf;
mod error;
#[cfg(podd_fuzzing)]
pub mod fuzzing;
mod hosts;
mod load;
mod lookup;
mod names;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use http::HeaderMap;

pub use self::conf::{LARGEST_FILE, Mirror, Pulls, RegistriesConf, Registry, ShortNameMode, parse};
pub use self::error::{ConfError, LoadError};
pub use self::hosts::{HostEntry, HostsFile, parse_hosts};
pub use self::load::{Paths, Registries, Snapshot};
pub use self::lookup::default_authority;
use super::reference::Reference;

/// The endpoints of one image, in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Mirrors first, the registry itself last.
    pub endpoints: Vec<Endpoint>,
    /// Why endpoints that one might expect are not among them, for the error if the others fail too.
    pub refused: Vec<String>,
}

/// One place that may serve an image.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The image by the name that it has there.
    pub reference: Reference,
    /// `host` or `host:port`, without user information.
    pub authority: String,
    /// How it may be spoken to.
    pub scheme: Scheme,
    /// The path before the repository; begins and ends with a slash (`/v2/`).
    pub root: String,
    /// The registry that a mirror stands in for, told as containerd does (the `ns` parameter).
    pub namespace: Option<String>,
    /// Headers of every request to it; they may be secret.
    pub headers: HeaderMap,
    /// Whom to believe, and who we are by certificate.
    pub trust: Trust,
    /// Whether it is the registry itself.
    pub role: Role,
    /// Whether it may say what a tag means; if not it serves by digest alone.
    pub resolves: bool,
    /// Whether it is the host that the image's name has, so that credentials given for the image are for it.
    pub home: bool,
}

/// What an endpoint is to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A copy of the registry.
    Mirror,
    /// The registry, at its own name or at the location that the configuration gives it.
    Origin,
}

/// How an endpoint may be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTPS; plain HTTP only where podd's own configuration allows it for the host.
    Default,
    /// HTTPS, else plain HTTP (`insecure = true`).
    Either,
    /// HTTPS and nothing else.
    Https,
    /// Plain HTTP and nothing else.
    Http,
}

/// Certificates of an endpoint, besides the system's authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// A directory as in containers-certs.d(5); it need not exist.
    pub directory: Option<PathBuf>,
    /// More certificate authorities.
    pub ca: Vec<PathBuf>,
    /// Our certificates with their keys; the first is used.
    pub client: Vec<(PathBuf, PathBuf)>,
    /// Whether the endpoint's certificate counts at all.
    pub verify: bool,
}
