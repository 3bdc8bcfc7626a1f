//! Images on disk, in a form that survives kill -9, power cuts and full disks.
//!
//! ```text
//! <root>/lock                       flock: one daemon per store
//! <root>/layers/<chain>/diff/       a layer's files, in the form that overlayfs takes as lower directory
//! <root>/layers/<chain>/layer.json  its size, and whether it hides all layers below
//! <root>/images/<config>.json       an image: names, chain, raw manifest and configuration
//! <root>/staging/<random>/<n>/      the layers of a pull under way
//! <root>/containers/<id>/           upper, work, and which layers the container stands on (`holds.json`)
//! <root>/empty/                     the lower directory of an image without layers
//! <root>/trash/                     what is being deleted
//! ```
//!
//! Invariants, true at every instant and so after every crash:
//!
//! - What is in `layers/` is whole and on disk: all of a pull is flushed by one syncfs before the first rename.
//! - An image record is written, durably, only after the directory of its layers was flushed; it is removed, durably,
//!   before the first of them goes.
//! - A tag belongs to one image. Of two records that claim it, the one that was written last has it.
//! - What no image record and no `holds.json` names is garbage, as is all of `staging/` and `trash/`. [`Store::open`]
//!   renames it into `trash/`, which a thread of its own empties.
//!
//! In memory, layers are counted by their users: images, leases, containers and pulls. Whoever takes the last one away
//! renames the layer into `trash/`, under the same lock under which a pull would find or add it.

mod commit;
mod image;
mod layer;
mod load;
mod settle;
mod stack;
mod state;
mod trash;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::commit::{NewImage, Staging};
pub use self::image::Image;
pub use self::layer::{ChainId, LayerInfo, Usage, chain_ids};
pub(super) use self::stack::Stack;
use self::state::State;
use self::trash::Trash;
use crate::id::ContainerId;
use crate::image::digest::Digest;
use crate::image::extract::FILES;
use crate::record::{self, Durability, RecordError};
use crate::sys::fs;

/// The file by which a second daemon is kept out.
const LOCK: &str = "lock";

/// An operation of the store that failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("the image store {} is in use by another podd: give each its own root", .0.display())]
    InUse(PathBuf),
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no space is left on the file system of {}: free some, or give the image store more", .0.display())]
    NoSpace(PathBuf),
    #[error("cannot keep a record of the image store")]
    Record(#[source] RecordError),
    #[error("the image's configuration is not valid")]
    Config(#[source] serde_json::Error),
    #[error("the image's configuration lists {listed} layers where {given} were unpacked")]
    LayerCount { listed: usize, given: usize },
    #[error("the image's configuration names a layer by something that is not a digest")]
    DiffId(#[from] crate::image::digest::InvalidDigest),
    #[error("the layer {0} is not in the image store")]
    NoLayer(ChainId),
    #[error("the ID prefix {prefix:?} is ambiguous: {count} images have it")]
    Ambiguous { prefix: String, count: usize },
}

impl StoreError {
    /// A full disk is told apart, whatever was being done.
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path.to_owned()),
            _ => Self::Io { operation, path: path.to_owned(), source },
        }
    }
}

impl From<RecordError> for StoreError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Io { operation, path, source } => Self::io(operation, &path, source),
            damaged @ RecordError::Damaged { .. } => Self::Record(damaged),
        }
    }
}

/// The image store; clones are handles of one store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) root: PathBuf,
    /// Held for the life of the store.
    _lock: File,
    trash: Trash,
    /// Orders changes of image records, which flush; taken before `state`.
    records: Mutex<()>,
    /// Held for a few instructions, or the rename that belongs to them.
    state: Mutex<State>,
}

impl Store {
    /// Opens the store in `root`, which is made if need be, and collects what a crash left behind.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let lock = load::prepare(root)?;
        let trash = Trash::open(&root.join("trash"))?;
        let state = load::load(root, &trash)?;
        trash.wake();
        let inner = Inner {
            root: root.to_owned(),
            _lock: lock,
            trash,
            records: Mutex::new(()),
            state: Mutex::new(state),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// All images, by ID.
    pub fn images(&self) -> Vec<Arc<Image>> {
        self.inner.state().images.values().cloned().collect()
    }

    /// The image of that tag, repository digest, ID, or unique prefix of an ID. Names have to be in normal form.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>, StoreError> {
        self.inner.state().find(name)
    }

    /// What is known of a layer, if it is here.
    pub fn layer(&self, chain: &ChainId) -> Option<LayerInfo> {
        self.inner.state().layer(chain)
    }

    /// What all layers take; each is counted once.
    pub fn usage(&self) -> Usage {
        self.inner.state().usage()
    }

    /// Keeps an image's layers, even if the image is removed meanwhile; `None` when there is no such image.
    pub fn lease(&self, id: &Digest) -> Option<Lease> {
        let mut state = self.inner.state();
        let image = state.images.get(id)?.clone();
        state.retain(&image.chain).ok()?;
        Some(Lease { inner: Arc::clone(&self.inner), chain: image.chain.clone() })
    }

    /// Keeps layers for as long as the container has a directory here, across restarts; [`Store::remove_rootfs`] releases.
    pub fn hold(&self, container: &ContainerId, chain: &[ChainId]) -> Result<(), StoreError> {
        let directory = self.inner.container(container);
        std::fs::create_dir_all(&directory).map_err(|e| StoreError::io("create", &directory, e))?;
        let held = {
            let mut state = self.inner.state();
            state.retain(chain)?;
            let held = state.holds.entry(container.clone()).or_default();
            held.extend_from_slice(chain);
            held.clone()
        };
        // No flush: a reboot ends the container that holds.
        Ok(record::write(&directory.join(state::HOLDS), &held, Durability::Process)?)
    }

    /// The containers that stand on layers of this image.
    pub fn users(&self, image: &Image) -> Vec<ContainerId> {
        self.inner.state().users(image)
    }

    /// The containers that have a directory here, whether or not anyone else knows them.
    pub fn containers(&self) -> Vec<ContainerId> {
        let names = fs::names(&self.inner.root.join("containers")).unwrap_or_default();
        names.into_iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Takes a tag or repository digest from its image; one without any name left is removed. Returns whether there was one.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let _records = self.inner.records();
        let Some(image) = self.inner.state().named(name) else { return Ok(false) };
        let image = image.without_name(name);
        if image.tags.is_empty() && image.repo_digests.is_empty() {
            return self.inner.remove(&image.id);
        }
        self.inner.write_image(&image)?;
        self.inner.state().images.insert(image.id.clone(), Arc::new(image));
        Ok(true)
    }

    /// Removes an image with all its names. Layers that something else uses stay. Returns whether there was one.
    pub fn remove(&self, id: &Digest) -> Result<bool, StoreError> {
        let _records = self.inner.records();
        self.inner.remove(id)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> MutexGuard<'_, ()> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn container(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    /// The files of a layer.
    pub(super) fn files(&self, chain: &ChainId) -> PathBuf {
        layer::directory(&self.root, chain).join(FILES)
    }

    /// The lower directories of a chain, topmost first, down to the first that hides the rest.
    pub(super) fn lower(&self, chain: &[ChainId]) -> Result<Vec<PathBuf>, StoreError> {
        let state = self.state();
        let mut lower = Vec::with_capacity(chain.len());
        for id in chain.iter().rev() {
            let info = state.layer(id).ok_or_else(|| StoreError::NoLayer(id.clone()))?;
            lower.push(self.files(id));
            if info.hides_below {
                break;
            }
        }
        if lower.is_empty() {
            lower.push(self.root.join("empty"));
        }
        Ok(lower)
    }

    /// Renames a path into the trash; one that is not there is a success.
    pub(super) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        self.trash.put(path)
    }

    /// Ends a container's hold on its layers.
    pub(super) fn release_container(&self, id: &ContainerId) {
        let held = self.state().holds.remove(id);
        self.release(&held.unwrap_or_default());
    }

    /// Takes a user from each layer; those without any go into the trash.
    fn release(&self, chain: &[ChainId]) {
        let mut state = self.state();
        for unused in state.release(chain) {
            if let Err(error) = self.trash.put(&layer::directory(&self.root, &unused)) {
                tracing::warn!(layer = %unused, %error, "unused layer stays until the next start");
            }
        }
    }

    fn write_image(&self, image: &Image) -> Result<(), StoreError> {
        Ok(record::write(&image::path(&self.root, &image.id), &image.to_record(), Durability::Power)?)
    }

    fn remove(&self, id: &Digest) -> Result<bool, StoreError> {
        if !self.state().images.contains_key(id) {
            return Ok(false);
        }
        record::remove(&image::path(&self.root, id))?;
        let directory = self.root.join("images");
        fs::sync_directory(&directory).map_err(|e| StoreError::io("flush", &directory, e))?;
        let removed = self.state().images.remove(id);
        if let Some(image) = removed {
            self.release(&image.chain);
        }
        Ok(true)
    }
}

/// Keeps layers from being deleted, until it is dropped.
pub struct Lease {
    inner: Arc<Inner>,
    chain: Vec<ChainId>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.release(&self.chain);
    }
}

impl Store {
    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }
}

#[cfg(test)]
mod tests;
