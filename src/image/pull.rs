//! PullImage: from a reference to an image in the store.
//!
//! ```text
//!   resolve -> for each layer, within one node-wide limit:
//!                fetch (async) --chunks--> extract (blocking threads: hash, inflate, hash, unpack into staging)
//!           -> commit (blocking: settle, flush once, rename, record)
//! ```
//!
//! What the store has is not fetched. Pulls of one reference, and of one image by several references, wait for each other,
//! so that each blob is fetched once.
//! When a layer fails the others are told to stop, and the staging directory goes only after all of them have.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::digest::Digest;
use super::error::{ImageError, ImageErrorKind};
use super::extract::{ChannelReader, ExtractError, Extracted, LayerExpectation, Limits, extract_layer};
use super::reference::Reference;
use super::registry::{
    BlobStream, Credentials, LayerDescriptor, Platform, RegistryClient, Resolved, layers_of_manifest,
};
use super::store::{Image, NewImage, Staging, Store, chain_ids};
use crate::sys;

/// How many chunks of a blob wait to be unpacked; a chunk is what one read of the connection gave, up to
/// some 800 KB.
const CHUNKS: usize = 4;

/// What pulls with.
pub(super) struct Puller {
    store: Store,
    client: RegistryClient,
    platform: Platform,
    layers: Arc<Semaphore>,
    // Held for a map operation; never over an await.
    under_way: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// One layer to fetch.
struct Job {
    index: usize,
    reference: Reference,
    credentials: Credentials,
    layer: LayerDescriptor,
    diff_id: Digest,
    staging: Arc<Staging>,
    stop: CancellationToken,
}

impl Puller {
    pub(super) fn new(store: Store, client: RegistryClient, max_parallel_layers: u64) -> Self {
        let permits = usize::try_from(max_parallel_layers).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            store,
            client,
            platform: Platform::host(),
            layers: Arc::new(Semaphore::new(permits)),
            under_way: Mutex::default(),
        }
    }

    pub(super) async fn pull(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Arc<Image>, ImageError> {
        let began = Instant::now();
        let by_name = self.turn(&reference.to_string());
        let _by_name = by_name.lock().await;
        let known = |id: &Digest| {
            let image = self.store.find(id.as_str()).ok()??;
            Some(Bytes::from(image.raw_config.clone()))
        };
        let resolved = self.client.resolve_knowing(reference, credentials, &self.platform, &known).await?;
        let by_id = self.turn(resolved.config_digest.as_str());
        let _by_id = by_id.lock().await;
        let store = self.store.clone();
        let staging = Arc::new(sys::blocking(move || store.stage()).await?);
        let layers = self.layers(reference, credentials, &resolved, &staging).await?;
        let fetched = layers.iter().flatten().count();
        let new = NewImage {
            size: resolved.layers.iter().map(|layer| layer.size).sum::<u64>() + resolved.config.len() as u64,
            config: resolved.config.to_vec(),
            manifest: resolved.manifest.to_vec(),
            tag: reference.repo_tag().filter(|_| reference.digest().is_none()),
            repo_digest: Some(reference.repo_digest(&resolved.digest)),
            pinned: false,
            layers,
        };
        let store = self.store.clone();
        let image = sys::blocking(move || store.commit_image(&staging, new)).await?;
        sys::memory::trim();
        tracing::info!(image = %reference, id = %image.id, fetched, millis = began.elapsed().as_millis(), "pulled");
        Ok(image)
    }

    /// Fetches and unpacks the layers that the store does not have.
    async fn layers(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: &Credentials,
        resolved: &Resolved,
        staging: &Arc<Staging>,
    ) -> Result<Vec<Option<Extracted>>, ImageError> {
        let chain = chain_ids(&resolved.diff_ids);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (index, layer) in resolved.layers.iter().enumerate() {
            if staging.reuse(&chain[index]).is_some() {
                continue;
            }
            let job = Job {
                index,
                reference: reference.clone(),
                credentials: credentials.clone(),
                layer: layer.clone(),
                diff_id: resolved.diff_ids[index].clone(),
                staging: Arc::clone(staging),
                stop: stop.clone(),
            };
            let puller = Arc::clone(self);
            tasks.spawn(async move { (index, puller.layer(job).await) });
        }
        let mut layers = vec![None; resolved.layers.len()];
        let mut failure = None;
        while let Some(ended) = tasks.join_next().await {
            let (index, result) = ended.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            match result {
                Ok(extracted) => layers[index] = Some(extracted),
                Err(error) => {
                    stop.cancel();
                    failure.get_or_insert(error);
                }
            }
        }
        let Some(error) = failure else { return Ok(layers) };
        if error.kind() == ImageErrorKind::NoSpace {
            staging.keep_nothing();
            let store = self.store.clone();
            sys::blocking(move || store.discard_unfinished()).await;
        }
        Err(error)
    }

    async fn layer(&self, job: Job) -> Result<Extracted, ImageError> {
        let aborted = || ImageError::Layer {
            reference: job.reference.to_string(),
            layer: job.layer.digest.clone(),
            source: ExtractError::Input(io::ErrorKind::Interrupted.into()),
        };
        let permit = tokio::select! {
            permit = self.layers.acquire() => permit,
            () = job.stop.cancelled() => return Err(aborted()),
        };
        let Ok(_permit) = permit else { return Err(aborted()) };
        let (staging, diff_id, index) = (Arc::clone(&job.staging), job.diff_id.clone(), job.index);
        if let Some(extracted) = sys::blocking(move || staging.take_over(&diff_id, index)).await {
            return Ok(extracted);
        }
        let (digest, size) = (&job.layer.digest, job.layer.size);
        let blob = self.client.open_blob(&job.reference, &job.credentials, digest, size).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (staging, index) = (Arc::clone(&job.staging), job.index);
        let expected = LayerExpectation { digest: digest.clone(), size, diff_id: job.diff_id.clone() };
        let compression = job.layer.compression;
        let unpacking = tokio::task::spawn_blocking(move || {
            let (input, to) = (ChannelReader::new(receiver), staging.layer(index));
            let extracted = extract_layer(input, compression, &expected, &to, &Limits::default());
            extracted.inspect(|extracted| staging.finished(index, &expected.diff_id, extracted))
        });
        let fetched = feed(blob, sender, &job.stop).await;
        let unpacked = unpacking.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        // Where the fetch has failed, unpacking has too, and knows less of why.
        fetched?;
        unpacked.map_err(|source| ImageError::Layer {
            reference: job.reference.to_string(),
            layer: job.layer.digest.clone(),
            source,
        })
    }

    /// Fetches and unpacks one layer of an image that is here, from whichever of its names has it.
    pub(super) async fn layer_again(
        &self,
        image: &Image,
        index: usize,
    ) -> Result<(Arc<Staging>, Extracted), ImageError> {
        let layers = layers_of_manifest(&image.raw_manifest).unwrap_or_default();
        let diff_id = image.diff_ids().get(index).cloned();
        let mut failure = ImageError::NoSource { image: image.id.clone(), index };
        let (Some(layer), Some(diff_id)) = (layers.get(index), diff_id) else { return Err(failure) };
        let store = self.store.clone();
        let staging = Arc::new(sys::blocking(move || store.stage()).await?);
        for name in image.repo_digests.iter().chain(&image.tags) {
            let Ok(reference) = name.parse() else { continue };
            let job = Job {
                index,
                reference,
                credentials: Credentials::Anonymous,
                layer: layer.clone(),
                diff_id: diff_id.clone(),
                staging: Arc::clone(&staging),
                stop: CancellationToken::new(),
            };
            match self.layer(job).await {
                Ok(extracted) => return Ok((staging, extracted)),
                Err(error) => failure = error,
            }
            // What it has unpacked so far is in the way of the next.
            let store = self.store.clone();
            let path = staging.layer(index);
            sys::blocking(move || store.discard(&path)).await?;
        }
        Err(failure)
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

/// Passes the blob on until it ends, the unpacking gives up, or the pull is stopped. Only the registry's failure is one here.
async fn feed(
    mut blob: BlobStream,
    to: mpsc::Sender<io::Result<Bytes>>,
    stop: &CancellationToken,
) -> Result<(), ImageError> {
    loop {
        let chunk = tokio::select! {
            chunk = blob.next_chunk() => chunk?,
            () = stop.cancelled() => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        if to.send(Ok(chunk)).await.is_err() {
            return Ok(());
        }
    }
}
