//! Deleting without waiting: a rename into `trash/`, which a thread of its own empties.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::StoreError;
use crate::sys::fs;

/// The directory of what is being deleted, and the thread that does it; the thread ends with this value.
pub(super) struct Trash {
    directory: PathBuf,
    wake: SyncSender<()>,
}

impl Trash {
    /// Starts the thread; it begins with the first [`Trash::wake`].
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        // One slot: a wake that is not yet served stands for all that come after it.
        let (wake, woken) = sync_channel(1);
        let path = directory.to_owned();
        thread::Builder::new()
            .name("podd-trash".to_owned())
            .spawn(move || empty_when_woken(&path, &woken))
            .map_err(|e| StoreError::io("start a thread for", directory, e))?;
        Ok(Self { directory: directory.to_owned(), wake })
    }

    /// Has the directory emptied.
    pub(super) fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// Renames `path` into the trash; one that is not there is a success.
    pub(super) fn put(&self, path: &Path) -> Result<(), StoreError> {
        loop {
            match fs::rename_new(path, &self.directory.join(unique_name())) {
                Err(Errno::EXIST) => {}
                Ok(()) => break,
                Err(Errno::NOENT) => return Ok(()),
                Err(e) => return Err(StoreError::io("discard", path, e.into())),
            }
        }
        self.wake();
        Ok(())
    }
}

/// A name that no earlier run of the daemon used either.
pub(super) fn unique_name() -> String {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{now:x}-{}", SERIAL.fetch_add(1, Ordering::Relaxed))
}

fn empty_when_woken(directory: &Path, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let emptied = fs::open_directory(directory).and_then(|dir| fs::empty_directory(dir.as_fd()));
        if let Err(error) = emptied {
            tracing::warn!(path = %directory.display(), %error, "trash cannot be emptied");
        }
    }
}
