//! One store, several processes: how their changes are kept apart, and how each notices those of the others.
//!
//! The file `changes` is locked (flock) for each change of records, and while the owner decides that a layer is unused: a few
//! renames and small writes, never an extraction or a flush of the file system. It holds a counter, even while nothing
//! changes and odd during a change. A process that reads another value than it saw last, or an odd one, looks at `images/`
//! again: one pread where nothing has changed. A process that is killed in mid-change leaves the counter odd, so everyone
//! keeps looking until the next one that locks the file makes it even again.
//!
//! Looking needs no lock: records are replaced whole, a layer is there before a record names it, and only the owner, which
//! looks before it decides, takes layers away.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::StoreError;
use crate::sys::fs;

/// The file that orders the changes of all processes.
const CHANGES: &str = "changes";

/// The door to changes of the store.
pub(super) struct Shared {
    path: PathBuf,
    file: File,
    // One thread of this process at a time: a file lock belongs to the process's open file. Held over a commit's flushes,
    // so by blocking threads only; readers try it and go on with what is known.
    seen: Mutex<Seen>,
}

/// What this process has taken in.
#[derive(Default)]
pub(super) struct Seen {
    counter: Option<u64>,
    /// The image records, by file name, as they were when they were read.
    pub(super) records: HashMap<String, Stamp>,
}

/// Tells one version of a file from another: each is a file of its own, renamed into place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let data = std::fs::symlink_metadata(path)?;
        Ok(Self { inode: data.ino(), size: data.size(), changed: (data.ctime(), data.ctime_nsec()) })
    }
}

/// The right to change the store, which one thread of one process has at a time.
pub(super) struct Section<'a> {
    shared: &'a Shared,
    pub(super) seen: MutexGuard<'a, Seen>,
    counter: u64,
}

impl Shared {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.join(CHANGES);
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|e| StoreError::io("open", &path, e))?;
        Ok(Self { path, file, seen: Mutex::default() })
    }

    /// Waits for the right to change the store. Blocks; never taken twice by one thread.
    pub(super) fn section(&self) -> Result<Section<'_>, StoreError> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        fs::lock(&self.file).map_err(|e| StoreError::io("lock", &self.path, e))?;
        let counter = self.counter();
        Ok(Section { shared: self, seen, counter })
    }

    /// What to look at when something may have changed since this process looked; `None` when nothing has, or when another
    /// thread is just changing the store, and so has looked itself.
    pub(super) fn stale(&self) -> Option<Looking<'_>> {
        let seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let counter = self.counter();
        (seen.counter != Some(counter) || !is_even(counter)).then_some(Looking { seen, counter })
    }

    /// A file too short to hold a counter has never been changed.
    fn counter(&self) -> u64 {
        let mut bytes = [0; 8];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    fn set_counter(&self, counter: u64) -> Result<(), StoreError> {
        self.file.write_all_at(&counter.to_le_bytes(), 0).map_err(|e| StoreError::io("write", &self.path, e))
    }
}

/// A look at what others have changed.
pub(super) struct Looking<'a> {
    pub(super) seen: MutexGuard<'a, Seen>,
    counter: u64,
}

impl Looking<'_> {
    /// All has been taken in that was there when the look began.
    pub(super) fn done(mut self) {
        self.seen.counter = is_even(self.counter).then_some(self.counter);
    }
}

impl Section<'_> {
    /// Whether another process has changed something that this one has not taken in.
    pub(super) fn is_stale(&self) -> bool {
        self.seen.counter != Some(self.counter)
    }

    /// All that others have changed has been taken in; a change that its process did not live to end is at its end now.
    pub(super) fn looked(&mut self) -> Result<(), StoreError> {
        if !is_even(self.counter) {
            self.counter = self.counter.wrapping_add(1);
            self.shared.set_counter(self.counter)?;
        }
        self.seen.counter = Some(self.counter);
        Ok(())
    }

    /// To be called before the first change. It ends with the section.
    pub(super) fn begin(&mut self) -> Result<(), StoreError> {
        if is_even(self.counter) {
            self.counter = self.counter.wrapping_add(1);
            self.shared.set_counter(self.counter)?;
        }
        Ok(())
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        if !is_even(self.counter) {
            self.counter = self.counter.wrapping_add(1);
            match self.shared.set_counter(self.counter) {
                Ok(()) => self.seen.counter = Some(self.counter),
                // It stays odd, and everyone keeps looking.
                Err(error) => tracing::warn!(%error, "the end of a change cannot be told to other processes"),
            }
        }
        if let Err(error) = fs::unlock(&self.shared.file) {
            tracing::error!(path = %self.shared.path.display(), %error, "cannot unlock");
        }
    }
}

fn is_even(counter: u64) -> bool {
    counter.is_multiple_of(2)
}
