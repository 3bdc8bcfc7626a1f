//! What is mounted over the root filesystem, and in which order.
//!
//! The defaults come first, then the operator's; a CRI mount of the same destination takes the place of either (one of
//! `/dev` or `/sys` that of all under it). The whole is ordered by depth, so that a parent never hides a child; of two
//! CRI mounts with one destination the later one is seen. `/etc/hosts` is the kubelet's own and comes as a CRI mount.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{MountSource, SourcePropagation, SpecError, SpecInput, annotations, security, userns};
use crate::api;
use crate::cgroup::CgroupMode;
use crate::config::HostMount;

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
        asked.iter().map(Mount::destination).any(|at| at == path || is_whole(at) && path.starts_with(at))
    };
    let mut mounts = kernel_mounts(privileged);
    mounts.push(cgroup_mount(input, privileged)?);
    mounts.extend(pod_mounts(input));
    let operators: Vec<Mount> = input.default_mounts.iter().map(operators_mount).collect();
    mounts.retain(|mount| operators.iter().all(|other| other.destination() != mount.destination()));
    mounts.extend(operators);
    if input.namespaces.user.is_some() && input.namespaces.network.is_none() {
        show_the_hosts_sys(&mut mounts);
    }
    mounts.retain(|mount| !overridden(mount.destination()));
    mounts.extend(asked);
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok((mounts, propagation))
}

/// What is below these is the kernel's, and comes with them.
fn is_whole(destination: &Path) -> bool {
    destination == Path::new("/dev") || destination == Path::new("/sys")
}

fn operators_mount(asked: &HostMount) -> Mount {
    let access = if asked.readonly { "ro" } else { "rw" };
    mount(&asked.destination, "bind", &asked.source, &["rbind", "rprivate", access])
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

/// A sysfs shows a network namespace, and only who owns that may mount one. A user namespace does not own the host's
/// network, so a container in both sees the host's `/sys`, as with the peers, all of it read-only.
fn show_the_hosts_sys(mounts: &mut [Mount]) {
    let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"];
    let sys = mounts.iter_mut().find(|mount| mount.destination() == "/sys");
    sys.into_iter().for_each(|sys| *sys = mount("/sys", "bind", "/sys", &options));
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
        (files.hosts, "/etc/hosts", ["rbind", "rprivate", "ro"].as_slice()),
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
    let destination =
        destination(&asked.container_path).map_err(|why| SpecError::invalid(field("container_path"), why))?;
    if asked.image.is_some() {
        return image_volume(asked, destination, source)
            .map_err(|(name, why)| SpecError::invalid(field(name), why));
    }
    if asked.host_path.is_empty() {
        return Err(SpecError::invalid(field("host_path"), "it is empty"));
    }
    let (option, needs) =
        propagation(asked, source).map_err(|why| SpecError::invalid(field("propagation"), why))?;
    let access = access(asked).map_err(|why| SpecError::invalid(field("recursive_read_only"), why))?;
    if asked.recursive_read_only
        && let Err(why) = &input.features.recursive_read_only
    {
        return Err(SpecError::unsupported(field("recursive_read_only"), why.clone()));
    }
    let mut mount = mount(destination, "bind", &source.path, &["rbind", option, access]);
    userns::map_volume(input, asked, &mut mount, field)?;
    Ok((mount, needs))
}

/// A volume that is an image: read-only, and none of its files is a device or lends its owner's rights. Its programs can be
/// run, as KEP-4639 has it since Kubernetes 1.36. Nothing is mounted below it, so it is read-only recursively as well.
fn image_volume(
    asked: &api::Mount,
    destination: PathBuf,
    source: &MountSource,
) -> Result<(Mount, Option<Propagation>), (&'static str, &'static str)> {
    if !asked.readonly {
        return Err(("readonly", "an image can only be mounted read-only"));
    }
    if asked.propagation() != api::MountPropagation::PropagationPrivate {
        return Err(("propagation", "an image can only be mounted with private propagation"));
    }
    let options = ["rbind", "rprivate", "ro", "nosuid", "nodev"];
    Ok((mount(destination, "bind", &source.path, &options), None))
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
