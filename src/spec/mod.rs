//! From what the kubelet asks for to the `config.json` of an OCI runtime.
//!
//! [`build`] is a pure function: no file system, no kernel. What has to be observed (the daemon's capabilities, device
//! nodes, the sources of mounts, the image's passwd) comes in as data, gathered by [`observe`] and [`Sources`], so that every
//! answer can be reproduced from its input. Each file here holds the rules of one part of the document:
//!
//! ```text
//! process.rs    args, env, cwd, user, oom_score_adj      security.rs   capabilities
//! mounts.rs     default and CRI mounts, their order      seccomp/      filters of system calls, profiles
//! linux.rs      namespaces, devices, masks               resources.rs  cpu, memory, hugepages, unified
//! user.rs       who runs it: CRI, image, passwd, group   annotations.rs which annotations are heard
//! userns.rs     user namespaces, owners of volumes       apparmor.rs   the profile
//! adjust.rs     changes to the finished document         base.rs       what the operator has each document start from
//! ```
//!
//! Invariants: nothing of oci-spec's own defaults gets into the document; a field that cannot be honoured is an error and
//! never dropped in silence; of the client's annotations only those are passed on, or obeyed, that the operator allows.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Capability, Root, Spec};

use crate::api;
use crate::config::HostMount;
use crate::id::PodId;
use crate::runtime::Features;
use crate::selinux::Labels;

pub mod adjust;
pub mod annotations;
mod apparmor;
pub mod base;
mod linux;
mod mounts;
pub mod observe;
pub mod pause;
mod process;
mod resources;
pub mod seccomp;
mod security;
mod sources;
#[cfg(test)]
mod tests;
pub mod user;
pub mod userns;

pub use base::Base;
pub use observe::{HostDevice, HostFacts};
pub use process::{exec_process, program};
pub use resources::{linux_resources, oom_score_adj};
pub use security::{DEFAULT_CAPABILITIES, capability, lacking};
pub use sources::{MountSource, SourcePropagation, Sources};
pub use user::{ResolvedUser, UserError, UserRequest, image_user};

/// The version written into each document: the newest that every runtime in use accepts (crun before 1.9 refuses 1.1).
pub(crate) const OCI_VERSION: &str = "1.0.2";

/// All that a container's document is made of.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The container, as the client asked for it.
    pub config: &'a api::ContainerConfig,
    /// The pod that it belongs to, as the client asked for it.
    pub pod: &'a api::PodSandboxConfig,
    /// The pod's ID.
    pub pod_id: &'a PodId,
    /// The image's own configuration.
    pub image: &'a ImageConfiguration,
    /// Who runs it, from [`user::resolve`].
    pub user: &'a ResolvedUser,
    /// Where the runtime finds the root filesystem.
    pub rootfs: &'a Path,
    /// `linux.cgroupsPath`, in the form of the cgroup driver.
    pub cgroups_path: &'a str,
    /// The host name that holds in the pod's UTS namespace.
    pub hostname: &'a str,
    /// The most processes and threads that it may have, of the node's configuration; 0 is any number.
    pub pids_limit: u64,
    /// The namespaces that are there already.
    pub namespaces: Namespaces<'a>,
    /// The pod's files.
    pub files: PodFiles<'a>,
    /// The sources of `config.mounts`, one for each and in the same order.
    pub mounts: &'a [MountSource],
    /// What the operator mounts into every container; a mount of the client takes the place of one at its destination.
    pub default_mounts: &'a [HostMount],
    /// The nodes that `config.devices` stand for, with the path inside the container.
    pub devices: &'a [HostDevice],
    /// The client's annotations that the operator allows, from [`annotations::allowed`].
    pub annotations: &'a BTreeMap<String, String>,
    /// The capabilities of a container that adds and drops none.
    pub capabilities: &'a [Capability],
    /// The filter of system calls, from [`seccomp::Profiles::filter`].
    pub seccomp: &'a seccomp::Filter<'a>,
    /// The labels, from [`Selinux::labels`](crate::selinux::Selinux::labels).
    pub labels: &'a Labels,
    /// What the runtime can do.
    pub features: &'a Features,
    /// What holds where neither the client nor the image says otherwise.
    pub base: &'a Base,
    /// What the handler gives privileged containers of the host's devices.
    pub privileged_devices: PrivilegedDevices,
    /// What is known of the host.
    pub host: &'a HostFacts,
}

/// What a privileged container gets of the host's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivilegedDevices {
    /// All of them.
    #[default]
    All,
    /// Only those that are asked for; it may use others once it has made nodes for them.
    Allowed,
    /// Only those that are asked for.
    Asked,
}

/// Namespaces to join, by the path that pins them; `None` is the host's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Namespaces<'a> {
    /// The pod's network namespace.
    pub network: Option<&'a Path>,
    /// The pod's IPC namespace.
    pub ipc: Option<&'a Path>,
    /// The pod's UTS namespace.
    pub uts: Option<&'a Path>,
    /// The pod's user namespace, which owns the others.
    pub user: Option<&'a Path>,
    /// The PID namespace for the modes POD (the pod's) and TARGET (the target container's); unused in the other modes.
    pub pid: Option<&'a Path>,
}

/// Files of the pod that each of its containers sees; `None` leaves the image's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodFiles<'a> {
    /// Becomes `/etc/resolv.conf`.
    pub resolv_conf: Option<&'a Path>,
    /// Becomes `/etc/hostname`.
    pub hostname: Option<&'a Path>,
    /// Becomes `/etc/hosts`, read-only: the host's own for a pod of the host's network. The kubelet brings its own for every
    /// pod.
    pub hosts: Option<&'a Path>,
    /// Becomes `/dev/shm`: the pod's own tmpfs, or the host's `/dev/shm` with host IPC.
    pub shm: Option<&'a Path>,
}

/// Why a container cannot be described to the runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A field of the request, or of the image, that is wrong in itself.
    #[error("{field}: {why}")]
    Invalid {
        /// The CRI field's name, from the top of `ContainerConfig`.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// A field that is right, but that podd or this host cannot honour.
    #[error("{field} is not supported here: {why}")]
    Unsupported {
        /// The CRI field's name, from the top of `ContainerConfig`.
        field: String,
        /// Why not.
        why: String,
    },
}

impl SpecError {
    fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }

    fn unsupported(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), why: why.into() }
    }
}

/// Makes the runtime's document for one container.
pub fn build(input: &SpecInput<'_>) -> Result<Spec, SpecError> {
    let privileged = privileged(input)?;
    let ids = userns::check(input)?;
    let (mounts, propagation) = mounts::build(input, privileged)?;
    let mut root = Root::default();
    root.set_path(input.rootfs.to_owned()).set_readonly(Some(security(input).readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(process::build(input, privileged)?))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux::build(input, privileged, propagation, ids)?))
        .set_annotations(Some(annotations::build(input)));
    input.base.complete(&mut spec)?;
    Ok(spec)
}

/// The container's security context; the CRI's defaults where the client sent none.
fn security<'a>(input: &SpecInput<'a>) -> &'a api::LinuxContainerSecurityContext {
    static DEFAULT: std::sync::LazyLock<api::LinuxContainerSecurityContext> =
        std::sync::LazyLock::new(Default::default);
    input.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()).unwrap_or(&DEFAULT)
}

/// Whether the container is privileged, which only a privileged pod may have.
fn privileged(input: &SpecInput<'_>) -> Result<bool, SpecError> {
    let asked = security(input).privileged;
    let pod = input.pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    if asked && !pod.is_some_and(|context| context.privileged) {
        let why = "the pod is not privileged, so none of its containers can be";
        return Err(SpecError::invalid("linux.security_context.privileged", why));
    }
    Ok(asked)
}
