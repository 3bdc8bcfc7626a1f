//! A container: what was asked for, which never changes, and its state, which readers see without waiting for an operation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::sandbox::Pod;
use super::state::{ContainerState, Nanos};
use super::stats::Gauge;
use crate::api::{ContainerConfig, LinuxContainerResources, LinuxContainerUser, PodSandboxConfig, Signal};
use crate::cgroup::CgroupPath;
use crate::id::{ContainerId, PodId};
use crate::image::digest::Digest;
use crate::monitor::Monitor;
use crate::sys::process::{BootId, Process};

/// What makes a container one and the same for the kubelet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ContainerName {
    pub pod: PodId,
    pub name: String,
    pub attempt: u32,
}

impl std::fmt::Display for ContainerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "container {} (attempt {})", self.name, self.attempt)
    }
}

/// A CreateContainer that passed the edge.
#[derive(Debug, Clone)]
pub struct ContainerRequest {
    /// The pod's ID or a prefix of it.
    pub pod: String,
    /// From the configuration's metadata.
    pub name: String,
    /// From the configuration's metadata.
    pub attempt: u32,
    /// As the client wrote it.
    pub config: ContainerConfig,
    /// The pod's configuration as the client repeats it.
    pub pod_config: Option<PodSandboxConfig>,
}

/// What never changes in the life of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Its ID.
    pub id: ContainerId,
    /// Its pod, name and attempt, unique among the containers.
    pub name: ContainerName,
    /// As the client wrote it.
    pub config: ContainerConfig,
    /// The image's ID.
    pub image: Digest,
    /// The OCI runtime's name.
    pub runtime: String,
    /// When it was asked for.
    pub created_at: Nanos,
    /// Where its output is logged; empty: nowhere.
    pub log_path: PathBuf,
    /// Its cgroup.
    pub cgroup: CgroupPath,
    /// The signal that asks it to stop (B28).
    pub stop_signal: i32,
    /// That signal as the CRI names it.
    pub cri_stop_signal: i32,
    /// Whether its processes end with its init, because they share a PID namespace of their own.
    pub own_pid_namespace: bool,
    /// Who its init runs as.
    pub user: LinuxContainerUser,
    /// The IDs of the images among its mounts, by their places in `config.mounts`.
    #[serde(default)]
    pub volumes: BTreeMap<usize, Digest>,
}

impl ContainerFacts {
    pub(super) fn span(&self) -> tracing::Span {
        tracing::info_span!("container", pod = %self.name.pod, container = %self.id)
    }

    /// The stop signal as the CRI names it.
    pub fn cri_signal(&self) -> Signal {
        Signal::try_from(self.cri_stop_signal).unwrap_or_default()
    }
}

/// What is written in `container.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) version: u32,
    pub(super) boot_id: BootId,
    pub(super) facts: ContainerFacts,
    /// The limits in force, where an update has changed those of the configuration.
    #[serde(default)]
    pub(super) resources: Option<LinuxContainerResources>,
    pub(super) stage: ContainerStage,
}

/// How far the container had come when its record was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ContainerStage {
    /// Being made, or being removed: whatever is there of it is to be undone.
    Unsettled,
    /// Its init exists, or did.
    Settled { process: Process, state: ContainerState },
}

/// How a stop is getting on (B9, B13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopPhase {
    /// Nobody asked for a stop.
    None,
    /// The stop signal was sent; after the deadline comes SIGKILL.
    Grace { deadline: Instant },
    /// SIGKILL was sent.
    Killing,
}

/// A container that exists.
pub struct Container {
    /// What never changes.
    pub facts: ContainerFacts,
    /// Its pod.
    pub pod: Arc<Pod>,
    /// Its init.
    pub(super) process: Process,
    /// What readers see.
    pub(super) state: watch::Sender<ContainerState>,
    pub(super) stop: watch::Sender<StopPhase>,
    /// `None` when it died, or the container had ended before the daemon came.
    pub(super) monitor: Option<Monitor>,
    /// When it was taken into the index.
    pub(super) since: Instant,
    /// What an update has set; a std mutex, because it is held for a copy.
    updated: Mutex<Option<LinuxContainerResources>>,
    /// What is kept from one request for stats to the next; a std mutex, because it is held for one measurement.
    pub(super) gauge: Mutex<Gauge>,
    claimed: AtomicBool,
    unwatched: AtomicBool,
    /// Whether a start is under way, which then tells of an end that it overtakes. Changed only while an event could be.
    starting: AtomicBool,
    removing: AtomicBool,
}

impl Container {
    pub(super) fn new(
        facts: ContainerFacts,
        pod: Arc<Pod>,
        process: Process,
        state: ContainerState,
        monitor: Option<Monitor>,
    ) -> Self {
        Self {
            facts,
            pod,
            process,
            state: watch::Sender::new(state),
            stop: watch::Sender::new(StopPhase::None),
            monitor,
            since: Instant::now(),
            updated: Mutex::default(),
            gauge: Mutex::default(),
            claimed: AtomicBool::new(false),
            unwatched: AtomicBool::new(false),
            starting: AtomicBool::new(false),
            removing: AtomicBool::new(false),
        }
    }

    /// The span of what is done with it, by which the log's lines know it.
    pub(super) fn span(&self) -> tracing::Span {
        self.facts.span()
    }

    /// The state now.
    pub fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    /// The limits in force; none were asked for where there are none.
    pub fn resources(&self) -> Option<LinuxContainerResources> {
        let asked = || self.facts.config.linux.as_ref()?.resources.clone();
        self.updated().or_else(asked)
    }

    /// What an update has set, if one has.
    pub(super) fn updated(&self) -> Option<LinuxContainerResources> {
        self.updated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_resources(&self, limits: Option<LinuxContainerResources>) {
        *self.updated.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// The init's process ID as the host sees it; 0 when it has ended.
    pub fn pid(&self) -> u32 {
        match *self.state.borrow() {
            ContainerState::Exited(_) => 0,
            ContainerState::Created | ContainerState::Running { .. } => self.process.pid,
        }
    }

    /// Waits until the init has ended.
    pub(super) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = state.wait_for(|state| matches!(state, ContainerState::Exited(_))).await;
    }

    /// The monitor has died before the init: output is lost, and so will be the exit code.
    pub(super) fn lose_monitor(&self) {
        self.unwatched.store(true, Ordering::Relaxed);
    }

    /// Whether the init lives without its monitor.
    pub fn is_unwatched(&self) -> bool {
        self.unwatched.load(Ordering::Relaxed) && !matches!(*self.state.borrow(), ContainerState::Exited(_))
    }

    /// A start begins, if it can; the state before it.
    pub(super) fn begin_start(&self) -> ContainerState {
        let state = self.state();
        self.starting.store(state == ContainerState::Created, Ordering::Relaxed);
        state
    }

    pub(super) fn end_start(&self) {
        self.starting.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Relaxed)
    }

    pub(super) fn set_removing(&self, removing: bool) {
        self.removing.store(removing, Ordering::Relaxed);
    }

    /// Whether its removal is under way.
    pub fn is_removing(&self) -> bool {
        self.removing.load(Ordering::Relaxed)
    }

    /// A client has received the ID (B2).
    pub fn claim(&self) {
        self.claimed.store(true, Ordering::Relaxed);
    }

    /// Whether any client knows of it.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
    }
}
