//! What a container's document is made of besides the requests: its handler's settings, and changes to the finished document.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;

use super::error::{PodError, Stage, chain};
use super::{OpenError, Pods};
use crate::api::{ContainerConfig, PodSandboxConfig};
use crate::cdi::{self, DeviceName};
use crate::classes;
use crate::config::{Config, RuntimeConfig};
use crate::hooks::{self, Subject};
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

/// What the documents of each handler start from; read once, so that a mistake, also one in a hook, is known at the start.
pub(super) fn bases(config: &Config) -> Result<BTreeMap<String, Base>, OpenError> {
    hooks::check(&config.containers.hooks_dirs).map_err(|source| OpenError {
        operation: "use the hooks of containers.hooks_dirs".to_owned(),
        source: source.into(),
    })?;
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

/// Changes the finished document of a container: its devices of the CDI, its classes, then the node's hooks.
pub(super) fn finish(
    config: &Config,
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
    spec: &mut Spec,
) -> Result<(), PodError> {
    let names = cdi_devices(container)?;
    let devices = cdi::edits(&config.cdi.spec_dirs, &names);
    devices.map_err(|error| PodError::invalid(CDI_FIELD, chain(&error)))?.apply(spec);
    let name = container.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default();
    let subject = classes::Subject { name, container: &container.annotations, pod: &pod.annotations };
    let classes = classes::edits(&config.blockio.config_file, subject);
    classes.map_err(|error| refused_class(&error))?.apply(spec);
    if config.containers.hooks_dirs.is_empty() {
        return Ok(());
    }
    // What a hook obeys its own file says, so all annotations count here.
    let mut annotations: BTreeMap<_, _> = pod.annotations.clone().into_iter().collect();
    annotations.extend(container.annotations.clone());
    let args = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
    let subject = Subject {
        annotations: &annotations,
        command: args.first().map(String::as_str).unwrap_or_default(),
        has_bind_mounts: !container.mounts.is_empty(),
    };
    let stage = Stage::begin("choosing the node's hooks", &name);
    stage.check(hooks::matching(&config.containers.hooks_dirs, &subject))?.apply(spec);
    Ok(())
}

fn refused_class(error: &classes::ClassError) -> PodError {
    PodError::invalid(&error.field, format!("class {:?}: {}", error.class, chain(&error.why)))
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
