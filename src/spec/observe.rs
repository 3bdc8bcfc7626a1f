//! What [`build`](super::build) has to know of the host: the data, and the functions that gather it.
//!
//! This file and `sources.rs`, which finds the sources of volumes, are the ones of the module that look at the system.

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
    /// Whether cgroup v2 keeps a cgroup namespace from what limits itself (mount option `nsdelegate`).
    pub nsdelegate: bool,
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
    /// The kernel's version, its first two numbers.
    pub kernel: (u32, u32),
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
            nsdelegate: nsdelegate(&fs::read_to_string("/proc/self/mountinfo")?),
            swap_limit: swap_limit(cgroup),
            hugepage_sizes: hugepage_sizes(cgroup),
            devices: host_devices()?,
            apparmor: AppArmorFacts::Disabled,
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            kernel: kernel_version(&rustix::system::uname().release().to_string_lossy()),
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

fn nsdelegate(mountinfo: &str) -> bool {
    mountinfo.lines().filter_map(|line| line.split_once(" - ")).any(|(mount, filesystem)| {
        let options = filesystem.rsplit(' ').next().unwrap_or_default();
        mount.split(' ').nth(4) == Some("/sys/fs/cgroup")
            && filesystem.starts_with("cgroup2 ")
            && options.split(',').any(|option| option == "nsdelegate")
    })
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

/// `6.1.0-13-amd64` is 6.1; what has no numbers is older than anything.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_options_of_cgroup_v2_say_whether_namespaces_are_delegated_to() {
        let table = "1 0 8:1 / / rw - ext4 a rw,nsdelegate\n2 1 0:5 / /sys/fs/cgroup rw - cgroup2 c rw";
        assert!(!nsdelegate(table));
        assert!(nsdelegate(&format!("{table},nsdelegate,memory_recursiveprot")));
    }

    #[test]
    fn page_sizes_have_the_names_of_the_kubelet() {
        assert_eq!(page_size("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(page_size("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(page_size("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(page_size("other"), None);
        assert_eq!(kernel_version("6.1.0-13-amd64"), (6, 1));
        assert_eq!((kernel_version("7"), kernel_version("odd")), ((7, 0), (0, 0)));
    }
}
