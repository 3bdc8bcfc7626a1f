//! What operators want to see of a pod beyond its status. For verbose answers only: files are read for it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Pods;
use super::resources::hostname;
use super::sandbox::{Pod, PodFacts};
use crate::id::ContainerId;
use crate::spec::OCI_VERSION;
use crate::sys::namespace::is_pinned;

/// The process of a pod's own, which it has only where its containers share a PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodProcess {
    /// It needs none.
    None,
    /// It runs, with this ID as the host sees it.
    Running(u32),
    /// It has ended.
    Stopped,
}

impl Pods {
    /// A pod's own process.
    pub fn pod_process(&self, pod: &Pod) -> PodProcess {
        let dir = self.paths.pod(&pod.facts.id).pause();
        if !dir.exists() {
            return PodProcess::None;
        }
        let pid = fs::read_to_string(dir.join("pid")).ok().and_then(|text| text.trim().parse().ok());
        // The pod is not ready any more as soon as that process has ended.
        pid.filter(|_| pod.is_ready()).map_or(PodProcess::Stopped, PodProcess::Running)
    }

    /// The file that pins a pod's network namespace, and whether it still does; none for a pod of the host's network.
    pub fn network_namespace(&self, facts: &PodFacts) -> Option<(PathBuf, bool)> {
        let path = self.paths.pod(&facts.id).network;
        (!facts.host_network()).then(|| (path.clone(), is_pinned(&path)))
    }

    /// The OCI spec of a pod's own process. A pod without one has no such spec: this is what it would say of the pod.
    pub fn pod_spec(&self, facts: &PodFacts) -> Value {
        let paths = self.paths.pod(&facts.id);
        if let Some(spec) = read(&paths.pause().join("config.json")) {
            return spec;
        }
        let namespaces = paths.namespaces(facts);
        let joined = [
            ("network", namespaces.network),
            ("ipc", namespaces.ipc),
            ("uts", namespaces.uts),
            ("user", namespaces.user),
        ];
        let joined =
            joined.into_iter().filter_map(|(kind, path)| Some(json!({ "type": kind, "path": path? })));
        json!({
            "ociVersion": OCI_VERSION,
            "hostname": hostname(facts),
            "annotations": facts.config.annotations,
            "linux": {
                "namespaces": joined.collect::<Vec<_>>(),
                "cgroupsPath": facts.cgroup,
                "sysctl": facts.config.linux.as_ref().map(|linux| &linux.sysctls),
            },
        })
    }

    /// The OCI spec that a container was made from; null when it cannot be read.
    pub fn runtime_spec(&self, id: &ContainerId) -> Value {
        read(&self.paths.container(id).spec()).unwrap_or_default()
    }
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
