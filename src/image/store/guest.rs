//! A process that works in the store beside its owner, or without one: a command line tool.
//!
//! ```text
//! <root>/guests/<unique>/lock         flock, for as long as the process lives
//! <root>/guests/<unique>/leases.json  the layers that it counts on, or has put into layers/
//! <root>/guests/<unique>/<unique>/    its staging directories
//! ```
//!
//! A guest never removes a layer. Before it counts on one or commits one it has written so into `leases.json`, while it had
//! the right to change the store; the owner reads that under the same right before it takes a layer away. What is listed there
//! may be more than what is still needed, and is never less. A guest whose lock is free is gone: the owner discards its
//! directory, and looks at what it listed for layers that no image came to name.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::StoreError;
use super::layer::ChainId;
use super::shared::Section;
use super::trash::unique_name;
use crate::record::{self, Durability};
use crate::sys::fs;

/// The directory of all guests.
pub(super) const GUESTS: &str = "guests";

const LOCK: &str = "lock";
const LEASES: &str = "leases.json";

/// This process as a guest.
pub(super) struct Guest {
    pub(super) directory: PathBuf,
    lock: File,
    /// As it is in `leases.json`; it only grows, since tools are short-lived. Held for the write that belongs to it.
    listed: Mutex<BTreeSet<ChainId>>,
}

impl Guest {
    /// Registers this process, so that the owner leaves alone what it does.
    pub(super) fn enter(root: &Path, _: &Section<'_>) -> Result<Self, StoreError> {
        let directory = root.join(GUESTS).join(format!("{}-{}", std::process::id(), unique_name()));
        let made = DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(|e| StoreError::io("create", &directory, e))?;
        let path = directory.join(LOCK);
        let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let lock = lock.map_err(|e| StoreError::io("create", &path, e))?;
        fs::try_lock(&lock).map_err(|e| StoreError::io("lock", &path, e))?;
        Ok(Self { directory, lock, listed: Mutex::default() })
    }

    /// Tells the owner that this process counts on these layers, or is about to put them into place.
    pub(super) fn list(&self, chain: &[ChainId], _: &Section<'_>) -> Result<(), StoreError> {
        let mut listed = self.listed();
        if !chain.iter().all(|id| listed.contains(id)) {
            let all: BTreeSet<ChainId> = listed.iter().chain(chain).cloned().collect();
            record::write(&self.directory.join(LEASES), &all, Durability::Process)?;
            *listed = all;
        }
        Ok(())
    }

    /// Ends this guest. What it listed is left to the owner where `is_named` does not know every layer of it.
    pub(super) fn leave(&self, is_named: impl Fn(&ChainId) -> bool) -> std::io::Result<()> {
        let settled = self.listed().iter().all(is_named);
        for name in fs::names(&self.directory)? {
            let path = self.directory.join(&name);
            if path.is_dir() {
                fs::empty_directory(fs::open_directory(&path)?.as_fd())?;
                std::fs::remove_dir(&path)?;
            } else if settled {
                std::fs::remove_file(&path)?;
            }
        }
        match settled {
            true => std::fs::remove_dir(&self.directory),
            // By itself, since a process that is just being started may have a copy of the descriptor.
            false => fs::unlock(&self.lock),
        }
    }

    fn listed(&self) -> MutexGuard<'_, BTreeSet<ChainId>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the owner finds of the guests.
#[derive(Default)]
pub(super) struct Guests {
    /// What those that live count on.
    pub(super) leased: BTreeSet<ChainId>,
    /// The directories of those that are gone, and what they had listed.
    pub(super) gone: Vec<(PathBuf, BTreeSet<ChainId>)>,
    /// A list could not be read: nothing may be taken away.
    pub(super) unknown: bool,
}

impl Guests {
    /// Looks at all guests, which neither come nor list more while the section lasts.
    pub(super) fn look(root: &Path, _: &Section<'_>) -> Result<Self, StoreError> {
        let all = root.join(GUESTS);
        let mut guests = Self::default();
        for name in fs::names(&all).map_err(|e| StoreError::io("list", &all, e))? {
            let directory = all.join(name);
            let listed = record::read::<BTreeSet<ChainId>>(&directory.join(LEASES));
            if is_gone(&directory)? {
                guests.gone.push((directory, listed.ok().flatten().unwrap_or_default()));
                continue;
            }
            match listed {
                Ok(listed) => guests.leased.extend(listed.unwrap_or_default()),
                Err(error) => {
                    tracing::warn!(%error, "no layer is removed while this process of podd runs");
                    guests.unknown = true;
                }
            }
        }
        Ok(guests)
    }
}

/// A guest that is just leaving has removed its lock.
fn is_gone(directory: &Path) -> Result<bool, StoreError> {
    let path = directory.join(LOCK);
    match File::open(&path) {
        Ok(file) => fs::try_lock(&file).map_err(|e| StoreError::io("lock", &path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(StoreError::io("open", &path, e)),
    }
}
