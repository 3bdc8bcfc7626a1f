//! What is changed in a container's finished document: its CDI devices.

use super::error::{PodError, chain};
use crate::api::ContainerConfig;
use crate::cdi::{self, DeviceName};
use crate::config::Config;
use crate::spec::adjust::Edits;

/// The CRI's field for devices of the Container Device Interface.
const CDI_FIELD: &str = "config.CDI_devices";

/// All that is to be changed for one container.
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
