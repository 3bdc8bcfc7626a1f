//! What a container's document is made of besides the requests: its handler's settings, and changes to the finished document.

use std::collections::BTreeMap;

use super::error::{PodError, chain};
use super::{OpenError, Pods};
use crate::api::{ContainerConfig, PodSandboxConfig};
use crate::cdi::{self, DeviceName};
use crate::config::{Config, RuntimeConfig};
use crate::spec::adjust::Edits;
use crate::spec::{self, Base};

/// The CRI's field for devices of the Container Device Interface.
const CDI_FIELD: &str = "config.CDI_devices";

/// What holds for all containers of a handler.
pub(super) struct Handler<'a> {
    pub(super) settings: &'a RuntimeConfig,
    pub(super) base: &'a Base,
}

impl Pods {
    /// The handler by its name.
    pub(super) fn handler(&self, name: &str) -> Result<Handler<'_>, PodError> {
        match (self.config.runtimes.get(name), self.bases.get(name)) {
            (Some(settings), Some(base)) => Ok(Handler { settings, base }),
            (None, _) | (_, None) => Err(self.unknown_handler(name)),
        }
    }
}

/// What the documents of each handler start from; read once, so that a mistake is known at the start.
pub(super) fn bases(config: &Config) -> Result<BTreeMap<String, Base>, OpenError> {
    let mut bases = BTreeMap::new();
    for (name, handler) in &config.runtimes {
        let base = Base::new(&config.containers, name, &handler.base_spec);
        let (base, left) = base.map_err(|source| OpenError {
            operation: format!("prepare the handler {name}"),
            source: source.into(),
        })?;
        if !left.is_empty() {
            let left = left.join(", ");
            tracing::info!(handler = name, left, "parts of base_spec that podd itself decides are not taken");
        }
        bases.insert(name.clone(), base);
    }
    Ok(bases)
}

/// The annotations that are obeyed and handed on: the handler's own, under those that it allows clients.
pub(super) fn annotations(
    handler: &RuntimeConfig,
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
) -> BTreeMap<String, String> {
    let mut annotations = handler.default_annotations.clone();
    annotations.extend(spec::annotations::allowed(pod, container, &handler.allowed_annotations));
    annotations
}

/// All that is to be changed in the finished document of one container.
pub(super) fn edits(config: &Config, container: &ContainerConfig) -> Result<Edits, PodError> {
    let names = cdi_devices(container)?;
    cdi::edits(&config.cdi.spec_dirs, &names).map_err(|error| PodError::invalid(CDI_FIELD, chain(&error)))
}

/// Those of the field, then those of the container's annotations, which the kubelet writes for device plugins. A pod's
/// annotations are its author's and name no devices.
fn cdi_devices(container: &ContainerConfig) -> Result<Vec<DeviceName>, PodError> {
    let mut names = Vec::new();
    for (n, device) in container.cdi_devices.iter().enumerate() {
        let name = device.name.parse::<DeviceName>();
        names.push(name.map_err(|error| PodError::invalid(format!("{CDI_FIELD}[{n}].name"), chain(&error)))?);
    }
    let annotated = cdi::annotated(&container.annotations);
    names.extend(
        annotated.map_err(|(key, error)| {
            PodError::invalid(format!("config.annotations[{key:?}]"), chain(&error))
        })?,
    );
    Ok(names)
}
