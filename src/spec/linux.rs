//! The part of the document that only Linux has: namespaces, devices, masks, cgroup.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType, LinuxResources,
};

use super::mounts::Propagation;
use super::{HostDevice, PrivilegedDevices, SpecError, SpecInput, resources, seccomp, security, userns};
use crate::api;
use crate::cgroup::CgroupMode;
use crate::sys::namespace::IdMaps;

/// Namespaces, limits, devices and masks of one container.
pub(super) fn build(
    input: &SpecInput<'_>,
    privileged: bool,
    propagation: Option<Propagation>,
    ids: Option<IdMaps>,
) -> Result<Linux, SpecError> {
    let context = security(input);
    let masks = |paths: &[String]| match privileged {
        true => None,
        false => Some(paths.to_vec()).filter(|paths| !paths.is_empty()),
    };
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input, privileged)?))
        .set_uid_mappings(ids.map(|ids| vec![userns::mapping(ids.uids)]))
        .set_gid_mappings(ids.map(|ids| vec![userns::mapping(ids.gids)]))
        .set_cgroups_path(Some(PathBuf::from(input.cgroups_path)))
        .set_resources(Some(limits(input, privileged)?))
        .set_devices(Some(device_nodes(input, privileged)).filter(|nodes| !nodes.is_empty()))
        .set_masked_paths(masks(&context.masked_paths))
        .set_readonly_paths(masks(&context.readonly_paths))
        .set_rootfs_propagation(propagation.map(|propagation| propagation.option().to_owned()))
        .set_seccomp(seccomp::build(input)?)
        .set_mount_label(input.labels.mount.clone());
    Ok(linux)
}

fn namespaces(input: &SpecInput<'_>, privileged: bool) -> Result<Vec<LinuxNamespace>, SpecError> {
    let given = &input.namespaces;
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    let pod = [
        (LinuxNamespaceType::User, given.user),
        (LinuxNamespaceType::Network, given.network),
        (LinuxNamespaceType::Ipc, given.ipc),
        (LinuxNamespaceType::Uts, given.uts),
    ];
    namespaces.extend(pod.into_iter().filter_map(|(typ, path)| path.map(|path| namespace(typ, Some(path)))));
    namespaces.extend(pid_namespace(input)?);
    // A privileged container manages the node's cgroups; on v1 the runtimes bind the container's own directories.
    if input.host.cgroup == CgroupMode::V2 && !privileged {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    Ok(namespaces)
}

fn pid_namespace(input: &SpecInput<'_>) -> Result<Option<LinuxNamespace>, SpecError> {
    let mode = security(input).namespace_options.as_ref().map_or(api::NamespaceMode::Container, |o| o.pid());
    match mode {
        api::NamespaceMode::Container => Ok(Some(namespace(LinuxNamespaceType::Pid, None))),
        api::NamespaceMode::Node => Ok(None),
        api::NamespaceMode::Pod | api::NamespaceMode::Target => match input.namespaces.pid {
            Some(path) => Ok(Some(namespace(LinuxNamespaceType::Pid, Some(path)))),
            None => {
                let why = format!("there is no PID namespace to join for mode {}", mode.as_str_name());
                Err(SpecError::unsupported("linux.security_context.namespace_options.pid", why))
            }
        },
    }
}

pub(super) fn namespace(typ: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ).set_path(path.map(Path::to_owned));
    namespace
}

fn limits(input: &SpecInput<'_>, privileged: bool) -> Result<LinuxResources, SpecError> {
    let asked = input.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let mut limits = resources::linux_resources(&asked, input.host, resources::OF_CONTAINER)?;
    limits.set_pids(resources::pids(input.pids_limit));
    // A new cgroup has no quota; crun before 1.9 cannot write that on v1.
    if let Some(cpu) = limits.cpu_mut()
        && cpu.quota() == Some(-1)
    {
        cpu.set_quota(None);
    }
    let mut everything = LinuxDeviceCgroup::default();
    let allowed = match input.privileged_devices {
        PrivilegedDevices::All | PrivilegedDevices::Allowed => privileged,
        PrivilegedDevices::Asked => false,
    };
    everything.set_allow(allowed).set_access(Some("rwm".to_owned()));
    let mut rules = vec![everything];
    if !allowed {
        // The runtimes add null, zero, random and the terminals of their own accord.
        rules.extend(input.devices.iter().map(device_rule));
    }
    limits.set_devices(Some(rules));
    Ok(limits)
}

fn device_rule(device: &HostDevice) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(device.kind))
        .set_major(Some(device.major))
        .set_minor(Some(device.minor))
        .set_access(Some(device.permissions.clone()));
    rule
}

/// The nodes that were asked for, and with privilege all of the host's; an asked one wins over the host's of that path.
fn device_nodes(input: &SpecInput<'_>, privileged: bool) -> Vec<LinuxDevice> {
    let host: &[HostDevice] = match (privileged, input.privileged_devices) {
        (true, PrivilegedDevices::All) => &input.host.devices,
        (true, PrivilegedDevices::Allowed | PrivilegedDevices::Asked) | (false, _) => &[],
    };
    let asked = |path: &Path| input.devices.iter().any(|device| device.path == path);
    input.devices.iter().chain(host.iter().filter(|device| !asked(&device.path))).map(device_node).collect()
}

fn device_node(device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(device.path.clone())
        .set_typ(device.kind)
        .set_major(device.major)
        .set_minor(device.minor)
        .set_file_mode(Some(device.mode))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}
