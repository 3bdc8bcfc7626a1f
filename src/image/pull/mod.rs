//! PullImage: from a reference to an image in the store.
//!
//! ```text
//!   resolve -> signatures, as far as a policy asks for them (`verify.rs`)
//!           -> for each layer, within one node-wide limit:
//!                fetch (async) --chunks--> extract (blocking threads: hash, inflate, hash, unpack into staging)
//!           -> commit (blocking: settle, flush once, rename, record)
//! ```
//!
//! What the store has is not fetched. Pulls of one reference, and of one image by several references, wait for each other,
//! so that each blob is fetched once.
//! When a layer fails the others are told to stop, and the staging directory goes only after all of them have.

mod again;
mod artifact;
mod layers;
mod progress;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::progress::{Progress, Pull, Stage};
pub use self::progress::{PullStatus, PullTotals};
use super::digest::Digest;
use super::error::ImageError;
use super::extract::{Extracted, Limits};
use super::policy::{PolicyFile, Signature};
use super::reference::Reference;
use super::registry::{Platform, PullAuth, RegistryClient, Resolved, Source};
use super::store::{Image, NewImage, Staging, Store};
use super::verify::Signed;
use crate::sys;

/// What pulls with.
pub(super) struct Puller {
    store: Store,
    client: RegistryClient,
    platform: Platform,
    layers: Arc<Semaphore>,
    limits: Limits,
    pub(super) progress: Progress,
    // Held for a map operation; never over an await.
    under_way: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// What all fetches of one pull have in common.
#[derive(Clone)]
struct Fetching {
    reference: Reference,
    source: Source,
    progress: Arc<Pull>,
    /// Tells the others when one has failed.
    stop: CancellationToken,
}

impl Puller {
    pub(super) fn new(
        store: Store,
        client: RegistryClient,
        max_parallel_layers: u64,
        limits: Limits,
    ) -> Self {
        let permits = usize::try_from(max_parallel_layers).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            store,
            client,
            platform: Platform::host(),
            layers: Arc::new(Semaphore::new(permits)),
            limits,
            progress: Progress::default(),
            under_way: Mutex::default(),
        }
    }

    /// Pulls the image if the policy accepts it; signatures are fetched if the policy needs them or they are to be kept.
    pub(super) async fn pull(
        self: &Arc<Self>,
        reference: &Reference,
        auth: &PullAuth,
        policy: &Arc<PolicyFile>,
        keep_signatures: bool,
    ) -> Result<Arc<Image>, ImageError> {
        let under_way = self.progress.begin(reference);
        let span = tracing::info_span!("pull", image = %reference);
        let pulling = self.pull_in_turn(reference, auth, policy, keep_signatures, under_way.pull());
        let image = pulling.instrument(span).await?;
        under_way.succeeded();
        Ok(image)
    }

    async fn pull_in_turn(
        self: &Arc<Self>,
        reference: &Reference,
        auth: &PullAuth,
        policy: &Arc<PolicyFile>,
        keep_signatures: bool,
        progress: &Arc<Pull>,
    ) -> Result<Arc<Image>, ImageError> {
        let began = Instant::now();
        let by_name = self.turn(&reference.to_string());
        let _by_name = by_name.lock().await;
        progress.enter(Stage::Resolving);
        let known = |id: &Digest| {
            let image = self.store.find(id.as_str()).ok()??;
            Some(Bytes::from(image.raw_config.clone()))
        };
        let source = self.client.source(reference, auth).await?;
        let resolved = source.resolve(&self.platform, &known).await?;
        let signed = Signed { reference, resolved: &resolved, policy, keep: keep_signatures };
        let signatures = signed.verify(&source).await?;
        let by_id = self.turn(resolved.config_digest.as_str());
        let _by_id = by_id.lock().await;
        let store = self.store.clone();
        let staging = Arc::new(sys::blocking(move || store.stage()).await?);
        let (reference, progress) = (reference.clone(), Arc::clone(progress));
        let fetching = Fetching { reference, source, progress, stop: CancellationToken::new() };
        let layers = self.fetch(&fetching, &resolved, &staging).await?;
        let fetched = layers.iter().flatten().count();
        fetching.progress.enter(Stage::Committing);
        let new = new_image(&fetching.reference, resolved, signatures, layers);
        let store = self.store.clone();
        let commit = move || {
            let image = store.commit_image(&staging, new);
            image.inspect_err(|_| staging.keep_nothing())
        };
        let image = sys::blocking(commit).await?;
        sys::memory::trim();
        tracing::info!(id = %image.id, fetched, millis = began.elapsed().as_millis(), "pulled");
        Ok(image)
    }

    async fn fetch(
        self: &Arc<Self>,
        fetching: &Fetching,
        resolved: &Resolved,
        staging: &Arc<Staging>,
    ) -> Result<Vec<Option<Extracted>>, ImageError> {
        let fetched = match &resolved.artifact {
            Some(artifact) => {
                self.artifact(fetching, &resolved.config_digest, &artifact.files, staging).await
            }
            None => self.layers(fetching, resolved, staging).await,
        };
        if let Err(error) = &fetched {
            self.keep_what_is_good(staging, error).await;
        }
        fetched
    }

    /// Waits for one of the node's places for fetching layers.
    pub(super) async fn permit(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.layers.acquire().await
    }

    /// The lock of the pulls of one reference, or of one image by several.
    fn turn(&self, of: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = under_way.get(of).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        under_way.insert(of.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// What the store is to keep of the pull.
fn new_image(
    reference: &Reference,
    resolved: Resolved,
    signatures: Vec<Signature>,
    layers: Vec<Option<Extracted>>,
) -> NewImage {
    let blobs = resolved.artifact.iter().flat_map(|artifact| &artifact.files).map(|file| file.size);
    let blobs = blobs.chain(resolved.layers.iter().map(|layer| layer.size)).sum::<u64>();
    NewImage {
        size: blobs + resolved.config.len() as u64,
        artifact: resolved.artifact.map(|artifact| artifact.kind),
        config: resolved.config.to_vec(),
        manifest: resolved.manifest.to_vec(),
        tag: reference.repo_tag().filter(|_| reference.digest().is_none()),
        repo_digest: Some(reference.repo_digest(&resolved.digest)),
        signatures,
        pinned: false,
        layers,
    }
}
