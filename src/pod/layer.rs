//! How much a container may write into its own root filesystem.

use super::Pods;
use super::adjust::{self, Handler};
use super::error::{PodError, chain};
use crate::api::{ContainerConfig, PodSandboxConfig};
use crate::classes;

/// Limits the writable layer, as a quantity of Kubernetes: podd's name for it, and containerd's.
const MAX_SIZE: [&str; 2] = ["writable-layer-size.podd.io", "containerd.io/snapshot/max-size"];

/// What an overlay and the places of a container's mounts need, and a little more.
const SMALLEST: u64 = 1 << 20;

impl Pods {
    /// The limit that an annotation asks for; the file system is able to keep it.
    pub(super) fn layer_limit(
        &self,
        handler: &str,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> Result<Option<u64>, PodError> {
        let Handler { settings, .. } = self.handler(handler)?;
        let annotations = adjust::annotations(settings, pod, container);
        let asked = MAX_SIZE.into_iter().find_map(|name| Some((name, annotations.get(name)?)));
        let Some((name, text)) = asked else { return Ok(None) };
        let invalid = |why: String| PodError::invalid(format!("config.annotations[{name:?}]"), why);
        let bytes = classes::parse_quantity(text)
            .ok_or_else(|| invalid(format!("{text:?} is not a size such as \"512Mi\" or \"10G\"")))?;
        if bytes < SMALLEST {
            return Err(invalid(format!("{text:?} is less than a container can be made in, 1Mi")));
        }
        self.disk.can_limit().map_err(|error| {
            invalid(format!("{}; leave the annotation out to have no limit", chain(&error)))
        })?;
        Ok(Some(bytes))
    }
}
