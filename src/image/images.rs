//! All images of the node: what the image service and the pods see of the store and of the registries.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::archive::preload::Preload;
use super::digest::Digest;
use super::error::ImageError;
use super::pinned::Pattern;
use super::pull::Puller;
use super::reference::Reference;
use super::registry::{ClientConfig, Credentials, RegistryClient};
use super::rootfs::RootFs;
use super::store::{Image, Lease, Places, Store, StoreError, Usage};
use crate::api::AuthConfig;
use crate::config::ImagesConfig;
use crate::id::ContainerId;
use crate::sys;

/// The images of the node; clones are handles of the same ones.
#[derive(Clone)]
pub struct Images {
    places: Places,
    pinned: Arc<[Pattern]>,
    store: Store,
    puller: Arc<Puller>,
}

impl Images {
    /// Opens the store below `root`, collects its garbage, and gets ready to pull. Blocks.
    pub fn open(config: &ImagesConfig, root: &Path) -> Result<Self, ImageError> {
        let keep = Duration::from_secs(config.keep_unfinished_seconds);
        Self::with_store(Store::open(places(config, root), keep)?, config, root)
    }

    /// The same images for a tool, whether or not a daemon has them open: [`Store::join`]. Blocks.
    pub fn join(config: &ImagesConfig, root: &Path) -> Result<Self, ImageError> {
        Self::with_store(Store::join(places(config, root))?, config, root)
    }

    fn with_store(store: Store, config: &ImagesConfig, root: &Path) -> Result<Self, ImageError> {
        let auth_file = (!config.auth_file.as_os_str().is_empty()).then(|| config.auth_file.clone());
        let insecure_registries = config.insecure_registries.clone();
        let client =
            RegistryClient::new(ClientConfig { insecure_registries, auth_file, ..Default::default() })?;
        let puller = Arc::new(Puller::new(store.clone(), client, config.max_parallel_layers));
        let pinned = config.pinned.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect();
        Ok(Self { places: places(config, root), pinned, store, puller })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn puller(&self) -> &Arc<Puller> {
        &self.puller
    }

    /// Where the images lie, and where the writable layers.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Whether the kubelet's garbage collection must leave that image. A removal that is asked for goes through.
    pub fn is_pinned(&self, image: &Image) -> bool {
        let mut names = image.tags.iter().chain(&image.repo_digests);
        image.pinned || names.any(|name| self.pinned.iter().any(|pattern| pattern.matches(name)))
    }

    /// All images.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.images()
    }

    /// The image that a name with tag or digest, an ID or a unique prefix of one stands for.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>, ImageError> {
        match Name::parse(name)? {
            Name::Reference(reference) => self.find_reference(&reference, name),
            Name::Id => Ok(self.store.find(name)?),
        }
    }

    /// Pulls what the reference names, and answers when it would survive a power cut.
    pub async fn pull(&self, name: &str, auth: Option<&AuthConfig>) -> Result<Arc<Image>, ImageError> {
        let reference: Reference = name.parse()?;
        let credentials = match auth {
            Some(auth) => Credentials::from_cri(auth, &reference)?,
            None => Credentials::Anonymous,
        };
        self.puller.pull(&reference, &credentials).await
    }

    /// Removes an image, or one tag of several. What is not there is a success (B19). Containers keep the layers that they
    /// stand on for as long as they exist.
    pub async fn remove(&self, name: &str) -> Result<(), ImageError> {
        let Some(image) = self.find(name)? else { return Ok(()) };
        let tag = match Name::parse(name)? {
            Name::Reference(reference) => reference.repo_tag().filter(|tag| image.tags.contains(tag)),
            Name::Id => None,
        };
        let store = self.store.clone();
        let removal = move || match tag {
            Some(tag) if image.tags.len() > 1 => store.untag(&tag),
            _ => store.remove(&image.id),
        };
        sys::blocking(removal).await.map(drop).map_err(ImageError::from)
    }

    /// Keeps an image's layers while a container is made from it; `None` when it has just been removed.
    pub fn lease(&self, id: &Digest) -> Option<Lease> {
        self.store.lease(id)
    }

    /// Makes a container's writable layer above an image, and keeps the image's layers as long as it is there.
    pub fn prepare_rootfs(&self, image: &Image, container: &ContainerId) -> Result<RootFs, StoreError> {
        self.store.prepare_rootfs(image, container)
    }

    /// What to mount for an image volume of a container whose root filesystem has been prepared: the lower directories of a
    /// read-only overlay, topmost first. The container keeps the image's layers for as long as it is there.
    pub fn mount_source(&self, image: &Image, container: &ContainerId) -> Result<Vec<PathBuf>, StoreError> {
        self.store.mount_source(image, container)
    }

    /// Discards a container's writable layer; one that is not there is a success.
    pub fn remove_rootfs(&self, container: &ContainerId) -> Result<(), StoreError> {
        self.store.remove_rootfs(container)
    }

    /// Removes the writable layers of containers that are no more, and answers what could not be removed.
    pub fn retain_rootfs(&self, living: &HashSet<ContainerId>) -> Vec<StoreError> {
        let dead = self.store.containers().into_iter().filter(|id| !living.contains(id));
        dead.filter_map(|id| self.store.remove_rootfs(&id).err()).collect()
    }

    /// Imports the archives that lie in `directory`, and those that come, for as long as the task lives.
    pub async fn preload(self, directory: PathBuf) {
        Preload::new(self.store, directory).run().await;
    }

    /// What the layers take of the disk.
    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    /// The content of a file of an image, or `None` where there is none.
    pub fn read_file(&self, image: &Image, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        self.store.read_file(image, path, max)
    }

    fn find_reference(&self, reference: &Reference, written: &str) -> Result<Option<Arc<Image>>, ImageError> {
        let name = match reference.digest() {
            Some(digest) => Some(reference.repo_digest(digest)),
            None => reference.repo_tag(),
        };
        if let Some(image) = name.map(|name| self.store.find(&name)).transpose()?.flatten() {
            return Ok(Some(image));
        }
        // `abc123` may be a short name or the beginning of an ID.
        if is_hex(written) { Ok(self.store.find(written)?) } else { Ok(None) }
    }
}

/// The places of the images and of the writable layers, below the daemon's `root` unless told otherwise.
pub fn places(config: &ImagesConfig, root: &Path) -> Places {
    let images = if config.root.as_os_str().is_empty() { root } else { &config.root };
    Places { images: images.to_owned(), containers: root.to_owned() }
}

/// What a client can mean by a name.
enum Name {
    Id,
    Reference(Reference),
}

impl Name {
    fn parse(name: &str) -> Result<Self, ImageError> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if is_hex(hex) && (hex.len() == 64 || hex.len() < name.len()) {
            return Ok(Self::Id);
        }
        Ok(Self::Reference(name.parse()?))
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
