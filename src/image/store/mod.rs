//! Images on disk, in a form that survives kill -9, power cuts and full disks, and that several processes may share.
//!
//! ```text
//! <root>/lock                       flock: one daemon per store, its owner
//! <root>/changes                    flock: one change at a time, of all processes; a counter of changes
//! <root>/layers/<chain>/diff/       a layer's files, in the form that overlayfs takes as lower directory
//! <root>/layers/<chain>/layer.json  its size, and whether it hides all layers below
//! <root>/layers/<chain>/files       what its files were when they were unpacked
//! <root>/images/<config>.json       an image: names, chain, raw manifest and configuration
//! <root>/staging/<random>/<n>/      the layers of a pull under way
//! <root>/kept/<diffID>/              unpacked layers of pulls that failed, for the next pull
//! <root>/guests/<random>/           what another process of podd is at: its lock, leases, staging, trash
//! <root>/containers/<id>/           upper, work, and which layers the container stands on (`holds.json`)
//! <root>/retired/<boot>_<chain>_*/  broken layers that were replaced under running containers
//! <root>/empty/                     the lower directory of an image without layers
//! <root>/trash/                     what is being deleted
//! ```
//!
//! Invariants, true at every instant and so after every crash (`docs/store.md` tells which test proves each):
//!
//! - What is in `layers/` is whole and on disk: all of a pull is flushed by one syncfs before the first rename.
//! - An image record is written, durably, only after the directory of its layers was flushed; it is removed, durably,
//!   before the first of them goes.
//! - A tag belongs to one image. Of two records that claim it, the one that was written last has it.
//! - Records change, and layers come and go, only under the lock of `changes`.
//! - Only the owner takes layers away, and none that an image record, a `holds.json`, a lease of its own or the list of a
//!   living guest names.
//! - What none of them names is garbage, as is all of `staging/` and `trash/`. [`Store::open`] renames it into `trash/`, which
//!   a thread of its own empties.
//!
//! In memory, layers are counted by their users: images, leases, containers and pulls. One without any stays until the
//! thread that collects finds it still unused.

mod check;
mod collect;
mod commit;
#[cfg(podd_fuzzing)]
pub mod fuzzing;
mod guest;
mod image;
mod layer;
mod lease;
mod load;
mod repair;
mod settle;
mod shared;
mod stack;
mod state;
mod trash;
mod unfinished;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::check::{Finding, Problem};
pub use self::commit::{NewImage, Staging};
use self::guest::Guest;
pub use self::image::Image;
pub use self::layer::{ChainId, LayerInfo, StoreCounts, Usage, chain_ids};
pub use self::lease::Lease;
pub use self::repair::{DamagedRecord, OldLayer};
use self::shared::{Section, Shared};
pub(super) use self::stack::{Node, Stack};
use self::state::State;
use self::trash::Trash;
use crate::id::ContainerId;
use crate::image::digest::Digest;
use crate::image::extract::FILES;
use crate::record::{self, Durability, RecordError};
use crate::sys::fs;
use crate::sys::process::BootId;

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

/// Where a store is. Images and writable layers may be on file systems of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Images, layers, and what is on its way there.
    pub images: PathBuf,
    /// The containers' writable layers.
    pub containers: PathBuf,
}

impl From<&Path> for Places {
    fn from(root: &Path) -> Self {
        Self { images: root.to_owned(), containers: root.to_owned() }
    }
}

/// The image store; clones are handles of one store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// Where images and layers lie.
    pub(super) root: PathBuf,
    /// Where the writable layers lie.
    home: PathBuf,
    role: Role,
    boot_id: BootId,
    trash: Trash,
    /// Orders changes of image records, which flush; taken before `state`.
    shared: Shared,
    /// Held for a few instructions, or the rename that belongs to them.
    state: Mutex<State>,
}

/// What this process is to the store.
enum Role {
    /// The daemon, of which there is one; its locks are held for the life of the store. It alone takes layers away.
    Owner(#[allow(dead_code)] Vec<File>),
    /// A tool, beside the daemon or without one.
    Guest(Guest),
}

impl Store {
    /// Opens the store as its owner; makes it if need be, and collects what a crash left behind. Layers of pulls
    /// that fail are of use to the next one for `keep_unfinished`.
    pub fn open(places: impl Into<Places>, keep_unfinished: Duration) -> Result<Self, StoreError> {
        let places = places.into();
        load::prepare(&places)?;
        let role = Role::Owner(load::lock(&places)?);
        let shared = Shared::open(&places.images)?;
        let mut trash = vec![places.images.join("trash"), places.containers.join("trash")];
        trash.dedup();
        let inner = Arc::new(Inner::new(places, role, shared, trash.clone())?);
        inner.take_over()?;
        let owner = Arc::downgrade(&inner);
        inner.trash.start(move || {
            let inner = owner.upgrade();
            if let Some(Err(error)) = inner.as_ref().map(|inner| inner.collect()) {
                tracing::warn!(%error, "unused layers stay for now");
            }
            let next = inner.and_then(|inner| inner.expire_kept(keep_unfinished));
            trash.iter().for_each(|trash| Inner::empty_trash(trash));
            next
        })?;
        inner.trash.wake();
        Ok(Self { inner })
    }

    /// Joins the store for the life of a tool, whether or not a daemon has it open; makes it if need be. Layers that nothing
    /// uses any more are left to the daemon.
    pub fn join(places: impl Into<Places>) -> Result<Self, StoreError> {
        let places = places.into();
        load::prepare(&places)?;
        let shared = Shared::open(&places.images)?;
        let guest = Guest::enter(&places.images, &shared.section()?)?;
        let trash = guest.directory.join("trash");
        std::fs::create_dir(&trash).map_err(|e| StoreError::io("create", &trash, e))?;
        let inner = Arc::new(Inner::new(places, Role::Guest(guest), shared, vec![trash.clone()])?);
        inner.trash.start(move || {
            Inner::empty_trash(&trash);
            None
        })?;
        drop(inner.section()?);
        Ok(Self { inner })
    }

    /// All images, by ID.
    pub fn images(&self) -> Vec<Arc<Image>> {
        self.inner.look();
        self.inner.state().images.values().cloned().collect()
    }

    /// The image of that tag, repository digest, ID, or unique prefix of an ID. Names have to be in normal form.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>, StoreError> {
        self.inner.look();
        self.inner.state().find(name)
    }

    /// What is known of a layer, if it is here.
    pub fn layer(&self, chain: &ChainId) -> Option<LayerInfo> {
        self.inner.state().layer(chain)
    }

    /// What is counted of the store without looking at the disk: images, layers' bytes, and what waits to be deleted.
    pub fn counts(&self) -> StoreCounts {
        let state = self.inner.state();
        let (images, usage) = (state.images.len(), state.usage());
        drop(state);
        StoreCounts { images, usage, trash: self.inner.trash.waiting() }
    }

    /// What all layers take; each is counted once.
    pub fn usage(&self) -> Usage {
        self.inner.look();
        self.inner.state().usage()
    }

    /// Keeps an image's layers, even if the image is removed meanwhile; `None` when there is no such image. Blocks in a guest.
    pub fn lease(&self, id: &Digest) -> Option<Lease> {
        let image = self.inner.state().images.get(id)?.clone();
        self.inner.lease(&image.chain).ok()
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

    /// The containers that have a directory here, whether or not anyone else knows them.
    pub fn containers(&self) -> Vec<ContainerId> {
        let names = fs::names(&self.inner.home.join("containers")).unwrap_or_default();
        names.into_iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Takes a tag or repository digest from its image; one without any name left is removed. Returns whether there was one.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let mut section = self.inner.section()?;
        let Some(image) = self.inner.state().named(name) else { return Ok(false) };
        let image = image.without_name(name);
        if image.tags.is_empty() && image.repo_digests.is_empty() {
            return self.inner.remove(&image.id, &mut section);
        }
        section.begin()?;
        self.inner.write_image(&image)?;
        self.inner.state().put_image(Arc::new(image))?;
        Ok(true)
    }

    /// Removes an image with all its names. Layers that something else uses stay. Returns whether there was one.
    pub fn remove(&self, id: &Digest) -> Result<bool, StoreError> {
        self.inner.remove(id, &mut self.inner.section()?)
    }
}

impl Inner {
    fn new(places: Places, role: Role, shared: Shared, trash: Vec<PathBuf>) -> Result<Self, StoreError> {
        let Places { images: root, containers: home } = places;
        let boot_id = BootId::current().map_err(|e| StoreError::io("read the boot ID for", &root, e))?;
        let trash = Trash::new(trash);
        Ok(Self { root, home, role, boot_id, trash, shared, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to change the store, and knows then what others have changed. Blocks.
    fn section(&self) -> Result<Section<'_>, StoreError> {
        let mut section = self.shared.section()?;
        if section.is_stale() {
            self.take_in(&mut section.seen.records)?;
        }
        section.looked()?;
        Ok(section)
    }

    /// Notices what other processes have changed, for those who only read. A pread where nothing has.
    fn look(&self) {
        let Some(mut looking) = self.shared.stale() else { return };
        match self.take_in(&mut looking.seen.records) {
            Ok(()) => looking.done(),
            Err(error) => tracing::warn!(%error, "changes of another process are not seen yet"),
        }
        // Layers may be free now.
        if matches!(self.role, Role::Owner(_)) {
            self.trash.wake();
        }
    }

    pub(super) fn container(&self, id: &ContainerId) -> PathBuf {
        self.home.join("containers").join(id.as_str())
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
        if let Some(held) = held {
            self.release(&held);
            // A retired layer may be free now, too.
            self.trash.wake();
        }
    }

    fn write_image(&self, image: &Image) -> Result<(), StoreError> {
        Ok(record::write(&image::path(&self.root, &image.id), &image.to_record(), Durability::Power)?)
    }

    fn remove(&self, id: &Digest, section: &mut Section<'_>) -> Result<bool, StoreError> {
        if !self.state().images.contains_key(id) {
            return Ok(false);
        }
        section.begin()?;
        record::remove(&image::path(&self.root, id))?;
        let directory = self.root.join("images");
        fs::sync_directory(&directory).map_err(|e| StoreError::io("flush", &directory, e))?;
        self.state().remove_image(id);
        if let Err(error) = self.collect_within(section) {
            tracing::warn!(image = %id, %error, "layers of a removed image stay for now");
        }
        Ok(true)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            tracing::warn!(%error, "what this process had in the image store is left to the daemon");
        }
    }
}

impl Store {
    /// Renames a path of the store into the trash; one that is not there is a success.
    pub(super) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        self.inner.discard(path)
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }
}

#[cfg(test)]
mod tests;
