//! RemoveContainer and RemovePodSandbox. An unknown ID is a success (B3).

use std::fs;
use std::sync::Arc;

use tracing::Instrument;

use super::Pods;
use super::container::{Container, ContainerStage};
use super::error::{PodError, Stage};
use super::events::EventKind;
use super::resources::{Remains, absent_is_fine};
use super::sandbox::{Pod, PodStage};
use crate::cgroup::CgroupPath;
use crate::id::ContainerId;
use crate::sys;

impl Pods {
    /// Removes a container, and kills it first if it still runs.
    pub async fn remove_container(&self, id: &str) -> Result<(), PodError> {
        let container = match self.container(id) {
            Err(PodError::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        let _transition = container.pod.transition.lock().await;
        self.remove_shown(&container).instrument(container.span()).await
    }

    /// Removes a pod, and stops it first if it is ready.
    pub async fn remove_pod(&self, id: &str) -> Result<(), PodError> {
        let pod = match self.pod(id) {
            Err(PodError::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        self.remove_pod_found(&pod).instrument(pod.facts.span()).await
    }

    async fn remove_pod_found(&self, pod: &Arc<Pod>) -> Result<(), PodError> {
        let _transition = pod.transition.lock().await;
        self.stop_locked(pod).await?;
        for container in self.containers_of(&pod.facts.id) {
            self.remove_shown(&container).await?;
        }
        let stage = Stage::begin("recording the removal", &pod.facts.name);
        stage.check(self.record_pod(pod, PodStage::Unsettled))?;
        self.undo(&Remains::of(&pod.facts)).await.into_iter().next().map_or(Ok(()), Err)?;
        // The name first: whoever claims it anew must not be sent to an ID that is gone.
        self.pod_names.free(&pod.facts.name);
        self.publish(pod, |teller| {
            self.index.remove_pod(&pod.facts.id);
            teller.tell(EventKind::Deleted, pod.facts.id.as_str());
        });
        tracing::info!(pod = %pod.facts.id, "pod is removed");
        Ok(())
    }

    /// Removes a container, and shows that for as long as it takes.
    async fn remove_shown(&self, container: &Container) -> Result<(), PodError> {
        container.set_removing(true);
        let removed = self.remove_container_locked(container).await;
        container.set_removing(false);
        removed
    }

    async fn remove_container_locked(&self, container: &Container) -> Result<(), PodError> {
        if self.container(container.facts.id.as_str()).is_err() {
            return Ok(()); // another call has removed it while this one waited for the lock
        }
        self.kill_and_wait(container).await?;
        let stage = Stage::begin("recording the removal", &container.facts.name);
        stage.check(self.write_container(&container.facts, None, ContainerStage::Unsettled))?;
        self.undo_container(&container.facts.id, Some(container.facts.cgroup.clone()))
            .await
            .into_iter()
            .next()
            .map_or(Ok(()), Err)?;
        self.container_names.free(&container.facts.name);
        self.publish(&container.pod, |teller| {
            self.index.remove_container(&container.facts.id);
            teller.tell(EventKind::Deleted, container.facts.id.as_str());
        });
        tracing::info!(container = %container.facts.id, "container is removed");
        Ok(())
    }

    /// Removes everything of a container. Undoing what is not there succeeds; the record goes last, and only when nothing
    /// else is left.
    pub(super) async fn undo_container(&self, id: &ContainerId, cgroup: Option<CgroupPath>) -> Vec<PodError> {
        let paths = self.paths.container(id);
        let mut errors = Vec::from_iter(self.end(id.as_str(), &paths.dir).await.err());
        if let Some(cgroup) = cgroup {
            let (stage, cgroups) = (Stage::begin("removing the cgroup", id), self.cgroups.clone());
            errors.extend(stage.check(sys::blocking(move || cgroups.remove_tree(&cgroup)).await).err());
        }
        // Before the layer goes, which remembers the project.
        let stage = Stage::begin("lifting the writable layer's limit", id);
        errors.extend(stage.check(self.disk.release(id)).err());
        let stage = Stage::begin("removing the writable layer", id);
        errors.extend(stage.check(self.images.remove_rootfs(id)).err());
        if errors.is_empty() {
            let stage = Stage::begin("removing the files", id);
            let removed = absent_is_fine(fs::remove_file(&paths.exit));
            let removed = removed.and_then(|()| absent_is_fine(fs::remove_dir_all(&paths.dir)));
            errors.extend(stage.check(removed).err());
        }
        errors
    }
}
