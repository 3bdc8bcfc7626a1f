//! A pod: what was asked for, which never changes, and its state, which readers see without waiting for an operation.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::limits::PodResources;
use super::state::{Nanos, PodState};
use super::stats::PodGauge;
use crate::api::{NamespaceMode, NamespaceOption, PodSandboxConfig};
use crate::cgroup::CgroupPath;
use crate::id::PodId;
use crate::spec::userns;
use crate::sys::namespace::IdMaps;
use crate::sys::process::BootId;
use crate::telemetry::Timeline;

/// What makes a pod one and the same for the kubelet (CRI `PodSandboxMetadata`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub attempt: u32,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pod {}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

/// A RunPodSandbox that passed the edge.
#[derive(Debug, Clone)]
pub struct PodRequest {
    /// From the configuration's metadata.
    pub name: PodName,
    /// As the client wrote it.
    pub config: PodSandboxConfig,
    /// As the client wrote it; empty is the default handler.
    pub handler: String,
}

/// What never changes in the life of a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodFacts {
    /// Its ID.
    pub id: PodId,
    /// Its name, unique among the pods.
    pub name: PodName,
    /// As the client wrote it.
    pub config: PodSandboxConfig,
    /// As the client wrote it; empty is the default handler.
    pub handler: String,
    /// When it was asked for.
    pub created_at: Nanos,
    /// The cgroup that holds its containers' cgroups, from the root of each hierarchy; with systemd a slice.
    pub cgroup: CgroupPath,
    /// The topmost directory of that cgroup's path that podd made, and so has to remove.
    pub made_cgroup: Option<CgroupPath>,
    /// The SELinux level that tells it from other pods, where there are labels.
    #[serde(default)]
    pub selinux_level: Option<String>,
}

impl PodFacts {
    /// The span of what is done with it, by which the log's lines know it.
    pub(super) fn span(&self) -> tracing::Span {
        tracing::info_span!("pod", pod = %self.id)
    }

    /// The namespaces as asked for (CRI `NamespaceOption`); the kubelet wants them echoed (B7).
    pub fn namespaces(&self) -> NamespaceOption {
        let linux = self.config.linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
    }

    /// Whether the pod lives on the host's network.
    pub fn host_network(&self) -> bool {
        self.namespaces().network() == NamespaceMode::Node
    }

    /// Whether the pod shares the host's System V and POSIX message queues and shared memory.
    pub fn host_ipc(&self) -> bool {
        self.namespaces().ipc() == NamespaceMode::Node
    }

    /// The IDs of the pod's own user namespace; `None` is the node's.
    pub fn user_namespace(&self) -> Option<IdMaps> {
        // The edge has let no other request through.
        userns::requested(Some(&self.namespaces())).ok().flatten()
    }

    /// The host's user and group that are root in the pod.
    pub(super) fn root(&self) -> (u32, u32) {
        self.user_namespace().map_or((0, 0), |ids| (ids.uids.host, ids.gids.host))
    }

    /// The directory for the containers' logs, if one was asked for.
    pub fn log_directory(&self) -> Option<PathBuf> {
        let directory = &self.config.log_directory;
        (!directory.is_empty()).then(|| PathBuf::from(directory))
    }
}

/// What is written in `pod.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PodRecord {
    pub(super) version: u32,
    /// The boot in which it was written: after a reboot nothing of the pod is left.
    pub(super) boot_id: BootId,
    pub(super) facts: PodFacts,
    /// Where an update has told others than those of the configuration.
    #[serde(default)]
    pub(super) resources: Option<PodResources>,
    pub(super) stage: PodStage,
}

/// How far the pod had come when its record was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PodStage {
    /// Being made, or being removed: whatever is there of it is to be undone.
    Unsettled,
    /// Its creation was answered.
    Settled(PodState),
}

/// The version of the records that this daemon writes and reads.
pub(super) const RECORD_VERSION: u32 = 1;

/// A pod that exists.
pub struct Pod {
    /// What never changes.
    pub facts: PodFacts,
    /// What readers see.
    pub(super) state: watch::Sender<PodState>,
    /// Held by the one transition that is under way, of the pod or of a container of it; never across a grace period.
    pub(super) transition: Mutex<()>,
    /// When it was taken into the index.
    pub(super) since: Instant,
    /// The stages of its start and its containers'; empty after a restart of the daemon.
    pub timeline: Arc<Timeline>,
    /// What an update has told; a std mutex, because it is held for a copy.
    updated: std::sync::Mutex<Option<PodResources>>,
    /// What is kept from one request for stats to the next; a std mutex, because it is held for one measurement.
    pub(super) gauge: std::sync::Mutex<PodGauge>,
    claimed: AtomicBool,
    /// Whether a stop has given back its resources. A pod may be not ready before that, when it has lost some of them.
    released: AtomicBool,
}

impl Pod {
    pub(super) fn new(facts: PodFacts, state: PodState, timeline: Arc<Timeline>) -> Self {
        Self {
            facts,
            state: watch::Sender::new(state),
            transition: Mutex::new(()),
            since: Instant::now(),
            timeline,
            updated: std::sync::Mutex::default(),
            gauge: std::sync::Mutex::default(),
            claimed: AtomicBool::new(false),
            released: AtomicBool::new(false),
        }
    }

    /// The state now.
    pub fn state(&self) -> PodState {
        self.state.borrow().clone()
    }

    /// Whether all its resources are there.
    pub fn is_ready(&self) -> bool {
        matches!(*self.state.borrow(), PodState::Ready { .. })
    }

    /// What it is said to use, as last told.
    pub fn resources(&self) -> PodResources {
        self.updated().unwrap_or_else(|| PodResources::of(&self.facts.config))
    }

    /// What an update has told, if one has.
    pub(super) fn updated(&self) -> Option<PodResources> {
        self.updated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_resources(&self, told: Option<PodResources>) {
        *self.updated.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// A client has received the ID (B2).
    pub fn claim(&self) {
        self.claimed.store(true, Ordering::Relaxed);
    }

    pub(super) fn released(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    /// Whether any client knows of it.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
    }
}
