//! The preload directory: archives that an administrator puts there become images without anyone asking, for nodes that
//! have no registry.
//!
//! What is there when the daemon starts is imported in the background, and whatever is written or moved there later as
//! soon as that is complete (inotify: closed after writing, or moved in). The images are pinned, since such a node could
//! not pull them again. What was imported is remembered with its size and time in `preload.json` below the store's
//! root, after its images are safe; so a crash costs no more than looking at an archive again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::import::{ImportOptions, Imported, import};
use super::{ArchiveError, Progress, oci};
use crate::image::digest::Digest;
use crate::image::extract::Limits;
use crate::image::store::Store;
use crate::record::{self, Durability};
use crate::sys;

/// What is taken for an archive; anything else, hidden names too, may be there for reasons of its own.
const ENDINGS: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

/// Some hundred events of usual names.
const EVENTS: usize = 16 * 1024;

const RECORD: &str = "preload.json";

/// An archive that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    size: u64,
    modified_nanos: i128,
    images: Vec<Digest>,
}

/// What watches one directory.
pub(in crate::image) struct Preload {
    store: Store,
    directory: PathBuf,
    limits: Limits,
    done: BTreeMap<String, Done>,
    /// Told to stop when the task ends.
    progress: Arc<Progress>,
}

impl Drop for Preload {
    fn drop(&mut self) {
        self.progress.stop();
    }
}

impl Preload {
    pub(in crate::image) fn new(store: Store, directory: PathBuf, limits: Limits) -> Self {
        let record = store.inner().root.join(RECORD);
        let done = record::read(&record).unwrap_or_else(|error| {
            tracing::warn!(%error, "all archives of the preload directory are looked at again");
            None
        });
        Self { store, directory, limits, done: done.unwrap_or_default(), progress: Arc::default() }
    }

    /// Imports what is there and what comes, for ever; ends where there is no such directory.
    pub(in crate::image) async fn run(mut self) {
        let directory = self.directory.display().to_string();
        let watch = match check(&self.directory).and_then(|()| watch(&self.directory)) {
            Ok(watch) => watch,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(directory, "there is no preload directory");
                return;
            }
            Err(error) => {
                tracing::error!(directory, %error, "the preload directory is not used");
                return;
            }
        };
        // All names, as after an overflow.
        let mut names = None;
        loop {
            for name in names.unwrap_or_else(|| self.all()) {
                self.look_at(&name).await;
            }
            names = match changed(&watch).await {
                Ok(names) => names,
                Err(error) => {
                    tracing::error!(directory, %error, "the preload directory is no longer watched");
                    return;
                }
            };
        }
    }

    fn all(&self) -> BTreeSet<String> {
        let names = sys::fs::names(&self.directory);
        let names = names.inspect_err(|error| tracing::error!(%error, "listing the preload directory"));
        names.unwrap_or_default().into_iter().collect()
    }

    /// Imports an archive that was not imported as it is.
    async fn look_at(&mut self, name: &str) {
        let path = self.directory.join(name);
        let Some((size, modified_nanos)) = state(&path) else { return };
        let is_done = |done: &Done| done.size == size && done.modified_nanos == modified_nanos;
        if self.done.get(name).is_some_and(is_done) {
            return;
        }
        let (store, progress, archive) = (self.store.clone(), Arc::clone(&self.progress), path.clone());
        let options = ImportOptions { pinned: true, limits: self.limits.clone(), ..ImportOptions::default() };
        let imported = sys::blocking(move || import(&store, &archive, &options, &progress)).await;
        match imported {
            Ok(imported) => self.remember(name, size, modified_nanos, &imported),
            Err(error) => {
                let reason = reasons(&error);
                tracing::error!(archive = %path.display(), reason, "archive of the preload directory is not imported");
            }
        }
    }

    fn remember(&mut self, name: &str, size: u64, modified_nanos: i128, imported: &[Imported]) {
        for Imported { image, names, unpacked } in imported {
            tracing::info!(archive = name, image = %image.id, names = names.join(" "), unpacked, "preloaded");
        }
        let images = imported.iter().map(|imported| imported.image.id.clone()).collect();
        self.done.insert(name.to_owned(), Done { size, modified_nanos, images });
        self.done.retain(|name, _| self.directory.join(name).exists());
        let record = self.store.inner().root.join(RECORD);
        if let Err(error) = record::write(&record, &self.done, Durability::Power) {
            tracing::warn!(%error, "archive will be looked at again at the next start");
        }
    }
}

/// Size and time of an archive; `None` for what is none. A layout changes as its index does.
fn state(path: &Path) -> Option<(u64, i128)> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with('.') {
        return None;
    }
    let stat = std::fs::metadata(path).ok()?;
    let stat = match stat.is_dir() {
        true => std::fs::metadata(path.join(oci::INDEX)).ok()?,
        false if ENDINGS.iter().any(|ending| name.ends_with(ending)) => stat,
        false => return None,
    };
    Some((stat.len(), i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec())))
}

/// What lies there becomes an image by any name, so nobody but root may put it there.
fn check(directory: &Path) -> io::Result<()> {
    let stat = std::fs::metadata(directory)?;
    match stat.uid() == 0 && stat.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "others than root may write to it")),
    }
}

fn watch(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let wanted = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    inotify::add_watch(&queue, directory, wanted)?;
    sys::process::readable(queue)
}

/// The names that were completed since the last look; `None` where the kernel has lost count.
async fn changed(watch: &AsyncFd<OwnedFd>) -> io::Result<Option<BTreeSet<String>>> {
    loop {
        let mut ready = watch.readable().await?;
        let mut names = BTreeSet::new();
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut events = inotify::Reader::new(watch.get_ref(), &mut buffer);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => return Ok(None),
                Ok(event) if event.events().contains(ReadFlags::IGNORED) => {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the directory was removed"));
                }
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    names.extend(name.and_then(OsStr::to_str).map(str::to_owned));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        ready.clear_ready();
        if !names.is_empty() {
            return Ok(Some(names));
        }
    }
}

fn reasons(error: &ArchiveError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
