//! Making and removing the directories.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{CgroupError, CgroupMode, CgroupPath, Cgroups, Hierarchy};

/// How long a directory may stay busy: a process that was killed leaves its cgroup a moment after it is gone.
const BUSY: Duration = Duration::from_secs(2);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// How often a cgroup is made again whose parent goes meanwhile: it was empty, and the last pod in it has just ended.
const TRIES: u32 = 16;

impl Cgroups {
    /// Makes a cgroup and all above it, in each hierarchy. One that is there is kept. On v2 all above it hand their
    /// controllers down; it does not itself, because then it could hold no process: an OCI runtime sees to that for its own.
    pub fn create(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        self.make(path, self.mode == CgroupMode::V2)
    }

    /// The same with whatever controllers the cgroups above hand down of themselves: where systemd decides on those.
    pub fn create_as_is(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        self.make(path, false)
    }

    fn make(&self, path: &CgroupPath, hand_down: bool) -> Result<(), CgroupError> {
        let mut made = self.make_once(path, hand_down);
        for _ in 1..TRIES {
            if !made.as_ref().is_err_and(CgroupError::is_gone) {
                break;
            }
            made = self.make_once(path, hand_down);
        }
        made
    }

    fn make_once(&self, path: &CgroupPath, hand_down: bool) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let mut above = hierarchy.root.clone();
            for level in path.lineage() {
                if hand_down {
                    hand_down_controllers(&above);
                }
                let directory = level.under(&hierarchy.root);
                match fs::create_dir(&directory) {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                        return Err(CgroupError::io("make cgroup", &directory)(e));
                    }
                    _ => prepare(hierarchy, &directory)?,
                }
                above = directory;
            }
        }
        Ok(())
    }

    /// Removes a cgroup and all below it, in each hierarchy. What is not there is a success. Goes on past errors and gives
    /// the first. Blocks for up to two seconds per directory that is busy: not for the async pool.
    pub fn remove_tree(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        if path.is_root() {
            return Err(CgroupError::Parent(path.to_string()));
        }
        let mut result = Ok(());
        for directory in self.directories(path) {
            result = result.and(remove_directory(&directory));
        }
        result
    }

    /// Removes a cgroup and those above it, `top` the last, as far as they are empty. What others still have something in
    /// stays, and is theirs to remove.
    pub fn remove_empty(&self, path: &CgroupPath, top: &CgroupPath) -> Result<(), CgroupError> {
        let levels = path.lineage().into_iter().rev();
        for level in levels.take_while(|level| level.as_str().len() >= top.as_str().len()) {
            for directory in self.directories(&level) {
                match fs::remove_dir(&directory) {
                    Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) => {
                        return Err(CgroupError::io("remove cgroup", &directory)(e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The outermost cgroup of the path that is not there yet, which who makes the path has to remove.
    pub fn first_missing(&self, path: &CgroupPath) -> Option<CgroupPath> {
        path.lineage().into_iter().find(|level| !self.exists(level))
    }

    /// Whether the cgroup is there, in any hierarchy.
    pub fn exists(&self, path: &CgroupPath) -> bool {
        self.directories(path).any(|directory| directory.is_dir())
    }
}

/// A cpuset of v1 takes no process before it has processors and memory.
fn prepare(hierarchy: &Hierarchy, directory: &Path) -> Result<(), CgroupError> {
    if hierarchy.has("cpuset") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(directory, file).map_err(CgroupError::io("write", &directory.join(file)))?;
        }
    }
    Ok(())
}

/// Lets the cgroups below have every controller that there is. One at a time: one that cannot be had (a cpuset of real-time
/// tasks, a cgroup with processes of its own) must not cost the others; the runtime names what it misses.
fn hand_down_controllers(directory: &Path) {
    let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let file = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    for controller in available.split_whitespace() {
        if !enabled.split_whitespace().any(|name| name == controller)
            && let Err(error) = fs::write(&file, format!("+{controller}"))
        {
            tracing::debug!(controller, file = %file.display(), %error, "a cgroup controller is not handed down");
        }
    }
}

/// Fills an empty file of a new cpuset with what the one above has.
fn inherit(directory: &Path, file: &str) -> io::Result<()> {
    let own = directory.join(file);
    if !fs::read_to_string(&own)?.trim().is_empty() {
        return Ok(());
    }
    let above = directory.parent().unwrap_or(directory).join(file);
    fs::write(own, fs::read_to_string(above)?)
}

fn remove_directory(directory: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(CgroupError::io("read cgroup", directory)(e)),
    };
    let mut result = Ok(());
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            result = result.and(remove_directory(&entry.path()));
        }
    }
    result.and(remove_one(directory))
}

fn remove_one(directory: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + BUSY;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(PAUSE)
            }
            Err(e) => return Err(CgroupError::io("remove cgroup", directory)(e)),
        }
    }
}
