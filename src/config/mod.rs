//! The configuration: parsed, validated, then frozen for the life of the daemon.
//!
//! Built-in defaults, then `podd.toml`, then the drop-ins of `podd.toml.d` by name, then flags. All mistakes are reported
//! at once, each with its file and key. Everything that two daemons on one machine would share is a key here.

mod load;
mod print;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

pub use load::{ConfigError, DEFAULT_FILE, DEFAULT_POLICY, load};
pub use print::render;
pub use read::Problem;

/// The effective configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Images, writable layers and CNI records; survives a reboot.
    pub root: PathBuf,
    /// State of pods and containers; on tmpfs.
    pub run_dir: PathBuf,
    /// The CRI's unix socket.
    pub socket: PathBuf,
    /// The handler for pods that name none; a key of `runtimes`.
    pub default_runtime: String,
    /// Who makes the containers' cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// How long a pod or container is kept whose client went away and did not come back for it, in seconds.
    pub abandoned_after_seconds: u64,
    /// OCI runtimes by the name of their RuntimeClass handler.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// The monitors.
    pub monitor: MonitorConfig,
    /// The pod network.
    pub network: NetworkConfig,
    /// Images and registries.
    pub images: ImagesConfig,
    /// The streaming server.
    pub streaming: StreamingConfig,
    /// The Prometheus endpoint.
    pub metrics: MetricsConfig,
    /// The Node Resource Interface.
    pub nri: NriConfig,
}

/// Who makes the containers' cgroups, as the kubelet's `cgroupDriver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// `systemd` where systemd is PID 1, else `cgroupfs`.
    Auto,
    /// Slices and scopes, made by systemd at the runtime's request.
    Systemd,
    /// Directories, made by the runtime itself.
    Cgroupfs,
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// One OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeConfig {
    /// Its binary.
    pub path: PathBuf,
    /// Its `--root`, on tmpfs.
    pub root: PathBuf,
}

/// The monitors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MonitorConfig {
    /// The `podd-monitor` binary; empty: beside podd's own.
    pub path: PathBuf,
    /// The cgroup that all monitors share, away from the daemon's; empty: where the daemon is.
    pub cgroup: String,
}

/// The pod network (CNI).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkConfig {
    /// Network configurations; the first by name is used.
    pub conf_dir: PathBuf,
    /// Where plugins are looked up, in this order.
    pub plugin_dirs: Vec<PathBuf>,
    /// Records of attachments; survives a reboot.
    pub cache_dir: PathBuf,
    /// Where network namespaces are pinned, as `ip netns` does.
    pub netns_dir: PathBuf,
}

/// Images and registries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagesConfig {
    /// Mirrors and insecure registries (containers-registries.conf(5), version 2).
    pub registries_conf: PathBuf,
    /// Signature policy (containers-policy.json(5)).
    pub policy: PathBuf,
    /// Signature policies of single namespaces, `<namespace>.json`; empty: none.
    pub policy_dir: PathBuf,
    /// Certificates by registry (containers-certs.d(5)).
    pub certs_dir: PathBuf,
    /// containerd's directory of `hosts.toml` files by registry; empty: none.
    pub hosts_dir: PathBuf,
    /// Credentials for every pull (containers-auth.json(5)); empty: none.
    pub auth_file: PathBuf,
    /// Where a credential provider leaves auth files by namespace and image; empty: nowhere.
    pub namespaced_auth_dir: PathBuf,
    /// How long a layer may come without a byte, or too slowly, before its connection is given up, in seconds.
    pub stall_timeout_seconds: u64,
    /// How many layers the node fetches at a time, all pulls together.
    pub max_parallel_layers: u64,
    /// Where images and layers lie, on a file system of their own if wanted; empty: in `root`.
    pub root: PathBuf,
    /// Images that the kubelet's garbage collection must leave: exact names, `prefix*`, `*keyword*`.
    pub pinned: Vec<String>,
    /// How long layers of a pull that failed are of use to the next one, in seconds.
    pub keep_unfinished_seconds: u64,
    /// How much a layer may unpack to, in bytes: its files, and its tar.
    pub max_unpacked_bytes: u64,
    /// Registries (`host:port`) that may be spoken to by plain HTTP, besides those on loopback.
    pub insecure_registries: Vec<String>,
    /// Archives that are imported without being asked for, where it exists; empty: none.
    pub preload_dir: PathBuf,
}

/// The streaming server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamingConfig {
    /// Where it listens; port 0 takes any that is free.
    pub address: SocketAddr,
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
