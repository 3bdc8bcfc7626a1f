//! The configuration: parsed, validated, then frozen for the life of the daemon.
//!
//! Built-in defaults, then `podd.toml`, then the drop-ins of `podd.toml.d` by name, then flags. All mistakes are reported
//! at once, each with its file and key. Everything that two daemons on one machine would share is a key here. Each section has
//! a file of its own, which holds its keys, their defaults, how they are read and how they are shown.

mod apparmor;
mod blockio;
mod cdi;
mod cgroup;
mod containers;
mod devices;
mod disk;
mod endpoints;
mod images;
mod load;
mod monitor;
mod mounts;
mod network;
mod print;
mod read;
mod runtimes;
mod seccomp;
mod security;
mod selinux;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

pub use apparmor::AppArmorConfig;
pub use blockio::BlockIoConfig;
pub use cdi::CdiConfig;
pub use cgroup::CgroupConfig;
pub use containers::{ContainersConfig, Ulimit, Variable};
pub use devices::{DevicesConfig, NamedDevice};
pub use disk::DiskConfig;
pub use endpoints::{MetricsConfig, NriConfig, StreamingConfig, TracingConfig};
pub use images::{ImagesConfig, Inflate};
pub use load::{ConfigError, DEFAULT_FILE, DEFAULT_POLICY, load};
pub use monitor::MonitorConfig;
pub use mounts::{HostMount, ImageVolumes, MountsConfig, Timezone};
pub use network::NetworkConfig;
pub use print::render;
pub use read::Problem;
pub use runtimes::{RuntimeConfig, RuntimeKind, Runtimes};
pub use seccomp::{SeccompConfig, UnsetSeccomp};
pub use security::SecurityConfig;
pub use selinux::{SelinuxConfig, UseSelinux};

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
    /// How the log is written.
    pub log_format: LogFormat,
    /// The journal's socket.
    pub journal_socket: PathBuf,
    /// How long a pod or container is kept whose client went away and did not come back for it, in seconds.
    pub abandoned_after_seconds: u64,
    /// OCI runtimes by the name of their RuntimeClass handler.
    pub runtimes: Runtimes,
    /// Every container's cgroup.
    pub cgroup: CgroupConfig,
    /// AppArmor.
    pub apparmor: AppArmorConfig,
    /// What every container gets that does not say otherwise.
    pub containers: ContainersConfig,
    /// Device nodes that the operator gives, or lets pods ask for.
    pub devices: DevicesConfig,
    /// Devices of the Container Device Interface.
    pub cdi: CdiConfig,
    /// Classes of block I/O.
    pub blockio: BlockIoConfig,
    /// What the writable layers take.
    pub disk: DiskConfig,
    /// The monitors.
    pub monitor: MonitorConfig,
    /// What containers see besides what their pods ask for.
    pub mounts: MountsConfig,
    /// The pod network.
    pub network: NetworkConfig,
    /// Images and registries.
    pub images: ImagesConfig,
    /// The streaming server.
    pub streaming: StreamingConfig,
    /// The Prometheus endpoint.
    pub metrics: MetricsConfig,
    /// Traces of operations.
    pub tracing: TracingConfig,
    /// The Node Resource Interface.
    pub nri: NriConfig,
    /// What containers have that ask for nothing.
    pub security: SecurityConfig,
    /// The filters of system calls.
    pub seccomp: SeccompConfig,
    /// The labels of pods and containers.
    pub selinux: SelinuxConfig,
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

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// To the journal where standard error leads there, else as text.
    Auto,
    /// Lines for people, on standard error.
    Text,
    /// One JSON object per line, on standard error.
    Json,
    /// To the journal, with fields.
    Journald,
}
