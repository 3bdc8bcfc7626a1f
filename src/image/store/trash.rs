//! Deleting without waiting: a rename into `trash/`, which a thread of its own empties.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::StoreError;
use crate::sys::fs;

/// The directories of what is being deleted, and the thread that does it; the thread ends with this value.
pub(super) struct Trash {
    /// Each takes what lies beside it; one for each file system.
    pub(super) directories: Vec<PathBuf>,
    /// What was put there and is not deleted yet.
    waiting: Arc<AtomicU64>,
    // Held to send a word or to end the thread.
    thread: Mutex<Option<(SyncSender<()>, JoinHandle<()>)>>,
}

impl Trash {
    /// A trash that is not emptied before [`Trash::start`].
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, waiting: Arc::default(), thread: Mutex::default() }
    }

    /// Starts a thread that does `work` once for each [`Trash::wake`], or once for several, and after the time that `work`
    /// returned, if any.
    pub(super) fn start(
        &self,
        work: impl Fn() -> Option<Duration> + Send + 'static,
    ) -> Result<(), StoreError> {
        // One slot: a wake that is not yet served stands for all that come after it.
        let (wake, woken): (_, Receiver<()>) = sync_channel(1);
        let waiting = Arc::clone(&self.waiting);
        let thread = thread::Builder::new()
            .name("podd-trash".to_owned())
            .spawn(move || {
                let mut next = None;
                while is_due(&woken, next) {
                    let seen = waiting.load(Ordering::Relaxed);
                    next = work();
                    waiting.fetch_sub(seen, Ordering::Relaxed);
                }
            })
            .map_err(|e| StoreError::io("start a thread for", self.beside(Path::new("/")), e))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some((wake, thread));
        Ok(())
    }

    /// How many things wait to be deleted.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Has the thread look at what there is to do.
    pub(super) fn wake(&self) {
        if let Some((wake, _)) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = wake.try_send(());
        }
    }

    /// Waits until the thread has done what it was woken for, and ends it.
    pub(super) fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((wake, thread)) = thread {
            drop(wake);
            let _ = thread.join();
        }
    }

    /// Renames `path` into the trash; one that is not there is a success.
    pub(super) fn put(&self, path: &Path) -> Result<(), StoreError> {
        let directory = self.beside(path);
        loop {
            match fs::rename_new(path, &directory.join(unique_name())) {
                Err(Errno::EXIST) => {}
                Ok(()) => break,
                Err(Errno::NOENT) => return Ok(()),
                Err(e) => return Err(StoreError::io("discard", path, e.into())),
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.wake();
        Ok(())
    }
}

impl Trash {
    /// The directory that is nearest to `path`, on whose file system it is.
    fn beside(&self, path: &Path) -> &Path {
        let near = |directory: &&PathBuf| {
            let parent = directory.parent().filter(|parent| path.starts_with(parent));
            parent.map_or(0, |parent| parent.as_os_str().len())
        };
        self.directories.iter().max_by_key(near).map_or(Path::new(""), PathBuf::as_path)
    }
}

/// Waits for a word or for the time to be over; `false` at the end.
fn is_due(woken: &Receiver<()>, next: Option<Duration>) -> bool {
    match next {
        None => woken.recv().is_ok(),
        Some(next) => !matches!(woken.recv_timeout(next), Err(RecvTimeoutError::Disconnected)),
    }
}

/// A name that no earlier run of the daemon used either.
pub(super) fn unique_name() -> String {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{now:x}-{}", SERIAL.fetch_add(1, Ordering::Relaxed))
}
