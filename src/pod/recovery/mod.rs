//! What a starting daemon finds: records and living containers of an earlier one, remains of what was never answered for,
//! and after a reboot what only the disk remembers.
//!
//! It reads the records, looks at the node, decides by [`plan`], and acts. One broken record stops neither the others nor
//! the daemon (B17): it is logged, and what belongs to its ID is undone.

mod plan;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::background::Unwanted;
use super::bundle::cgroup_of;
use super::container::{ContainerRecord, ContainerStage};
use super::error::chain;
use super::resources::Remains;
use super::sandbox::{Pod, PodRecord};
use super::state::{ContainerState, now};
use super::{OpenError, Pods};
use crate::id::{ContainerId, PodId};
use crate::monitor::{self, Monitor};
use crate::record;
use crate::runtime::Status;
use crate::telemetry::{Leak, metrics};
use plan::{ContainerPlan, Observed, PodPlan};

/// Takes up what is there. Only a directory that cannot be read is an error.
pub(super) async fn run(pods: &Arc<Pods>) -> Result<(), OpenError> {
    let pod_ids: Vec<PodId> = ids(&pods.paths.pods())?;
    let container_ids: Vec<ContainerId> = ids(&pods.paths.containers())?;
    for id in &pod_ids {
        recover_pod(pods, id).await;
    }
    for id in &container_ids {
        recover_container(pods, id).await;
    }
    // Pods that are not to be go after their containers.
    let known: HashSet<PodId> = pods.pods().iter().map(|pod| pod.facts.id.clone()).collect();
    for id in pod_ids.iter().filter(|id| !known.contains(*id)) {
        undo_pod(pods, id).await;
    }
    let containers = pods.containers();
    let ended = containers.iter().map(|container| {
        let ended = matches!(container.state(), ContainerState::Exited(_));
        (container.facts.id.clone(), ended)
    });
    let ended: HashMap<ContainerId, bool> = ended.collect();
    for error in pods.disk.take_up(&ended) {
        tracing::warn!("giving back the quota of a writable layer that no container has: {}", chain(&error));
    }
    let living: HashSet<ContainerId> = ended.into_keys().collect();
    for error in pods.images.retain_rootfs(&living) {
        tracing::warn!("removing a writable layer that no container has: {}", chain(&error));
    }
    // A pod that is not ready keeps nothing of the network, not even what its stop could not give back.
    let networked = pods.pods().iter().filter(|pod| pod.is_ready()).map(|pod| pod.facts.id.clone()).collect();
    for (pod, result) in pods.network.release_orphans(&networked).await {
        metrics().leak_found(Leak::Network);
        match result {
            Ok(()) => {
                metrics().leak_repaired(Leak::Network);
                tracing::info!(%pod, "gave back the network of a pod that is no more");
            }
            Err(error) => tracing::warn!(%pod, "will be tried again: {}", chain(&error)),
        }
    }
    if !pod_ids.is_empty() || !container_ids.is_empty() {
        tracing::info!(pods = known.len(), containers = living.len(), "took up what an earlier daemon left");
    }
    Ok(())
}

async fn recover_pod(pods: &Arc<Pods>, id: &PodId) {
    let Some(record) = read::<PodRecord>(&pods.paths.pod(id).record()) else { return };
    let pinned = record.facts.host_network() || pods.paths.pod(id).network.exists();
    match plan::pod(&record.stage, record.boot_id == pods.boot_id, pinned) {
        PodPlan::Undo => {}
        PodPlan::Adopt(state) => {
            pods.pod_names.take(record.facts.name.clone(), id.clone());
            let pod = Arc::new(Pod::new(record.facts, state, Arc::default()));
            pod.set_resources(record.resources);
            pod.claim();
            if pod.is_ready() && !pods.take_up_pause(&pod).await {
                pods.lose(&pod);
            }
            pods.index.add_pod(pod);
        }
    }
}

async fn undo_pod(pods: &Arc<Pods>, id: &PodId) {
    let record = read::<PodRecord>(&pods.paths.pod(id).record());
    let remains = record.map_or_else(|| Remains::by_id(id), |record| Remains::of(&record.facts));
    pods.undo_leak(Unwanted::Pod(remains)).await;
}

async fn recover_container(pods: &Arc<Pods>, id: &ContainerId) {
    let Some(record) = read::<ContainerRecord>(&pods.paths.container(id).record()) else {
        let cgroup = cgroup_of(&pods.paths.container(id).dir);
        return pods.undo_leak(Unwanted::Container(id.clone(), cgroup)).await;
    };
    let pod = pods.pod(record.facts.name.pod.as_str());
    let observed = observe(pods, &record).await;
    match (plan::container(&record.stage, &observed), pod) {
        (ContainerPlan::Adopt { process, state }, Ok(pod)) => {
            pods.container_names.take(record.facts.name.clone(), id.clone());
            let monitor = reconnect(pods, id, &state).await;
            let container = pods.adopt(record.facts, &pod, process, state, monitor);
            container.set_resources(record.resources);
            container.claim();
            pods.record_state(&container);
        }
        (ContainerPlan::Undo, _) | (_, Err(_)) => {
            pods.undo_leak(Unwanted::Container(id.clone(), Some(record.facts.cgroup))).await;
        }
    }
}

async fn observe(pods: &Pods, record: &ContainerRecord) -> Observed {
    let id = &record.facts.id;
    let paths = pods.paths.container(id);
    let mut observed = Observed {
        same_boot: record.boot_id == pods.boot_id,
        monitor: monitor::is_alive(&paths.dir).unwrap_or(false),
        init: false,
        exit: monitor::read_exit(&paths.exit).ok().flatten(),
        started: false,
        now: now(),
    };
    if let ContainerStage::Settled { process, state } = &record.stage {
        observed.init = observed.same_boot && process.is_alive();
        if observed.init && *state == ContainerState::Created {
            observed.started = has_started(pods, record).await;
        }
    }
    observed
}

async fn has_started(pods: &Pods, record: &ContainerRecord) -> bool {
    let Ok(runtime) = pods.runtime(&record.facts.runtime).await else { return false };
    match runtime.state(record.facts.id.as_str()).await {
        Ok(Some(state)) => state.status == Status::Running,
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(container = %record.facts.id, "asking the runtime for the state: {}", chain(&error));
            false
        }
    }
}

async fn reconnect(pods: &Pods, id: &ContainerId, state: &ContainerState) -> Option<Monitor> {
    if matches!(state, ContainerState::Exited(_)) {
        return None;
    }
    match monitor::connect(&pods.paths.container(id).dir).await {
        Ok(monitor) => monitor,
        Err(error) => {
            tracing::warn!(container = %id, "connecting to the monitor: {}", chain(&error));
            None
        }
    }
}

/// The directory's entries that are IDs.
fn ids<Id: TryFrom<String>>(directory: &Path) -> Result<Vec<Id>, OpenError> {
    let entries = fs::read_dir(directory).map_err(OpenError::new(format!("read {}", directory.display())))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| Id::try_from(name).ok()).collect())
}

/// A record that is there and whole.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    record::read(path).unwrap_or_else(|error| {
        tracing::error!("what it describes is undone: {}", chain(&error));
        None
    })
}
