//! What belongs to an ID whose record cannot be read is undone by the ID alone (B17).

use std::fs;

use crate::cgroup::CgroupPath;
use crate::id::{ContainerId, PodId};
use crate::pod::Pods;
use crate::pod::error::{PodError, Stage};
use crate::pod::resources::absent_is_fine;

impl Pods {
    /// Removes what a pod's ID names.
    pub(super) async fn undo_pod_by_id(&self, id: &PodId) -> Vec<PodError> {
        let mut errors = self.release(id).await;
        if errors.is_empty() {
            let stage = Stage::begin("removing the files", id);
            errors.extend(stage.check(absent_is_fine(fs::remove_dir_all(self.paths.pod(id).dir))).err());
        }
        errors
    }

    /// Kills and removes what a container's ID names.
    pub(super) async fn undo_container_by_id(&self, id: &ContainerId) -> Vec<PodError> {
        let mut errors = Vec::new();
        for name in self.runtimes.keys() {
            let Ok(runtime) = self.runtime(name).await else { continue };
            if !runtime.knows(id.as_str()) {
                continue;
            }
            let stage = Stage::begin("deleting the container with its runtime", id);
            errors.extend(stage.check(runtime.delete(id.as_str(), true).await).err());
        }
        let spec = self.runtime_spec(id);
        let cgroup = spec.pointer("/linux/cgroupsPath").and_then(|path| CgroupPath::new(path.as_str()?).ok());
        errors.extend(self.undo_files(id, cgroup.as_ref()).await);
        errors
    }
}
