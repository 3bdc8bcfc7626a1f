//! What [`build`](super::build) has to know of the host: the data, and the functions that gather it.
//!
//! This is the one file of the module that looks at the system. It only reads, but for [`mount_source`], which makes a
//! missing directory, because a pod's `hostPath` volume without a type may name one that is not there yet.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxDeviceType;

use crate::apparmor::AppArmorFacts;
use crate::cgroup::CgroupMode;

/// Directories of `/dev` that a container has of its own; their nodes are not the host's to give.
const OWN_DIRECTORIES: [&str; 6] = ["pts", "shm", "fd", "mqueue", ".lxc", ".udev"];

/// How deep below `/dev`, or below a directory asked for as a device, nodes are looked for.
const MAX_DEPTH: usize = 8;

/// CAP_SYS_RESOURCE by its number in the kernel.
const CAP_SYS_RESOURCE: u32 = 24;

/// What is true of the host and of the daemon's own rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The daemon's capability bounding set, as `CapBnd` of `/proc/self/status`.
    pub bounding: u64,
    /// The least `oom_score_adj` that the daemon may set; `None` is any.
    pub oom_score_adj_floor: Option<i32>,
    /// The version of the cgroups.
    pub cgroup: CgroupMode,
    /// Whether a cgroup can limit swap.
    pub swap_limit: bool,
    /// Page sizes that the hugetlb controller limits, as `2MB`.
    pub hugepage_sizes: Vec<String>,
    /// The device nodes of the host, for privileged containers.
    pub devices: Vec<HostDevice>,
    /// What is loaded of AppArmor's profiles.
    pub apparmor: AppArmorFacts,
    /// Whether SELinux is enabled.
    pub selinux: bool,
}

/// A device node, as a container gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Its path inside the container.
    pub path: PathBuf,
    /// Block, character or FIFO.
    pub kind: LinuxDeviceType,
    /// The major number.
    pub major: i64,
    /// The minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// What the device cgroup allows: of `r`, `w` and `m`.
    pub permissions: String,
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// The host's path, without symbolic links.
    pub path: PathBuf,
    /// How the mount that holds it propagates.
    pub propagation: SourcePropagation,
}

/// How a mount of the host propagates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcePropagation {
    /// Not at all.
    Private,
    /// It receives mounts.
    Slave,
    /// It receives and sends mounts.
    Shared,
}

impl HostFacts {
    /// Looks at this host. Device nodes come and go: look again for each privileged container. So do AppArmor's profiles:
    /// [`AppArmor::prepare`](crate::apparmor::AppArmor::prepare) tells of them for each container.
    pub fn observe(cgroup: CgroupMode) -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let bounding = bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
        let own = fs::read_to_string("/proc/self/oom_score_adj")?;
        Ok(Self {
            bounding,
            oom_score_adj_floor: match bounding >> CAP_SYS_RESOURCE & 1 {
                1 => None,
                _ => own.trim().parse().ok(),
            },
            cgroup,
            swap_limit: swap_limit(cgroup),
            hugepage_sizes: hugepage_sizes(cgroup),
            devices: host_devices()?,
            apparmor: AppArmorFacts::Disabled,
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        })
    }
}

/// All device nodes of the host, under their own paths.
pub fn host_devices() -> io::Result<Vec<HostDevice>> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), "rwm", 0, &mut found)?;
    found.retain(|device| device.path != Path::new("/dev/console"));
    Ok(found)
}

/// The nodes that one CRI device stands for: one, or all of a directory.
pub fn devices(host_path: &Path, container_path: &Path, permissions: &str) -> io::Result<Vec<HostDevice>> {
    let permissions = if permissions.is_empty() { "rwm" } else { permissions };
    if !permissions.bytes().all(|letter| b"rwm".contains(&letter)) {
        let why = format!("permissions {permissions:?} are not of the letters r, w and m");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let source = fs::canonicalize(host_path)?;
    let target = if container_path.as_os_str().is_empty() { host_path } else { container_path };
    let mut found = Vec::new();
    if source.is_dir() {
        collect(&source, target, permissions, 0, &mut found)?;
    } else {
        found.extend(node(&source, target, permissions)?);
    }
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a device")),
        false => Ok(found),
    }
}

/// The source of a volume: resolved, made as a directory where nothing is, with the propagation of its mount.
pub fn mount_source(host_path: &Path) -> io::Result<MountSource> {
    let path = match fs::canonicalize(host_path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(host_path)?;
            fs::canonicalize(host_path)?
        }
        other => other?,
    };
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let propagation = propagation_of(&table, &path);
    Ok(MountSource { path, propagation })
}

fn collect(
    source: &Path,
    target: &Path,
    permissions: &str,
    depth: usize,
    found: &mut Vec<HostDevice>,
) -> io::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let own = source == Path::new("/dev") && OWN_DIRECTORIES.iter().any(|own| name == *own);
            if !own && depth < MAX_DEPTH {
                collect(&entry.path(), &target.join(&name), permissions, depth + 1, found)?;
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            match node(&entry.path(), &target.join(&name), permissions) {
                Ok(device) => found.extend(device),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

fn node(source: &Path, target: &Path, permissions: &str) -> io::Result<Option<HostDevice>> {
    let found = fs::metadata(source)?;
    let kind = found.file_type();
    let kind = match () {
        () if kind.is_char_device() => LinuxDeviceType::C,
        () if kind.is_block_device() => LinuxDeviceType::B,
        () if kind.is_fifo() => LinuxDeviceType::P,
        () => return Ok(None),
    };
    Ok(Some(HostDevice {
        path: target.to_owned(),
        kind,
        major: i64::from(rustix::fs::major(found.rdev())),
        minor: i64::from(rustix::fs::minor(found.rdev())),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        permissions: permissions.to_owned(),
    }))
}

fn swap_limit(cgroup: CgroupMode) -> bool {
    match cgroup {
        CgroupMode::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        // The root has no such file; below it, a kernel that knows swap has it wherever there is a memory controller.
        CgroupMode::V2 => fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| {
            let own =
                text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/');
            let own = Path::new("/sys/fs/cgroup").join(own);
            own.join("memory.swap.max").exists() || Path::new("/proc/swaps").exists()
        }),
    }
}

fn hugepage_sizes(cgroup: CgroupMode) -> Vec<String> {
    let controlled = match cgroup {
        CgroupMode::V1 => Path::new("/sys/fs/cgroup/hugetlb").is_dir(),
        CgroupMode::V2 => fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|text| text.split_whitespace().any(|name| name == "hugetlb")),
    };
    if !controlled {
        return Vec::new();
    }
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    entries.filter_map(|entry| page_size(entry.file_name().to_str()?)).collect()
}

/// `hugepages-2048kB` is `2MB` to cgroups and to the kubelet.
fn page_size(directory: &str) -> Option<String> {
    let kilobytes: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        n if n >= 1 << 20 => format!("{}GB", n >> 20),
        n if n >= 1 << 10 => format!("{}MB", n >> 10),
        n => format!("{n}KB"),
    })
}

/// The propagation of the mount that holds `path`: the last of the longest mount points above it.
fn propagation_of(mountinfo: &str, path: &Path) -> SourcePropagation {
    let mut best = (0, SourcePropagation::Private);
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescape) else { continue };
        if path.starts_with(&point) && point.as_os_str().len() >= best.0 {
            let optional: Vec<_> = fields.skip(1).take_while(|field| *field != "-").collect();
            let has = |tag: &str| optional.iter().any(|field| field.starts_with(tag));
            let propagation = match (has("shared:"), has("master:")) {
                (true, _) => SourcePropagation::Shared,
                (false, true) => SourcePropagation::Slave,
                (false, false) => SourcePropagation::Private,
            };
            best = (point.as_os_str().len(), propagation);
        }
    }
    best.1
}

/// Blanks and backslashes are octal escapes in mountinfo.
fn unescape(field: &str) -> PathBuf {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(plain.iter().fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_says_how_a_path_propagates() {
        let table = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /mnt/a rw shared:7 - tmpfs t rw\n\
                     3 1 0:6 / /mnt/a\\040b rw,nodev master:7 - tmpfs t rw\n4 2 0:7 / /mnt/a rw shared:8 master:7 - tmpfs t rw\n";
        let of = |path: &str| propagation_of(table, Path::new(path));
        assert_eq!(of("/etc"), SourcePropagation::Private);
        assert_eq!(of("/mnt/a/x"), SourcePropagation::Shared);
        assert_eq!(of("/mnt/a b/x"), SourcePropagation::Slave);
        assert_eq!(of("/mnt/ab"), SourcePropagation::Private);
    }

    #[test]
    fn this_host_can_be_observed() {
        let facts = HostFacts::observe(CgroupMode::detect()).unwrap();
        assert_ne!(facts.bounding, 0);
        let null = facts.devices.iter().find(|device| device.path == Path::new("/dev/null")).unwrap();
        assert_eq!((null.kind, null.major, null.minor), (LinuxDeviceType::C, 1, 3));
        assert!(!facts.devices.iter().any(|device| device.path.starts_with("/dev/pts")));
    }

    #[test]
    fn a_device_is_one_node_or_a_directory_of_them() {
        let found = devices(Path::new("/dev/null"), Path::new("/dev/nothing"), "r").unwrap();
        assert_eq!(
            (found[0].path.as_path(), found[0].permissions.as_str()),
            (Path::new("/dev/nothing"), "r")
        );
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("full"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::from_raw_mode(0o640),
            rustix::fs::makedev(1, 7),
        )
        .unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let found = devices(dir.path(), Path::new("/dev/set"), "").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_path(), found[0].minor), (Path::new("/dev/set/full"), 7));
        assert!(devices(&dir.path().join("file"), Path::new("/dev/x"), "rwm").is_err());
        assert!(devices(Path::new("/dev/null"), Path::new("/dev/x"), "rwx").is_err());
    }

    #[test]
    fn a_missing_source_is_made_as_a_directory_and_links_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b");
        assert!(mount_source(&missing).unwrap().path.is_dir());
        std::os::unix::fs::symlink(&missing, dir.path().join("link")).unwrap();
        let resolved = mount_source(&dir.path().join("link")).unwrap().path;
        assert_eq!(resolved, fs::canonicalize(missing).unwrap());
    }

    #[test]
    fn page_sizes_have_the_names_of_the_kubelet() {
        assert_eq!(page_size("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(page_size("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(page_size("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(page_size("other"), None);
    }
}
