//! Layers as projects of the file system's quota.
//!
//! A project's number is taken from the configured range when the kernel says that it has no file: that also keeps away from
//! numbers that somebody else uses, and from those of layers that are still being deleted. The directories are given to the
//! project first, and then counted: two of them are ours, more means that another daemon took the number at the same time, and
//! the next one is tried. The limit comes last, and is lifted before the layer is removed. So a daemon that is killed at any
//! point leaves a limit only on a layer that its successor still finds; and one that was left in another way is lifted when its
//! number is taken again.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::{DiskError, UPPER, Usage, WORK, open};
use crate::config::DiskConfig;
use crate::id::ContainerId;
use crate::sys::{clock, fs, quota};

/// The inodes of an empty layer: its two directories.
const OF_AN_EMPTY_LAYER: u64 = 2;

/// The projects of the layers in one directory.
pub(super) struct Projects {
    containers: PathBuf,
    directory: OwnedFd,
    limits: bool,
    first: u32,
    number: u32,
    // Held for a map operation.
    assigned: Mutex<Assigned>,
}

#[derive(Default)]
struct Assigned {
    of: HashMap<ContainerId, u32>,
    /// Of the above, and what is being tried.
    taken: HashSet<u32>,
    /// How far from the first the next number is.
    next: u32,
}

impl Projects {
    /// Those of the layers in `containers`, or why it has none.
    pub(super) fn detect(config: &DiskConfig, containers: &Path) -> Result<Self, String> {
        let (Ok(first), Ok(number)) = (u32::try_from(config.first_project), u32::try_from(config.projects))
        else {
            return Err("disk.first_project and disk.projects are too large".to_owned());
        };
        if number == 0 {
            return Err("disk.projects is 0".to_owned());
        }
        let place = containers.display();
        let directory =
            fs::open_directory(containers).map_err(|e| format!("{place} cannot be opened: {e}"))?;
        let abilities = quota::abilities(directory.as_fd());
        match abilities {
            Ok(abilities) if abilities.counts => {}
            Err(Errno::PERM) => {
                return Err(format!("podd may not ask for the quotas of {place} (CAP_SYS_ADMIN)"));
            }
            Ok(_) | Err(_) => {
                return Err(format!(
                    "the file system of {place} has no project quotas; they need Linux 5.14 and ext4 (tune2fs -O project,quota) \
                     or XFS, mounted with the option prjquota"
                ));
            }
        }
        // Where an administrator counts all of podd as one project, its numbers are not podd's to give.
        match quota::project(directory.as_fd()) {
            Ok(project) if project.id == 0 && !project.inherited => {}
            Ok(project) => return Err(format!("{place} belongs to project {} already", project.id)),
            Err(e) => return Err(format!("the project of {place} cannot be read: {e}")),
        }
        let limits = abilities.is_ok_and(|abilities| abilities.limits);
        let containers = containers.to_owned();
        Ok(Self { containers, directory, limits, first, number, assigned: Mutex::default() })
    }

    /// Whether more than counting is on.
    pub(super) fn can_limit(&self) -> bool {
        self.limits
    }

    /// The containers whose layers are counted so.
    pub(super) fn containers(&self) -> Vec<ContainerId> {
        self.lock().of.keys().cloned().collect()
    }

    /// What a layer takes; `None` if it is not counted so.
    pub(super) fn usage(&self, container: &ContainerId) -> Option<Usage> {
        let project = *self.lock().of.get(container)?;
        let count = quota::count(self.directory.as_fd(), project).ok()?;
        Some(Usage { bytes: count.bytes, inodes: count.inodes, at: clock::now() })
    }

    /// Gives a new layer to a project of its own.
    pub(super) fn assign(&self, container: &ContainerId, limit: Option<u64>) -> Result<(), DiskError> {
        let path = self.containers.join(container.as_str());
        // `work` first and last: it is where the number is looked for.
        let directories = [WORK, UPPER].map(|name| open(&self.directory, container, name));
        let [work, upper] = directories;
        let directories = [
            work.map_err(DiskError::io("open the writable layer in", &path))?,
            upper.map_err(DiskError::io("open the writable layer in", &path))?,
        ];
        for _ in 0..self.number {
            let Some(project) = self.reserve() else { break };
            match self.settle(project, &directories, limit.unwrap_or(0)) {
                Ok(true) => {
                    self.lock().of.insert(container.clone(), project);
                    return Ok(());
                }
                Ok(false) => drop(self.lock().taken.remove(&project)),
                Err(error) => {
                    self.lock().taken.remove(&project);
                    return Err(DiskError::io("set the project quota of", &path)(error));
                }
            }
        }
        let last = self.first.saturating_add(self.number - 1);
        Err(DiskError::NoProject { first: self.first, last, place: self.containers.clone() })
    }

    /// A number that no layer here has, and that nobody else tries meanwhile; `None` when all are taken.
    fn reserve(&self) -> Option<u32> {
        let mut assigned = self.lock();
        for _ in 0..self.number {
            let project = self.first.checked_add(assigned.next)?;
            assigned.next = (assigned.next + 1) % self.number;
            if assigned.taken.insert(project) {
                return Some(project);
            }
        }
        None
    }

    /// Gives the directories to a project and limits it; `false` where it is somebody else's.
    fn settle(&self, project: u32, directories: &[OwnedFd; 2], limit: u64) -> Result<bool, Errno> {
        let file_system = self.directory.as_fd();
        let before = quota::count(file_system, project)?;
        if before.inodes != 0 || before.bytes != 0 {
            return Ok(false);
        }
        if before.limit != 0 {
            quota::set_limit(file_system, project, 0)?;
        }
        for directory in directories {
            quota::set_project(directory.as_fd(), project)?;
        }
        if quota::count(file_system, project)?.inodes != OF_AN_EMPTY_LAYER {
            return Ok(false);
        }
        if limit != 0 {
            quota::set_limit(file_system, project, limit)?;
        }
        Ok(true)
    }

    /// Knows again the project of a layer that an earlier daemon made; `false` if it has none.
    pub(super) fn take_up(&self, container: &ContainerId) -> bool {
        let Some(project) = self.recorded(container) else { return false };
        let mut assigned = self.lock();
        assigned.taken.insert(project);
        assigned.of.insert(container.clone(), project);
        true
    }

    /// Lifts the limit of a layer and forgets its project. The number is free when the last file is gone.
    pub(super) fn release(&self, container: &ContainerId) -> Result<(), DiskError> {
        let known = self.lock().of.get(container).copied();
        let Some(project) = known.or_else(|| self.recorded(container)) else { return Ok(()) };
        let path = self.containers.join(container.as_str());
        self.lift(project).map_err(DiskError::io("lift the project quota of", &path))?;
        let mut assigned = self.lock();
        assigned.of.remove(container);
        assigned.taken.remove(&project);
        Ok(())
    }

    fn lift(&self, project: u32) -> Result<(), Errno> {
        let lifted = match quota::count(self.directory.as_fd(), project) {
            Ok(count) if count.limit == 0 => Ok(()),
            Ok(_) => quota::set_limit(self.directory.as_fd(), project, 0),
            Err(error) => Err(error),
        };
        match lifted {
            // Somebody has turned quotas off.
            Err(Errno::SRCH | Errno::NOSYS) => Ok(()),
            result => result,
        }
    }

    /// The project that a layer on disk belongs to.
    fn recorded(&self, container: &ContainerId) -> Option<u32> {
        let work = open(&self.directory, container, WORK).ok()?;
        let project = quota::project(work.as_fd()).ok()?;
        Some(project.id).filter(|id| *id != 0)
    }

    fn lock(&self) -> MutexGuard<'_, Assigned> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
