//! Control groups, as far as the daemon itself has to touch them.
//!
//! The OCI runtime makes a container's cgroup and writes its limits, itself or through systemd (`driver.rs`). The daemon makes
//! and limits the pod's cgroup above it where the client has not, asks what a cgroup uses (`stats/`) and which processes live
//! in it, kills what is left and removes the directories. On v1 every operation goes to each hierarchy; a hybrid host is a v1
//! host, its `unified` tree is left alone.
//!
//! Invariant: a [`CgroupPath`] is absolute and has no `..`, so whatever a client sends as a parent, nothing outside the
//! cgroup file systems is touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

mod driver;
mod limits;
mod look;
mod path;
pub mod stats;
mod tasks;
#[cfg(test)]
mod tests;
mod tree;

pub use driver::{Driver, NoSystemd};
pub use look::Layout;
pub use path::{CgroupPath, Location, is_systemd, location, parent, path_of_spec};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Controllers of v1 whose hierarchies a monitor is moved into: what its memory, processes and time count in.
const MONITOR_HIERARCHIES: [&str; 4] = ["memory", "pids", "cpu", "name=systemd"];

/// The version of the cgroups that the containers get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// One hierarchy per controller, also in the hybrid layout.
    V1,
    /// One hierarchy for all.
    V2,
}

impl CgroupMode {
    /// What `/sys/fs/cgroup` is on this host.
    pub fn detect() -> Self {
        if is_cgroup2(Path::new(ROOT)) { Self::V2 } else { Self::V1 }
    }
}

fn is_cgroup2(path: &Path) -> bool {
    const CGROUP2_MAGIC: u64 = 0x6367_7270;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(CGROUP2_MAGIC))
}

/// An operation on a cgroup that failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A parent that is not a plain path.
    #[error("cgroup_parent {0:?} must be a path without \"..\", blanks at its ends or control characters")]
    Parent(String),
    /// A parent that is no slice, with the systemd driver.
    #[error("cgroup_parent {0:?} must end in a name like \"a-b.slice\" with the systemd cgroup driver")]
    Slice(String),
    /// The kernel refused.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Processes that would not go.
    #[error("cgroup {path} still has {left} processes after {tried} tries to kill them")]
    Alive {
        /// The cgroup.
        path: CgroupPath,
        /// How many are left.
        left: usize,
        /// How often they were signalled.
        tried: u32,
    },
}

impl CgroupError {
    /// Whether a cgroup, or one above it, was removed meanwhile.
    fn is_gone(&self) -> bool {
        let gone = |source: &io::Error| {
            source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(Errno::NODEV.raw_os_error())
        };
        matches!(self, Self::Io { source, .. } if gone(source))
    }

    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

/// The cgroup file systems of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    mode: CgroupMode,
    hierarchies: Vec<Hierarchy>,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Its controllers on v1, `name=...` included; empty on v2.
    controllers: Vec<String>,
    root: PathBuf,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

impl Cgroups {
    /// Finds what is mounted.
    pub fn detect() -> io::Result<Self> {
        Ok(match CgroupMode::detect() {
            CgroupMode::V2 => Self::v2(Path::new(ROOT)),
            CgroupMode::V1 => Self::v1(&fs::read_to_string("/proc/self/mountinfo")?),
        })
    }

    fn v2(root: &Path) -> Self {
        let hierarchy = Hierarchy { controllers: Vec::new(), root: root.to_owned() };
        Self { mode: CgroupMode::V2, hierarchies: vec![hierarchy] }
    }

    /// The v1 hierarchies of a mountinfo table; one that is mounted twice counts once.
    fn v1(mountinfo: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let fields: Vec<_> = filesystem.split(' ').collect();
            let (["cgroup", _, options], Some(point)) = (fields.as_slice(), mount.split(' ').nth(4)) else {
                continue;
            };
            let controllers: Vec<_> =
                options.split(',').filter(|option| is_controller(option)).map(str::to_owned).collect();
            if !hierarchies.iter().any(|known| known.controllers == controllers) {
                hierarchies.push(Hierarchy { controllers, root: PathBuf::from(point) });
            }
        }
        Self { mode: CgroupMode::V1, hierarchies }
    }

    /// The version.
    pub fn mode(&self) -> CgroupMode {
        self.mode
    }

    /// The file in which a container's OOM kills are counted: `memory.events` (v2) or `memory.oom_control` (v1).
    pub fn oom_file(&self, path: &CgroupPath) -> Option<PathBuf> {
        match self.mode {
            CgroupMode::V2 => Some(path.under(&self.hierarchies.first()?.root).join("memory.events")),
            CgroupMode::V1 => {
                let memory = self.hierarchies.iter().find(|hierarchy| hierarchy.has("memory"))?;
                Some(path.under(&memory.root).join("memory.oom_control"))
            }
        }
    }

    /// The `cgroup.procs` files into which a monitor is written, one per hierarchy that counts.
    pub fn procs_files(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let counts = |hierarchy: &&Hierarchy| {
            self.mode == CgroupMode::V2 || MONITOR_HIERARCHIES.iter().any(|name| hierarchy.has(name))
        };
        self.hierarchies.iter().filter(counts).map(|it| path.under(&it.root).join("cgroup.procs")).collect()
    }

    /// The directories of a cgroup, one per hierarchy.
    fn directories(&self, path: &CgroupPath) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| path.under(&hierarchy.root))
    }
}

/// Mount options of a v1 hierarchy that name a controller, and not how it is mounted.
fn is_controller(option: &str) -> bool {
    let plain =
        ["rw", "ro", "xattr", "clone_children", "noprefix", "all", "none", "favordynmods", "cpuset_v2_mode"];
    !plain.contains(&option) && !option.starts_with("release_agent=")
}
