//! What is mounted over the root filesystem, and in which order.
//!
//! The defaults come first, a CRI mount of the same destination takes a default's place (a CRI mount of `/dev` takes the
//! place of all under it), and the whole is ordered by depth, so that a parent never hides a child. `/etc/hosts` is the
//! kubelet's own and comes as a CRI mount.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{MountSource, SourcePropagation, SpecError, SpecInput, annotations, security};
use crate::api;
use crate::cgroup::CgroupMode;

/// What the root mount has to let through for the mounts below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Propagation {
    /// Mounts of the host appear in the container.
    Slave,
    /// And those of the container on the host.
    Shared,
}

impl Propagation {
    /// Its name as a mount option.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Slave => "rslave",
            Self::Shared => "rshared",
        }
    }
}

/// All mounts of a container, and the propagation that its root needs.
pub(super) fn build(
    input: &SpecInput<'_>,
    privileged: bool,
) -> Result<(Vec<Mount>, Option<Propagation>), SpecError> {
    if input.config.mounts.len() != input.mounts.len() {
        return Err(SpecError::invalid("mounts", "not every mount has a source"));
    }
    let (mut asked, mut propagation) = (Vec::new(), None);
    for (index, (mount, source)) in input.config.mounts.iter().zip(input.mounts).enumerate() {
        let (mount, needs) = client_mount(input, index, mount, source)?;
        propagation = propagation.max(needs);
        asked.push(mount);
    }
    let overridden = |path: &Path| {
        asked.iter().any(|mount| {
            mount.destination() == path || (mount.destination() == "/dev" && path.starts_with("/dev"))
        })
    };
    let mut mounts = kernel_mounts(privileged);
    mounts.push(cgroup_mount(input, privileged)?);
    mounts.extend(pod_mounts(input));
    mounts.retain(|mount| !overridden(mount.destination()));
    mounts.extend(asked);
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok((mounts, propagation))
}

fn kernel_mounts(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let plain = ["nosuid", "noexec", "nodev"];
    vec![
        mount("/proc", "proc", "proc", &plain),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &plain),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ]
}

/// A privileged container on v2 shares the host's cgroup namespace. A mount of its own from there would take `nsdelegate` and
/// `memory_recursiveprot` from the whole node, as the kernel has these options once for all; so it gets the host's mount.
fn cgroup_mount(input: &SpecInput<'_>, privileged: bool) -> Result<Mount, SpecError> {
    const AT: &str = "/sys/fs/cgroup";
    let plain = ["nosuid", "noexec", "nodev", "relatime"];
    let (typ, source, how) = match (privileged, input.host.cgroup) {
        (true, CgroupMode::V2) => ("bind", AT, ["rbind", "rprivate"].as_slice()),
        (true, CgroupMode::V1) | (false, _) => ("cgroup", "cgroup", [].as_slice()),
    };
    let access = if privileged || annotations::writable_cgroup(input)? { "rw" } else { "ro" };
    Ok(mount(AT, typ, source, &[how, &plain, &[access]].concat()))
}

fn pod_mounts(input: &SpecInput<'_>) -> Vec<Mount> {
    let access = if security(input).readonly_rootfs { "ro" } else { "rw" };
    let files = &input.files;
    [
        (files.resolv_conf, "/etc/resolv.conf", ["rbind", "rprivate", access].as_slice()),
        (files.hostname, "/etc/hostname", ["rbind", "rprivate", access].as_slice()),
        (files.shm, "/dev/shm", ["rbind", "rprivate", "rw"].as_slice()),
    ]
    .into_iter()
    .filter_map(|(source, destination, options)| {
        source.map(|source| mount(destination, "bind", source, options))
    })
    .collect()
}

fn client_mount(
    input: &SpecInput<'_>,
    index: usize,
    asked: &api::Mount,
    source: &MountSource,
) -> Result<(Mount, Option<Propagation>), SpecError> {
    let field = |name: &str| format!("mounts[{index}] ({:?}).{name}", asked.container_path);
    if asked.image.is_some() {
        return Err(SpecError::unsupported(field("image"), "image volumes are not mounted"));
    }
    if !asked.uid_mappings.is_empty() || !asked.gid_mappings.is_empty() {
        return Err(SpecError::unsupported(field("uidMappings"), "id-mapped mounts are not made"));
    }
    if asked.selinux_relabel && input.host.selinux && !security(input).privileged {
        return Err(SpecError::unsupported(field("selinux_relabel"), "volumes are not relabelled"));
    }
    if asked.host_path.is_empty() {
        return Err(SpecError::invalid(field("host_path"), "it is empty"));
    }
    let destination =
        destination(&asked.container_path).map_err(|why| SpecError::invalid(field("container_path"), why))?;
    let (option, needs) =
        propagation(asked, source).map_err(|why| SpecError::invalid(field("propagation"), why))?;
    let access = access(asked).map_err(|why| SpecError::invalid(field("recursive_read_only"), why))?;
    Ok((mount(destination, "bind", &source.path, &["rbind", option, access]), needs))
}

/// The path in the container, absolute and without `.` and `..`.
fn destination(path: &str) -> Result<PathBuf, &'static str> {
    if path.is_empty() || path.contains('\0') {
        return Err("it is empty or contains a NUL byte");
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    match clean.parent() {
        Some(_) => Ok(clean),
        None => Err("a volume cannot take the place of the root filesystem"),
    }
}

fn propagation(
    asked: &api::Mount,
    source: &MountSource,
) -> Result<(&'static str, Option<Propagation>), String> {
    let held_by = source.path.display();
    match (asked.propagation(), source.propagation) {
        (api::MountPropagation::PropagationPrivate, _) => Ok(("rprivate", None)),
        (api::MountPropagation::PropagationHostToContainer, SourcePropagation::Private) => {
            Err(format!("{held_by} is on a private mount of the host, from which nothing propagates"))
        }
        (api::MountPropagation::PropagationHostToContainer, _) => Ok(("rslave", Some(Propagation::Slave))),
        (api::MountPropagation::PropagationBidirectional, SourcePropagation::Shared) => {
            Ok(("rshared", Some(Propagation::Shared)))
        }
        (api::MountPropagation::PropagationBidirectional, _) => Err(format!(
            "{held_by} is not on a shared mount of the host; make it one with mount --make-rshared"
        )),
    }
}

fn access(asked: &api::Mount) -> Result<&'static str, &'static str> {
    let private = asked.propagation() == api::MountPropagation::PropagationPrivate;
    match (asked.recursive_read_only, asked.readonly) {
        (true, true) if private => Ok("rro"),
        (true, true) => Err("it needs private propagation"),
        (true, false) => Err("it needs readonly as well"),
        (false, true) => Ok("ro"),
        (false, false) => Ok("rw"),
    }
}

fn mount(destination: impl Into<PathBuf>, typ: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}
