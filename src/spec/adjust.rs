//! Changes to a finished document, by whoever may make some after [`build`](super::build): CDI devices, classes,
//! and hooks of the node.
//!
//! They are gathered as [`Edits`] and applied in this one place, so that all of them follow the same rules: a variable, a
//! device and a mount take the place of those of the same name or path; hooks, groups and rules are added.

use std::path::PathBuf;

use oci_spec::runtime::{
    Hook, LinuxBlockIo, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIntelRdt, Mount, Process, Spec,
};

use super::process::set_variable;

/// What is to be changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edits {
    /// Variables of the first process, by name.
    pub env: Vec<(String, String)>,
    /// Device nodes, each allowed.
    pub devices: Vec<DeviceEdit>,
    /// Mounts; the whole is ordered by depth afterwards.
    pub mounts: Vec<Mount>,
    /// Hooks, run after those of the same stage that are there.
    pub hooks: Vec<(HookStage, Hook)>,
    /// Supplementary groups of the first process; 0 is none.
    pub additional_gids: Vec<u32>,
    /// The class of Intel's Resource Director Technology.
    pub intel_rdt: Option<LinuxIntelRdt>,
    /// Limits of block I/O.
    pub block_io: Option<LinuxBlockIo>,
}

/// A device node to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEdit {
    /// Its path inside the container.
    pub path: PathBuf,
    /// Block, character or FIFO.
    pub kind: LinuxDeviceType,
    /// The major number.
    pub major: i64,
    /// The minor number.
    pub minor: i64,
    /// Permission bits; `None` leaves them to the runtime.
    pub mode: Option<u32>,
    /// The owner; `None` is the container's user.
    pub uid: Option<u32>,
    /// The group; `None` is the container's.
    pub gid: Option<u32>,
    /// What the device cgroup allows: of `r`, `w` and `m`; empty is nothing.
    pub permissions: String,
}

/// When a hook runs (runtime-spec, "POSIX-platform hooks").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum HookStage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl HookStage {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// Its name in the runtime specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The stage of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

impl Edits {
    /// Adds those of another, which come after.
    pub fn append(&mut self, other: Self) {
        let Self { env, devices, mounts, hooks, additional_gids, intel_rdt, block_io } = other;
        self.env.extend(env);
        self.devices.extend(devices);
        self.mounts.extend(mounts);
        self.hooks.extend(hooks);
        self.additional_gids.extend(additional_gids);
        self.intel_rdt = intel_rdt.or(self.intel_rdt.take());
        self.block_io = block_io.or(self.block_io.take());
    }

    /// Changes the document.
    pub fn apply(self, spec: &mut Spec) {
        let mut owner = (None, None);
        if let Some(process) = spec.process_mut() {
            owner = (above_root(process.user().uid()), above_root(process.user().gid()));
            edit_process(process, &self.env, &self.additional_gids);
        }
        for device in self.devices {
            let (uid, gid) = (device.uid.or(owner.0), device.gid.or(owner.1));
            add_device(spec, DeviceEdit { uid, gid, ..device });
        }
        add_mounts(spec, self.mounts);
        for (stage, hook) in self.hooks {
            add_hook(spec, stage, hook);
        }
        if let (Some(rdt), Some(linux)) = (self.intel_rdt, spec.linux_mut()) {
            linux.set_intel_rdt(Some(rdt));
        }
        if let (Some(block_io), Some(linux)) = (self.block_io, spec.linux_mut()) {
            let mut resources = linux.resources().clone().unwrap_or_default();
            resources.set_block_io(Some(block_io));
            linux.set_resources(Some(resources));
        }
    }
}

fn above_root(id: u32) -> Option<u32> {
    Some(id).filter(|id| *id != 0)
}

fn edit_process(process: &mut Process, env: &[(String, String)], gids: &[u32]) {
    let mut variables = process.env().clone().unwrap_or_default();
    for (name, value) in env {
        set_variable(&mut variables, name, value);
    }
    process.set_env(Some(variables));
    let mut groups = process.user().additional_gids().clone().unwrap_or_default();
    for gid in gids {
        if *gid != 0 && !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    process.user_mut().set_additional_gids(Some(groups));
}

fn add_device(spec: &mut Spec, device: DeviceEdit) {
    let Some(linux) = spec.linux_mut() else { return };
    let mut node = LinuxDevice::default();
    node.set_path(device.path)
        .set_typ(device.kind)
        .set_major(device.major)
        .set_minor(device.minor)
        .set_file_mode(device.mode)
        .set_uid(device.uid)
        .set_gid(device.gid);
    let mut nodes = linux.devices().clone().unwrap_or_default();
    nodes.retain(|other| other.path() != node.path());
    nodes.push(node);
    linux.set_devices(Some(nodes));
    let ruled = matches!(device.kind, LinuxDeviceType::B | LinuxDeviceType::C);
    if !ruled || device.permissions.is_empty() {
        return;
    }
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(device.kind))
        .set_major(Some(device.major))
        .set_minor(Some(device.minor))
        .set_access(Some(device.permissions));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
}

fn add_mounts(spec: &mut Spec, added: Vec<Mount>) {
    if added.is_empty() {
        return;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in added {
        mounts.retain(|other| other.destination() != mount.destination());
        mounts.push(mount);
    }
    mounts.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(mounts));
}

#[allow(deprecated, reason = "prestart is deprecated, and in use")]
fn add_hook(spec: &mut Spec, stage: HookStage, hook: Hook) {
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    let list = match stage {
        HookStage::Prestart => hooks.prestart_mut(),
        HookStage::CreateRuntime => hooks.create_runtime_mut(),
        HookStage::CreateContainer => hooks.create_container_mut(),
        HookStage::StartContainer => hooks.start_container_mut(),
        HookStage::Poststart => hooks.poststart_mut(),
        HookStage::Poststop => hooks.poststop_mut(),
    };
    list.get_or_insert_default().push(hook);
    spec.set_hooks(Some(hooks));
}
