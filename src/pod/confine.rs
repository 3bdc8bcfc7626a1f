//! What holds a pod or a container in bounds and is not the runtime's to find: labels, profiles, default rights.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Capability;

use super::container::ContainerFacts;
use super::error::{PodError, Stage};
use super::sandbox::{Pod, PodFacts};
use super::{OpenError, Pods};
use crate::api::{ContainerConfig, LinuxSandboxSecurityContext, PodSandboxConfig};
use crate::config::Config;
use crate::image::Image;
use crate::selinux::{
    self, InvalidOption, Labels, Levels, RelabelError, Request, Reservation, Selinux, Trust,
};
use crate::spec::seccomp::Profiles;
use crate::spec::{self, HostFacts};
use crate::sys;
use crate::sys::namespace::{NamespaceRequest, SysctlNamespace, same_sysctl, sysctl_namespace};

/// By these a pod says that a volume with the right label at its top has it all through; the first is CRI-O's older name.
const TRUST_TOP: [&str; 2] =
    ["io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel", "try-skip-volume-selinux-label.crio.io"];

/// The node's rules.
pub(super) struct Confinement {
    pub(super) seccomp: Profiles,
    /// Of a container that adds and drops none.
    pub(super) capabilities: Vec<Capability>,
    selinux: Selinux,
    levels: Levels,
    sysctls: BTreeMap<String, String>,
}

/// The level of a pod that is being made, which no other gets meanwhile.
pub(super) enum Level<'a> {
    /// There are no labels, or the pod's own options name one.
    Given(Option<String>),
    Chosen(Reservation<'a>),
}

impl Level<'_> {
    pub(super) fn value(&self) -> Option<String> {
        match self {
            Self::Given(level) => level.clone(),
            Self::Chosen(reservation) => Some(reservation.level().to_owned()),
        }
    }
}

impl Confinement {
    pub(super) fn new(config: &Config, host: &HostFacts) -> Result<Self, OpenError> {
        let seccomp = Profiles::load(&config.seccomp)
            .map_err(|e| OpenError { operation: "use `seccomp.profile`".to_owned(), source: e.into() })?;
        let sysctls = config.security.sysctls.iter().filter_map(|entry| entry.split_once('='));
        Ok(Self {
            seccomp,
            // Their names were checked when the configuration was read.
            capabilities: config
                .security
                .capabilities
                .iter()
                .filter_map(|name| spec::capability(name))
                .collect(),
            selinux: Selinux::new(&config.selinux, host.selinux),
            levels: Levels::default(),
            sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        })
    }

    /// Adds the node's own kernel parameters, as far as the pod has the namespace for them and does not set them itself.
    pub(super) fn add_default_sysctls(&self, request: &mut NamespaceRequest) {
        for (name, value) in &self.sysctls {
            let own = match sysctl_namespace(name) {
                Ok(SysctlNamespace::Net) => request.net.is_some(),
                Ok(SysctlNamespace::Ipc) => request.ipc.is_some(),
                Err(_) => false,
            };
            if own && !request.sysctls.keys().any(|asked| same_sysctl(asked, name)) {
                request.sysctls.insert(name.clone(), value.clone());
            }
        }
    }
}

impl Pods {
    /// What holds containers in bounds on this node, for people to read.
    pub fn confinement(&self) -> serde_json::Value {
        serde_json::json!({
            "selinux": self.confinement.selinux.categories().is_some(),
            "capabilities": self.confinement.capabilities.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    /// The level for a new pod; the caller holds it until the pod is in the index.
    pub(super) fn selinux_level(&self, config: &PodSandboxConfig) -> Result<Level<'_>, PodError> {
        let Some(categories) = self.confinement.selinux.categories() else { return Ok(Level::Given(None)) };
        let options = context(config).and_then(|context| context.selinux_options.as_ref());
        if let Some(level) = selinux::asked_level(options) {
            return Ok(Level::Given(Some(level)));
        }
        let taken = || -> HashSet<_> {
            self.index.pods().iter().filter_map(|pod| pod.facts.selinux_level.clone()).collect()
        };
        let stage = Stage::begin("choosing an SELinux level", &"the pod");
        stage.check(self.confinement.levels.reserve(categories, taken)).map(Level::Chosen)
    }

    /// The labels of what a pod has of its own: its files, its shared memory, its pause container.
    pub(super) fn labels_of_pod(&self, facts: &PodFacts) -> Result<Labels, PodError> {
        let context = context(&facts.config);
        let request = Request {
            pod: context.and_then(|context| context.selinux_options.as_ref()),
            level: facts.selinux_level.as_deref(),
            privileged: context.is_some_and(|context| context.privileged),
            namespaces: context.and_then(|context| context.namespace_options.as_ref()),
            ..Request::default()
        };
        self.confinement.selinux.labels(&request).map_err(invalid)
    }

    /// The labels of a container, whose own options win over its pod's.
    pub(super) fn labels_of_container(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
        image: &Image,
    ) -> Result<Labels, PodError> {
        let own = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let request = Request {
            pod: context(&pod.facts.config).and_then(|context| context.selinux_options.as_ref()),
            level: pod.facts.selinux_level.as_deref(),
            init: spec::program(config, &image.config).is_some_and(|program| selinux::is_init(&program)),
            ..selinux::of_container(own)
        };
        self.confinement.selinux.labels(&request).map_err(invalid)
    }

    /// Gives the container's label to the volumes for which the client asks for it. Their sources exist.
    pub(super) async fn label_volumes(
        &self,
        pod: &Pod,
        facts: &ContainerFacts,
        labels: &Labels,
    ) -> Result<(), PodError> {
        let Some(label) = labels.mount.clone().filter(|_| labels.relabel) else { return Ok(()) };
        let handler = self.config.runtimes.get(&facts.runtime);
        let allowed = handler.map(|handler| handler.allowed_annotations.as_slice()).unwrap_or_default();
        let heard = spec::annotations::allowed(&pod.facts.config, &facts.config, allowed);
        let trusting =
            TRUST_TOP.iter().any(|name| heard.get(*name).is_some_and(|value| value.as_str() == "true"));
        let trust = if trusting { Trust::Top } else { Trust::Nothing };
        for (n, mount) in facts.config.mounts.iter().enumerate() {
            if !mount.selinux_relabel || mount.host_path.is_empty() {
                continue;
            }
            let (source, label) = (PathBuf::from(&mount.host_path), label.clone());
            let stage = Stage::begin("labelling a volume", &mount.host_path);
            let labelled = sys::blocking(move || label_volume(&source, &label, trust)).await;
            match labelled {
                Err(VolumeError::Relabel(error @ RelabelError::Host { .. })) => {
                    let field = format!("config.mounts[{n}].selinux_relabel");
                    return Err(PodError::invalid(field, error.to_string()));
                }
                other => stage.check(other)?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum VolumeError {
    #[error("cannot resolve its path")]
    Path(#[source] io::Error),
    #[error(transparent)]
    Relabel(RelabelError),
}

fn label_volume(source: &Path, label: &str, trust: Trust) -> Result<(), VolumeError> {
    let source = std::fs::canonicalize(source).map_err(VolumeError::Path)?;
    selinux::relabel(&source, label, trust).map_err(VolumeError::Relabel)
}

/// What an overlay is mounted with for these labels.
pub(super) fn mount_options(labels: &Labels) -> Vec<String> {
    labels.mount.iter().map(|label| format!("context={label}")).collect()
}

fn context(config: &PodSandboxConfig) -> Option<&LinuxSandboxSecurityContext> {
    config.linux.as_ref()?.security_context.as_ref()
}

fn invalid(error: InvalidOption) -> PodError {
    PodError::invalid(format!("config.{}", error.field), error.why)
}
