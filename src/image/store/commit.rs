//! From staged layers to an image, in the order that a crash at any point survives.
//!
//! 1. directories that layers imply take their metadata from the layers below, and `layer.json` is written beside each;
//! 2. one syncfs flushes all of it;
//! 3. each layer is renamed to its chain ID, and the directory `layers/` flushed;
//! 4. the image record is written and flushed, and the tag taken from the image that had it.
//!
//! Up to step 4 there is only garbage that [`super::Store::open`] collects; from then on the image is there, whole.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::image::Image;
use super::layer::{self, ChainId, LayerInfo};
use super::settle;
use super::shared::Section;
use super::trash::unique_name;
use super::{Inner, Lease, Role, Store, StoreError, unfinished};
use crate::image::extract::{Extracted, FILES};
use crate::image::policy::Signature;
use crate::record::{self, Durability};
use crate::sys::fs;

/// A directory for the layers of one pull; dropped without a commit, it is discarded, but for its finished layers.
pub struct Staging {
    pub(super) inner: Arc<Inner>,
    path: PathBuf,
    /// Open since before the first byte was written, so that no failure to write one goes unseen.
    disk: OwnedFd,
    /// Layers that the pull found here; they must not go away before it ends.
    leases: Mutex<Vec<Lease>>,
    /// Its layers are no good to another pull: an image has been made of them, or the disk is full.
    keep_nothing: AtomicBool,
}

impl Staging {
    /// Where the layer of that index, lowest first, is to be unpacked. The directory is made by the unpacking.
    pub fn layer(&self, index: usize) -> PathBuf {
        self.path.join(index.to_string())
    }

    /// Flushes what was unpacked up to now. Blocks.
    pub fn flush(&self) -> Result<(), StoreError> {
        fs::sync_file_system(self.disk.as_fd()).map_err(|e| StoreError::io("flush", &self.path, e))
    }

    /// Has all of it discarded at the end, also what another pull could use.
    pub fn keep_nothing(&self) {
        self.keep_nothing.store(true, Ordering::Relaxed);
    }

    /// Keeps a layer that is here already until this pull ends; `None` when it is not here. Blocks in a guest.
    pub fn reuse(&self, chain: &ChainId) -> Option<LayerInfo> {
        let lease = match self.inner.lease(std::slice::from_ref(chain)) {
            Ok(lease) => lease,
            Err(StoreError::NoLayer(_)) => return None,
            Err(error) => {
                tracing::warn!(layer = %chain, %error, "layer is fetched though it is here");
                return None;
            }
        };
        let info = self.inner.state().layer(chain)?;
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
        Some(info)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let discarded = match self.keep_nothing.load(Ordering::Relaxed) {
            true => self.inner.discard(&self.path),
            false => self.inner.discard_staging(&self.path),
        };
        if let Err(error) = discarded {
            tracing::warn!(%error, "staging directory stays until the next start");
        }
    }
}

/// What a pull has found out about an image.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// The configuration's bytes; their digest is the image's ID.
    pub config: Vec<u8>,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The compressed layers and the configuration, in bytes.
    pub size: u64,
    /// The normalized name with tag, if it was pulled by one.
    pub tag: Option<String>,
    /// The normalized name with digest.
    pub repo_digest: Option<String>,
    /// What is attached to the manifest, where it was asked for.
    pub signatures: Vec<Signature>,
    /// The type of artifact that it is; its files are then its one layer.
    pub artifact: Option<String>,
    /// Whether the kubelet's garbage collection must leave it.
    pub pinned: bool,
    /// The layers, lowest first: those unpacked in the staging directory, and `None` for those that were here.
    pub layers: Vec<Option<Extracted>>,
}

impl Store {
    /// A directory to unpack layers into.
    pub fn stage(&self) -> Result<Staging, StoreError> {
        let path = match &self.inner.role {
            Role::Owner(_) => self.inner.root.join("staging").join(unique_name()),
            Role::Guest(guest) => guest.directory.join(unique_name()),
        };
        std::fs::create_dir(&path).map_err(|e| StoreError::io("create", &path, e))?;
        let disk = fs::open_directory(&self.inner.root).map_err(|e| StoreError::io("open", &path, e))?;
        Ok(Staging {
            inner: Arc::clone(&self.inner),
            path,
            disk,
            leases: Mutex::default(),
            keep_nothing: AtomicBool::new(false),
        })
    }

    /// Makes an image of what was pulled; when it returns, the image survives a power cut. Blocks, and flushes.
    ///
    /// An image that is here already gains the names; the tag moves from the image that had it, which stays.
    pub fn commit_image(&self, staging: &Staging, mut new: NewImage) -> Result<Arc<Image>, StoreError> {
        let layers = std::mem::take(&mut new.layers);
        new.layers = vec![None; layers.len()];
        let image = Image::new(new, now())?;
        self.finish_layers(staging, &image.chain, &layers)?;
        let mut section = self.inner.section()?;
        section.begin()?;
        let kept = self.place_layers(staging, &image.chain, &layers, &section)?;
        let image = self.record_image(image, kept)?;
        staging.keep_nothing();
        Ok(image)
    }

    /// Steps 1 and 2.
    pub(super) fn finish_layers(
        &self,
        staging: &Staging,
        chain: &[ChainId],
        layers: &[Option<Extracted>],
    ) -> Result<(), StoreError> {
        let mut below: Vec<PathBuf> = Vec::with_capacity(chain.len());
        for (index, (id, extracted)) in chain.iter().zip(layers).enumerate() {
            let Some(extracted) = extracted else {
                below.insert(0, self.inner.files(id));
                continue;
            };
            let directory = staging.layer(index);
            let files = directory.join(FILES);
            let fail = |e| StoreError::io("settle", &files, e);
            unfinished::not_to_be_kept(&directory)?;
            settle::settle(&files, &extracted.implied_directories, &below).map_err(fail)?;
            let info = LayerInfo {
                bytes: extracted.bytes,
                inodes: extracted.inodes,
                hides_below: settle::hides_below(&files).map_err(fail)?,
            };
            // Flushed with all the rest.
            record::write(&directory.join(layer::RECORD), &info, Durability::Process)?;
            below.insert(0, files);
        }
        if layers.iter().any(Option::is_some) {
            staging.flush()?;
        }
        Ok(())
    }

    /// Step 3. The layers are kept by the leases that are returned.
    fn place_layers(
        &self,
        staging: &Staging,
        chain: &[ChainId],
        layers: &[Option<Extracted>],
        section: &Section<'_>,
    ) -> Result<Lease, StoreError> {
        let root = &self.inner.root;
        self.inner.announce(chain, section)?;
        for (index, (id, extracted)) in chain.iter().zip(layers).enumerate() {
            if extracted.is_none() {
                continue;
            }
            let staged = staging.layer(index);
            // Read again below: of two pulls the faster one's is as whole as ours.
            match fs::rename_new(&staged, &layer::directory(root, id)) {
                Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(e) => return Err(StoreError::io("commit", &staged, e.into())),
            }
            let info = layer::read(root, id)?.ok_or_else(|| StoreError::NoLayer(id.clone()))?;
            self.inner.state().add_layer(id, info);
        }
        let kept = self.inner.lease_within(chain, section)?;
        flush(&root.join("layers"))?;
        Ok(kept)
    }

    /// Step 4. The lease ends with the image's own hold on the layers in place.
    fn record_image(&self, mut image: Image, kept: Lease) -> Result<Arc<Image>, StoreError> {
        let tag = image.tags.first().cloned();
        let (before, owner) = {
            let state = self.inner.state();
            let owner = tag.as_deref().and_then(|tag| state.named(tag));
            (state.images.get(&image.id).cloned(), owner)
        };
        // The clock may have been set back, and the newer record must win.
        image.named_at = image.named_at.max(owner.map_or(0, |owner| owner.named_at + 1));
        if let Some(before) = &before {
            image.tags.extend(before.tags.iter().cloned());
            image.repo_digests.extend(before.repo_digests.iter().cloned());
            image.pinned |= before.pinned;
            image.keep_signatures(&before.signatures);
        }
        self.inner.write_image(&image)?;
        let image = Arc::new(image);
        let robbed = {
            let mut state = self.inner.state();
            state.put_image(Arc::clone(&image))?;
            tag.map(|tag| state.take_tag(&tag, &image.id)).unwrap_or_default()
        };
        drop(kept);
        for old in robbed {
            // The newer record wins if this one stays as it was.
            if let Err(error) = self.inner.write_image(&old) {
                tracing::warn!(image = %old.id, %error, "image record still claims a tag that moved");
            }
        }
        Ok(image)
    }
}

pub(super) fn flush(directory: &Path) -> Result<(), StoreError> {
    fs::sync_directory(directory).map_err(|e| StoreError::io("flush", directory, e))
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
