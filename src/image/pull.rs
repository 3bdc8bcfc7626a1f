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

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::digest::Digest;
use super::error::{ImageError, ImageErrorKind};
use super::extract::{ChannelReader, ExtractError, Extracted, LayerExpectation, Limits, extract_layer};
use super::policy::PolicyFile;
use super::progress::{Progress, Pull, Stage};
use super::reference::Reference;
use super::registry::{
    BlobStream, LayerDescriptor, Platform, PullAuth, RegistryClient, Resolved, Source, layers_of_manifest,
};
use super::store::{Image, NewImage, Staging, Store, StoreError, chain_ids};
use super::verify::Signed;
use crate::sys;

/// How many chunks of a blob wait to be unpacked; a chunk is what one read of the connection gave, up to
/// some 800 KB.
const CHUNKS: usize = 4;

/// How much of an image is fetched before the disk is told to write what it unpacked to, and how often that is looked at.
const FLUSH_EVERY: u64 = 32 << 20;
const FLUSH_PAUSE: Duration = Duration::from_millis(200);

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

/// One layer to fetch.
struct Job {
    index: usize,
    reference: Reference,
    source: Source,
    layer: LayerDescriptor,
    diff_id: Digest,
    staging: Arc<Staging>,
    progress: Arc<Pull>,
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
        let began = Instant::now();
        let under_way = self.progress.begin(reference);
        let progress = under_way.pull();
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
        let layers = self.layers(reference, &source, &resolved, &staging, progress).await?;
        let fetched = layers.iter().flatten().count();
        let new = NewImage {
            size: resolved.layers.iter().map(|layer| layer.size).sum::<u64>() + resolved.config.len() as u64,
            config: resolved.config.to_vec(),
            manifest: resolved.manifest.to_vec(),
            tag: reference.repo_tag().filter(|_| reference.digest().is_none()),
            repo_digest: Some(reference.repo_digest(&resolved.digest)),
            signatures,
            pinned: false,
            layers,
        };
        progress.enter(Stage::Committing);
        let store = self.store.clone();
        let commit = move || {
            let image = store.commit_image(&staging, new);
            image.inspect_err(|_| staging.keep_nothing())
        };
        let image = sys::blocking(commit).await?;
        sys::memory::trim();
        tracing::info!(image = %reference, id = %image.id, fetched, millis = began.elapsed().as_millis(), "pulled");
        under_way.succeeded();
        Ok(image)
    }

    /// Fetches and unpacks the layers that the store does not have.
    async fn layers(
        self: &Arc<Self>,
        reference: &Reference,
        source: &Source,
        resolved: &Resolved,
        staging: &Arc<Staging>,
        progress: &Arc<Pull>,
    ) -> Result<Vec<Option<Extracted>>, ImageError> {
        let chain = chain_ids(&resolved.diff_ids);
        let stop = CancellationToken::new();
        let (mut tasks, mut to_fetch) = (JoinSet::new(), 0);
        for (index, layer) in resolved.layers.iter().enumerate() {
            if staging.reuse(&chain[index]).is_some() {
                progress.layer_done();
                continue;
            }
            to_fetch += layer.size;
            let job = Job {
                index,
                reference: reference.clone(),
                source: source.clone(),
                layer: layer.clone(),
                diff_id: resolved.diff_ids[index].clone(),
                staging: Arc::clone(staging),
                progress: Arc::clone(progress),
                stop: stop.clone(),
            };
            let puller = Arc::clone(self);
            tasks.spawn(async move { (index, puller.layer(job).await) });
        }
        progress.unpacks(resolved.layers.len(), to_fetch);
        let mut layers = vec![None; resolved.layers.len()];
        let mut failure = None;
        let mut flushing = std::pin::pin!(keep_flushing(staging, progress));
        loop {
            let ended = tokio::select! {
                ended = tasks.join_next() => ended,
                error = &mut flushing, if failure.is_none() => {
                    stop.cancel();
                    failure = Some(error.into());
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let (index, result) = ended.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            match result {
                Ok(extracted) => {
                    progress.layer_done();
                    layers[index] = Some(extracted);
                }
                Err(error) => {
                    stop.cancel();
                    failure.get_or_insert(error);
                }
            }
        }
        let Some(error) = failure else { return Ok(layers) };
        self.keep_what_is_good(staging, &error).await;
        Err(error)
    }

    /// After a failure, lets the next pull have the layers that are done, if there is room for them and the disk has them:
    /// whoever takes them over begins later, and would not be told of what was lost before.
    async fn keep_what_is_good(&self, staging: &Arc<Staging>, error: &ImageError) {
        let (staging, store, kind) = (Arc::clone(staging), self.store.clone(), error.kind());
        let decide = move || match kind {
            ImageErrorKind::NoSpace => {
                staging.keep_nothing();
                store.discard_unfinished();
            }
            // What the disk has lost has been told already.
            ImageErrorKind::Internal => staging.keep_nothing(),
            ImageErrorKind::NotFound
            | ImageErrorKind::Denied
            | ImageErrorKind::Unavailable
            | ImageErrorKind::Invalid
            | ImageErrorKind::Untrusted
            | ImageErrorKind::Corrupt => {
                if let Err(error) = staging.flush() {
                    tracing::warn!(%error, "no layer of the failed pull is kept");
                    staging.keep_nothing();
                }
            }
        };
        sys::blocking(decide).await;
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
        let blob = job.source.open_blob(digest, size).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (staging, index) = (Arc::clone(&job.staging), job.index);
        let expected = LayerExpectation { digest: digest.clone(), size, diff_id: job.diff_id.clone() };
        let (compression, limits) = (job.layer.compression, self.limits.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            let (input, to) = (ChannelReader::new(receiver), staging.layer(index));
            let extracted = extract_layer(input, compression, &expected, &to, &limits);
            extracted.inspect(|extracted| staging.finished(index, &expected.diff_id, extracted))
        });
        let fetched = feed(blob, sender, &job).await;
        let unpacked = unpacking.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        // Where the fetch has failed, unpacking has too, and knows less of why.
        fetched?;
        unpacked.map_err(|source| {
            if is_damage(&source) {
                job.source.distrust(&job.layer.digest);
            }
            ImageError::Layer {
                reference: job.reference.to_string(),
                layer: job.layer.digest.clone(),
                source,
            }
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
            let under_way = self.progress.begin(&reference);
            under_way.pull().unpacks(1, layer.size);
            let source = match self.client.source(&reference, &PullAuth::default()).await {
                Ok(source) => source,
                Err(error) => {
                    failure = error.into();
                    continue;
                }
            };
            let job = Job {
                index,
                reference,
                source,
                layer: layer.clone(),
                diff_id: diff_id.clone(),
                staging: Arc::clone(&staging),
                progress: Arc::clone(under_way.pull()),
                stop: CancellationToken::new(),
            };
            match self.layer(job).await {
                Ok(extracted) => {
                    under_way.succeeded();
                    return Ok((staging, extracted));
                }
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

/// Whether a blob's bytes are, or may be, others than its digest promises: another endpoint may have the right ones.
fn is_damage(error: &ExtractError) -> bool {
    match error {
        ExtractError::Decompress { .. }
        | ExtractError::Truncated(_)
        | ExtractError::Archive(_)
        | ExtractError::BlobTooLong { .. }
        | ExtractError::BlobTooShort { .. }
        | ExtractError::BlobDigest { .. } => true,
        ExtractError::Input(_)
        | ExtractError::UnsupportedCompression(_)
        | ExtractError::Refused { .. }
        | ExtractError::Limit { .. }
        | ExtractError::Entry { .. }
        | ExtractError::Staging { .. }
        | ExtractError::NoSpace(_)
        | ExtractError::DiffId { .. } => false,
    }
}

/// Has the disk write while network and processors work, so that little is left to flush at the end. Ends with a failure.
async fn keep_flushing(staging: &Arc<Staging>, progress: &Pull) -> StoreError {
    let mut flushed = 0;
    loop {
        tokio::time::sleep(FLUSH_PAUSE).await;
        let fetched = progress.bytes();
        if fetched - flushed >= FLUSH_EVERY {
            flushed = fetched;
            let staging = Arc::clone(staging);
            if let Err(error) = sys::blocking(move || staging.flush()).await {
                return error;
            }
        }
    }
}

/// Passes the blob on until it ends, the unpacking gives up, or the pull is stopped. Only the registry's failure is one here.
async fn feed(
    mut blob: BlobStream,
    to: mpsc::Sender<io::Result<Bytes>>,
    job: &Job,
) -> Result<(), ImageError> {
    loop {
        let chunk = tokio::select! {
            chunk = blob.next_chunk() => chunk?,
            () = job.stop.cancelled() => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        job.progress.fetched(chunk.len());
        if to.send(Ok(chunk)).await.is_err() {
            return Ok(());
        }
    }
}
