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
use super::container::{Container, ContainerRecord, ContainerStage};
use super::error::chain;
use super::events::EventKind;
use super::resources::Remains;
use super::sandbox::{Pod, PodRecord, PodStage};
use super::state::{ContainerState, PodState, now};
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
    let (mut lost, mut found) = (Vec::new(), Vec::new());
    for id in &pod_ids {
        lost.extend(recover_pod(pods, id).await);
    }
    for id in &container_ids {
        found.extend(recover_container(pods, id).await);
    }
    tell(pods, found, lost);
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

/// What is new since the records were written, told once every pod has all its containers again; and they are watched.
fn tell(pods: &Arc<Pods>, found: Vec<(Arc<Container>, &[EventKind])>, lost: Vec<Arc<Pod>>) {
    for (container, news) in found {
        pods.publish(&container.pod, |teller| {
            for kind in news {
                teller.tell(*kind, container.facts.id.as_str());
            }
        });
        pods.record_state(&container);
        pods.watch(&container);
    }
    for pod in lost {
        pods.lose(&pod);
    }
    if pods.index.pods().is_empty() {
        pods.events.begin_anew();
    }
}

/// Takes up a pod, and gives it where it has lost what it needs.
async fn recover_pod(pods: &Arc<Pods>, id: &PodId) -> Option<Arc<Pod>> {
    let record = read::<PodRecord>(&pods.paths.pod(id).record())?;
    let pinned = record.facts.host_network() || pods.paths.pod(id).network.exists();
    match plan::pod(&record.stage, record.boot_id == pods.boot_id, pinned) {
        PodPlan::Undo => None,
        PodPlan::Adopt(state) => {
            pods.pod_names.take(record.facts.name.clone(), id.clone());
            // What is found to be lost is news; what was before is what a reader may know.
            let before = if let PodStage::Settled(before) = record.stage { before } else { state.clone() };
            let pod = Arc::new(Pod::new(record.facts, before, Arc::default()));
            pod.set_resources(record.resources);
            pod.claim();
            pods.index.add_pod(Arc::clone(&pod));
            let whole = state != PodState::NotReady && pods.take_up_pause(&pod).await;
            (pod.is_ready() && !whole).then_some(pod)
        }
    }
}

async fn undo_pod(pods: &Arc<Pods>, id: &PodId) {
    let record = read::<PodRecord>(&pods.paths.pod(id).record());
    let remains = record.map_or_else(|| Remains::by_id(id), |record| Remains::of(&record.facts));
    pods.undo_leak(Unwanted::Pod(remains)).await;
}

/// Takes up a container, and gives it with what is new of it.
async fn recover_container(
    pods: &Arc<Pods>,
    id: &ContainerId,
) -> Option<(Arc<Container>, &'static [EventKind])> {
    let Some(record) = read::<ContainerRecord>(&pods.paths.container(id).record()) else {
        let cgroup = cgroup_of(&pods.paths.container(id).dir);
        pods.undo_leak(Unwanted::Container(id.clone(), cgroup)).await;
        return None;
    };
    let pod = pods.pod(record.facts.name.pod.as_str());
    let observed = observe(pods, &record).await;
    match (plan::container(&record.stage, &observed), pod) {
        (ContainerPlan::Adopt { process, state }, Ok(pod)) => {
            pods.container_names.take(record.facts.name.clone(), id.clone());
            let monitor = reconnect(pods, id, &state).await;
            let news = plan::news(&record.stage, &state);
            let container = Arc::new(Container::new(record.facts, pod, process, state, monitor));
            container.set_resources(record.resources);
            container.claim();
            pods.index.add_container(Arc::clone(&container));
            Some((container, news))
        }
        (ContainerPlan::Undo, _) | (_, Err(_)) => {
            pods.undo_leak(Unwanted::Container(id.clone(), Some(record.facts.cgroup))).await;
            None
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
