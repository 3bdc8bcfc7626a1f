//! Layers of pulls that did not come to their end, kept for the next pull.
//!
//! A layer's name in `layers/` says what lies below it, and its implied directories are settled against that. Before, an
//! unpacked and verified layer is known by its diffID alone. It carries `extracted.json` from then until it is settled:
//!
//! ```text
//! staging/<random>/<n>/{diff,extracted.json} ──pull given up, or its process killed──► kept/<diffID>/
//!        ▲                                                                                │
//!        └────────────────────────────── the next pull that wants it ─────────────────────┤
//!                                                        trash/ ◄── too old, or a reboot ─┘
//! ```
//!
//! Its files are not flushed, so after a reboot it counts for nothing. All moves are renames: of two pulls that want it one
//! gets it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::commit::Staging;
use super::{Inner, Store, StoreError};
use crate::image::digest::Digest;
use crate::image::extract::Extracted;
use crate::record::{self, Durability};
use crate::sys;
use crate::sys::process::BootId;

/// The directory of layers without an image.
pub(super) const KEPT: &str = "kept";

/// The record beside the files of a layer that is unpacked and not settled.
pub(super) const EXTRACTED: &str = "extracted.json";

#[derive(Serialize, Deserialize)]
struct Finished {
    diff_id: Digest,
    boot_id: BootId,
    extracted: Extracted,
}

impl Staging {
    /// Notes that the layer of that index is unpacked and verified, so that another pull can use it should this one fail.
    /// Where that cannot be written the layer is fetched again then. Blocks.
    pub fn finished(&self, index: usize, diff_id: &Digest, extracted: &Extracted) {
        let (diff_id, extracted) = (diff_id.clone(), extracted.clone());
        let finished = Finished { diff_id, boot_id: self.inner.boot_id.clone(), extracted };
        let path = self.layer(index).join(EXTRACTED);
        if let Err(error) = record::write(&path, &finished, Durability::Process) {
            tracing::debug!(%error, "layer is not kept should its pull fail");
        }
    }

    /// Makes a kept layer the one of that index; `None` when it is not there. Blocks.
    pub fn take_over(&self, diff_id: &Digest, index: usize) -> Option<Extracted> {
        let target = self.layer(index);
        match sys::fs::rename_new(&self.inner.root.join(KEPT).join(diff_id.hex()), &target) {
            Ok(()) => {}
            Err(Errno::NOENT) => return None,
            Err(error) => {
                tracing::warn!(%diff_id, %error, "kept layer cannot be used");
                return None;
            }
        }
        match self.inner.read_finished(&target) {
            Some(finished) if finished.diff_id == *diff_id => {
                tracing::debug!(%diff_id, "layer of an earlier pull is used");
                Some(finished.extracted)
            }
            _ => {
                // In the way of the layer that is fetched now.
                let _ = self.inner.discard(&target);
                None
            }
        }
    }
}

impl Store {
    /// Discards what aborted pulls have left, because the disk is full. Blocks.
    pub fn discard_unfinished(&self) {
        self.inner.expire_kept(Duration::ZERO);
    }
}

impl Inner {
    /// Moves the finished layers of a staging directory to where the next pull finds them.
    pub(super) fn keep_finished(&self, staging: &Path) {
        for name in sys::fs::names(staging).unwrap_or_default() {
            let layer = staging.join(name);
            let Some(finished) = self.read_finished(&layer) else { continue };
            let kept = self.root.join(KEPT).join(finished.diff_id.hex());
            match sys::fs::rename_new(&layer, &kept) {
                Ok(()) => tracing::debug!(diff_id = %finished.diff_id, "layer is kept for the next pull"),
                // As good as this one, which goes with its staging directory.
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(error) => tracing::warn!(path = %layer.display(), %error, "layer is not kept"),
            }
        }
    }

    /// Discards kept layers that are older than `age` or of an earlier boot; returns when to look again, if any is left.
    pub(super) fn expire_kept(&self, age: Duration) -> Option<Duration> {
        let directory = self.root.join(KEPT);
        let mut next = None;
        for name in sys::fs::names(&directory).unwrap_or_default() {
            let path = directory.join(name);
            let left = kept_for(&path).and_then(|kept| age.checked_sub(kept)).filter(|left| !left.is_zero());
            match left.filter(|_| self.read_finished(&path).is_some()) {
                Some(left) => next = Some(next.map_or(left, |next: Duration| next.min(left))),
                None => self.expire(&path),
            }
        }
        // Once, for all that end within the same second.
        next.map(|next| next + Duration::from_secs(1))
    }

    fn expire(&self, path: &Path) {
        if let Err(error) = self.trash.put(path) {
            tracing::warn!(%error, "kept layer stays until the next start");
        }
    }

    /// What is known of a finished layer; `None` where there is none whose files can be relied on.
    fn read_finished(&self, layer: &Path) -> Option<Finished> {
        let finished: Finished = record::read(&layer.join(EXTRACTED)).ok().flatten()?;
        (finished.boot_id == self.boot_id).then_some(finished)
    }
}

/// The layer takes the metadata of those below now, and is no longer good for every image that has it.
pub(super) fn not_to_be_kept(layer: &Path) -> Result<(), StoreError> {
    let path = layer.join(EXTRACTED);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", &path, e)),
        _ => Ok(()),
    }
}

/// How long ago it was renamed into place. A clock that was set back makes it new again.
fn kept_for(path: &Path) -> Option<Duration> {
    let data = fs::symlink_metadata(path).ok()?;
    let since = Duration::new(u64::try_from(data.ctime()).ok()?, u32::try_from(data.ctime_nsec()).ok()?);
    Some(SystemTime::now().duration_since(UNIX_EPOCH + since).unwrap_or_default())
}
