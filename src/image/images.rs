//! All images of the node: what the image service and the pods see of the store and of the registries.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::archive::preload::Preload;
use super::digest::Digest;
use super::error::{ImageError, ImageErrorKind};
use super::extract::Limits;
use super::pinned::Pins;
use super::policy::Policies;
use super::pull::{PullStatus, PullTotals, Puller};
use super::reference::Reference;
use super::registries::{Paths, Registries};
use super::registry::{AuthFile, ClientConfig, Credentials, PullAuth, RegistryClient, Timeouts};
use super::rootfs::RootFs;
use super::store::{Image, Lease, Places, Store, StoreCounts, StoreError, Usage};
use crate::api::AuthConfig;
use crate::config::{ImagesConfig, Inflate};
use crate::id::ContainerId;
use crate::sys;
use crate::telemetry::{Leak, metrics};

/// The images of the node; clones are handles of the same ones.
#[derive(Clone)]
pub struct Images {
    places: Places,
    pins: Pins,
    store: Store,
    limits: Limits,
    puller: Arc<Puller>,
    pub(super) registries: Arc<Registries>,
    pub(super) policies: Arc<Policies>,
    namespaced_auth_dir: Option<PathBuf>,
}

/// Who asks for an image, besides its name.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// The credentials of the request.
    pub auth: Option<AuthConfig>,
    /// The Kubernetes namespace of the pod that it is for; empty where it is for none.
    pub namespace: String,
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
        match config.inflate {
            Inflate::ZlibRs => {}
            Inflate::Isal => sys::isal::load().map_err(ImageError::Inflate)?,
        }
        let registries = Arc::new(Registries::open(Paths {
            registries_conf: config.registries_conf.clone(),
            certs_dir: config.certs_dir.clone(),
            hosts_dir: config.hosts_dir.clone(),
        })?);
        let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let stall = Duration::from_secs(config.stall_timeout_seconds);
        let client = RegistryClient::new(ClientConfig {
            insecure_registries: config.insecure_registries.clone(),
            auth_file: given(&config.auth_file),
            registries: Arc::clone(&registries),
            timeouts: Timeouts { stall, ..Timeouts::default() },
            ..ClientConfig::default()
        })?;
        let limits = limits(config);
        let puller = Arc::new(Puller::new(store.clone(), client, config.max_parallel_layers, limits.clone()));
        let policies = Arc::new(Policies::new(config));
        policies.announce();
        let namespaced_auth_dir = given(&config.namespaced_auth_dir);
        let (places, pins) = (places(config, root), Pins::new(&config.pinned));
        Ok(Self { places, pins, store, limits, puller, registries, policies, namespaced_auth_dir })
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
        self.pins.keep(image)
    }

    /// All images.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.images()
    }

    /// The image that a name with tag or digest, an ID or a unique prefix of one stands for. A short name is looked for
    /// under every name that a pull of it would try.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>, ImageError> {
        Ok(self.find_named(name)?.map(|(image, _)| image))
    }

    /// Pulls what the name stands for, if the policy of the namespace or else the node's accepts it, and answers when it would survive a power cut.
    pub async fn pull(&self, name: &str, request: PullRequest) -> Result<Arc<Image>, ImageError> {
        let pulled = self.pull_one_of(name, request).await;
        pulled.inspect_err(|error| metrics().pull_failed(error.kind().as_str()))
    }

    async fn pull_one_of(&self, name: &str, request: PullRequest) -> Result<Arc<Image>, ImageError> {
        let (candidates, namespaced) = self.prepare(name, &request.namespace).await?;
        let mut failures = Vec::new();
        for candidate in &candidates {
            let given = match &request.auth {
                Some(auth) if is_meant(candidate, &candidates, auth) => {
                    Credentials::from_cri(auth, candidate)?
                }
                Some(_) | None => Credentials::Anonymous,
            };
            let auth = PullAuth::new(given, namespaced.clone());
            match self.pull_candidate(candidate, &auth, &request.namespace).await {
                Err(e) if candidates.len() > 1 && is_about_candidate(&e) => {
                    tracing::debug!(name, %candidate, "{e}");
                    failures.push(e);
                }
                ended => return ended,
            }
        }
        Err(ImageError::NoCandidate { name: name.to_owned(), failures })
    }

    async fn pull_candidate(
        &self,
        reference: &Reference,
        auth: &PullAuth,
        namespace: &str,
    ) -> Result<Arc<Image>, ImageError> {
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let (policy, keep_signatures) = self.admit(reference, namespace).await?;
        self.puller.pull(reference, auth, &policy, keep_signatures).await
    }

    /// What the name may stand for, and the auth file that was left for this pull.
    async fn prepare(
        &self,
        name: &str,
        namespace: &str,
    ) -> Result<(Vec<Reference>, Option<Arc<AuthFile>>), ImageError> {
        let plain: Reference = name.parse()?;
        let registries = Arc::clone(&self.registries);
        let snapshot = sys::blocking(move || registries.refreshed()).await;
        let candidates = snapshot.conf().candidates(name)?;
        if candidates.len() > 1 && snapshot.conf().refuses_ambiguity() {
            return Err(ImageError::AmbiguousName { name: name.to_owned(), candidates });
        }
        let Some(directory) = self.namespaced_auth_dir.clone() else { return Ok((candidates, None)) };
        let namespace = namespace.to_owned();
        let taken = sys::blocking(move || AuthFile::take(&directory, &namespace, &plain)).await?;
        Ok((candidates, taken))
    }

    /// Removes an image, or one tag of several. What is not there is a success (B19). Containers keep the layers that they
    /// stand on for as long as they exist.
    pub async fn remove(&self, name: &str) -> Result<(), ImageError> {
        let Some((image, tag)) = self.find_named(name)? else { return Ok(()) };
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

    /// Discards a container's writable layer; one that is not there is a success.
    pub fn remove_rootfs(&self, container: &ContainerId) -> Result<(), StoreError> {
        self.store.remove_rootfs(container)
    }

    /// Removes the writable layers of containers that are no more, and answers what could not be removed.
    pub fn retain_rootfs(&self, living: &HashSet<ContainerId>) -> Vec<StoreError> {
        let dead = self.store.containers().into_iter().filter(|id| !living.contains(id));
        let removed = dead.map(|id| {
            metrics().leak_found(Leak::WritableLayer);
            self.store.remove_rootfs(&id).inspect(|()| metrics().leak_repaired(Leak::WritableLayer))
        });
        removed.filter_map(Result::err).collect()
    }

    /// The pulls under way, oldest first.
    pub fn pulls(&self) -> Vec<PullStatus> {
        self.puller.progress.status()
    }

    /// What all pulls since the start of the daemon come to.
    pub fn pull_totals(&self) -> PullTotals {
        self.puller.progress.totals()
    }

    /// Imports the archives that lie in `directory`, and those that come, for as long as the task lives.
    pub async fn preload(self, directory: PathBuf) {
        Preload::new(self.store, directory, self.limits).run().await;
    }

    /// What the store holds, as far as this process knows: no look at the disk.
    pub fn counts(&self) -> StoreCounts {
        self.store.counts()
    }

    /// What the layers take of the disk.
    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    /// The content of a file of an image, or `None` where there is none.
    pub fn read_file(&self, image: &Image, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        self.store.read_file(image, path, max)
    }

    /// The image that a name stands for, and the tag by which it was found.
    fn find_named(&self, name: &str) -> Result<Option<Found>, ImageError> {
        if is_id(name) {
            return Ok(self.store.find(name)?.map(|image| (image, None)));
        }
        for reference in self.registries.in_force().conf().candidates(name)? {
            let key = match reference.digest() {
                Some(digest) => Some(reference.repo_digest(digest)),
                None => reference.repo_tag(),
            };
            if let Some(image) = key.map(|key| self.store.find(&key)).transpose()?.flatten() {
                let tag = reference.repo_tag().filter(|tag| image.tags.contains(tag));
                return Ok(Some((image, tag)));
            }
        }
        // `abc123` may be a short name or the beginning of an ID.
        if is_hex(name) { Ok(self.store.find(name)?.map(|image| (image, None))) } else { Ok(None) }
    }
}

/// The places of the images and of the writable layers, below the daemon's `root` unless told otherwise.
pub fn places(config: &ImagesConfig, root: &Path) -> Places {
    let images = if config.root.as_os_str().is_empty() { root } else { &config.root };
    Places { images: images.to_owned(), containers: root.to_owned() }
}

/// How much a layer may ask for, by whatever way it comes.
pub fn limits(config: &ImagesConfig) -> Limits {
    Limits { max_unpacked_bytes: config.max_unpacked_bytes, ..Limits::default() }
}

/// An image, and the tag by which it was found.
type Found = (Arc<Image>, Option<String>);

/// Whether a name can only be an ID.
pub(super) fn is_id(name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    is_hex(hex) && (hex.len() == 64 || hex.len() < name.len())
}

/// Whether credentials of a request are meant for this candidate. The kubelet chooses them for the name as it reads it,
/// which makes a short name Docker Hub's; another of several candidates gets them only if they name it.
fn is_meant(candidate: &Reference, candidates: &[Reference], auth: &AuthConfig) -> bool {
    candidates.len() == 1 || !auth.server_address.is_empty() || candidate.registry() == "docker.io"
}

/// Whether another candidate may do better.
fn is_about_candidate(error: &ImageError) -> bool {
    match error.kind() {
        ImageErrorKind::NotFound
        | ImageErrorKind::Denied
        | ImageErrorKind::Unavailable
        | ImageErrorKind::Corrupt => true,
        ImageErrorKind::Invalid
        | ImageErrorKind::Untrusted
        | ImageErrorKind::NoSpace
        | ImageErrorKind::Internal => false,
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
