//! Which device nodes a container gets: the operator's for all, those of an annotation that the operator allows, and those of
//! the CRI, each of which takes the place of an earlier one of its path.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::error::{PodError, Stage};
use crate::api::ContainerConfig;
use crate::config::{DevicesConfig, NamedDevice, RuntimeConfig};
use crate::spec::{HostDevice, PrivilegedDevices, ResolvedUser, observe};

/// CRI-O's annotation for devices: `host[:container[:permissions]]`, separated by commas.
const ANNOTATION: &str = "io.kubernetes.cri-o.Devices";

/// By their path in the container.
type Nodes = BTreeMap<PathBuf, HostDevice>;

/// All nodes of one container, but for those that privilege brings.
pub(super) fn of(
    config: &DevicesConfig,
    container: &ContainerConfig,
    annotations: &BTreeMap<String, String>,
    user: &ResolvedUser,
) -> Result<Vec<HostDevice>, PodError> {
    let mut nodes = Nodes::new();
    for device in &config.additional {
        let stage = Stage::begin("looking up a device of devices.additional", device);
        add(&mut nodes, stage.check(look_up(device))?);
    }
    if let Some(text) = annotations.get(ANNOTATION) {
        annotated(&mut nodes, config, text)
            .map_err(|why| PodError::invalid(format!("annotations[{ANNOTATION:?}]"), why))?;
    }
    asked(&mut nodes, config, container, user)?;
    Ok(nodes.into_values().collect())
}

/// What a privileged container gets besides.
pub(super) fn of_privileged(handler: &RuntimeConfig) -> PrivilegedDevices {
    let without = handler.privileged_without_host_devices;
    match (without, handler.privileged_without_host_devices_all_devices_allowed) {
        (false, _) => PrivilegedDevices::All,
        (true, true) => PrivilegedDevices::Allowed,
        (true, false) => PrivilegedDevices::Asked,
    }
}

fn add(nodes: &mut Nodes, found: Vec<HostDevice>) {
    nodes.extend(found.into_iter().map(|node| (node.path.clone(), node)));
}

fn look_up(device: &NamedDevice) -> std::io::Result<Vec<HostDevice>> {
    observe::devices(&device.host, &device.container, &device.permissions)
}

fn annotated(nodes: &mut Nodes, config: &DevicesConfig, text: &str) -> Result<(), String> {
    for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let device: NamedDevice = text.parse()?;
        if !config.allowed.contains(&device.host) {
            let host = device.host.display();
            return Err(format!("{host} is not one of devices.allowed in the node's configuration"));
        }
        add(nodes, look_up(&device).map_err(|error| format!("{}: {error}", device.host.display()))?);
    }
    Ok(())
}

fn asked(
    nodes: &mut Nodes,
    config: &DevicesConfig,
    container: &ContainerConfig,
    user: &ResolvedUser,
) -> Result<(), PodError> {
    let owner = if config.ownership_from_security_context { owner(container, user) } else { (None, None) };
    for (n, device) in container.devices.iter().enumerate() {
        let field = format!("config.devices[{n}]");
        let inside = Path::new(&device.container_path);
        if !device.container_path.is_empty() && !is_plain(inside) {
            let why = format!("{inside:?} is not an absolute path without \"..\"");
            return Err(PodError::invalid(format!("{field}.container_path"), why));
        }
        let found = observe::devices(Path::new(&device.host_path), inside, &device.permissions);
        let mut found = found.map_err(|e| PodError::invalid(field, format!("{}: {e}", device.host_path)))?;
        for node in &mut found {
            node.uid = owner.0.unwrap_or(node.uid);
            node.gid = owner.1.unwrap_or(node.gid);
        }
        add(nodes, found);
    }
    Ok(())
}

fn is_plain(path: &Path) -> bool {
    let good = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(good) && !path.to_string_lossy().contains('\0')
}

/// The user and group that the client asks for; what only the image says does not count.
fn owner(container: &ContainerConfig, user: &ResolvedUser) -> (Option<u32>, Option<u32>) {
    let Some(context) = container.linux.as_ref().and_then(|linux| linux.security_context.as_ref()) else {
        return (None, None);
    };
    let named = context.run_as_user.is_some() || !context.run_as_username.is_empty();
    (Some(user.uid).filter(|_| named), Some(user.gid).filter(|_| context.run_as_group.is_some()))
}
