//! What the containers' writable layers take of the disk, and their limits.
//!
//! ```text
//!   projects.rs   by project quota, where the file system has it: the kernel counts, a question costs one system call
//!   walker.rs     where it has not: a thread that walks over the layers, a little at a time, and keeps what it found
//!   walk.rs       one walk, which can be broken off at any file and gone on with
//! ```
//!
//! A layer is the two directories that an overlay is mounted with, `upper` and `work`, in `containers/<id>/`. Both of a
//! container belong to one project. Which one is written nowhere else: it is read again from `work`, which no container can
//! reach. Invariants: a question never waits for a walk; a node on which nobody asks is not walked over, and the thread does not
//! even wake up; a limit that was asked for holds, or the container is not made.

mod projects;
#[cfg(test)]
mod tests;
mod walk;
mod walker;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::config::DiskConfig;
use crate::id::ContainerId;
pub use crate::sys::clock::Nanos;
use crate::sys::fs;
use projects::Projects;
use walker::Walker;

/// The two directories of a layer, below `containers/<id>`.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// What a writable layer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Space on the disk, in bytes: a sparse file counts as much as is written of it.
    pub bytes: u64,
    /// Files and directories; one with several names counts once.
    pub inodes: u64,
    /// When it was so.
    pub at: Nanos,
}

/// What cannot be done for a writable layer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DiskError {
    #[error("writable layers cannot be limited, since {0}")]
    NoLimits(String),
    #[error(
        "all project IDs from {first} to {last} are in use on the file system of {}; raise disk.projects", place.display()
    )]
    NoProject { first: u32, last: u32, place: PathBuf },
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl DiskError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source: source.into() }
    }
}

/// The writable layers of the node.
pub struct Disk {
    place: PathBuf,
    containers: PathBuf,
    /// Or why there are none.
    projects: Result<Projects, String>,
    walker: Walker,
}

impl Disk {
    /// Looks at the file system below `place`, where the layers lie in `containers/`. Blocks.
    pub fn open(config: &DiskConfig, place: &Path) -> Self {
        let containers = place.join("containers");
        let projects = Projects::detect(config, &containers);
        match &projects {
            Ok(projects) if projects.can_limit() => {
                tracing::info!("project quotas count what writable layers take, and limit it")
            }
            Ok(_) => tracing::info!("project quotas count what writable layers take, and cannot limit it"),
            Err(why) => tracing::info!("what writable layers take is found by walking over them: {why}"),
        }
        Self { place: place.to_owned(), walker: Walker::new(config, &containers), containers, projects }
    }

    /// The directory on whose file system the writable layers are.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// What the container's writable layer takes; `None` while that is not known yet. Waits for nothing.
    pub fn usage(&self, container: &ContainerId) -> Option<Usage> {
        let counted = self.projects.as_ref().ok().and_then(|projects| projects.usage(container));
        counted.or_else(|| self.walker.usage(container))
    }

    /// What all writable layers take, as far as it is known, at the time of what is known the longest.
    pub fn total(&self) -> Usage {
        let counted = self.projects.as_ref().map(Projects::containers).unwrap_or_default();
        let known = counted.iter().chain(&self.walker.containers()).filter_map(|id| self.usage(id)).fold(
            None,
            |sum: Option<Usage>, one| {
                let sum = sum.unwrap_or(Usage { at: one.at, ..Usage::default() });
                Some(Usage {
                    bytes: sum.bytes.saturating_add(one.bytes),
                    inodes: sum.inodes.saturating_add(one.inodes),
                    at: sum.at.min(one.at),
                })
            },
        );
        known.unwrap_or(Usage { at: crate::sys::clock::now(), ..Usage::default() })
    }

    /// Whether a layer can be limited.
    pub fn can_limit(&self) -> Result<(), DiskError> {
        match &self.projects {
            Ok(projects) if projects.can_limit() => Ok(()),
            Ok(_) => Err(DiskError::NoLimits(format!(
                "the file system of {} counts for projects without limiting them; mount it with the option prjquota",
                self.containers.display()
            ))),
            Err(why) => Err(DiskError::NoLimits(why.clone())),
        }
    }

    /// Begins to count for a layer that was just made and that nothing is in, and limits it to so many bytes. Without a limit this
    /// always succeeds.
    pub fn add(&self, container: &ContainerId, limit: Option<u64>) -> Result<(), DiskError> {
        if limit.is_some() {
            self.can_limit()?;
        }
        if let Ok(projects) = &self.projects {
            match projects.assign(container, limit) {
                Ok(()) => return Ok(()),
                Err(error) if limit.is_some() => return Err(error),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(%container, error, "its writable layer will be walked over");
                }
            }
        }
        self.walker.add(container);
        Ok(())
    }

    /// Takes up the layers of containers that an earlier daemon left, each with whether its container has ended; the quotas of
    /// all others are given back.
    pub fn take_up(&self, living: &HashMap<ContainerId, bool>) -> Vec<DiskError> {
        let names = fs::names(&self.containers).unwrap_or_default();
        let mut errors = Vec::new();
        for id in names.into_iter().filter_map(|name| name.parse::<ContainerId>().ok()) {
            match living.get(&id) {
                None => errors.extend(self.release(&id).err()),
                Some(_) if self.projects.as_ref().is_ok_and(|projects| projects.take_up(&id)) => {}
                Some(ended) => {
                    self.walker.add(&id);
                    if *ended {
                        self.walker.ended(&id);
                    }
                }
            }
        }
        errors
    }

    /// The container has ended: its layer changes no more.
    pub fn ended(&self, container: &ContainerId) {
        self.walker.ended(container);
    }

    /// Lifts the layer's limit and stops counting for it, before the layer is removed. What is not there is a success.
    pub fn release(&self, container: &ContainerId) -> Result<(), DiskError> {
        self.walker.remove(container);
        match &self.projects {
            Ok(projects) => projects.release(container),
            Err(_) => Ok(()),
        }
    }
}

/// A directory of a container's layer, to look at.
fn open(containers: &OwnedFd, container: &ContainerId, directory: &str) -> Result<OwnedFd, Errno> {
    fs::open_directory_beneath(containers.as_fd(), format!("{container}/{directory}").as_bytes())
}
