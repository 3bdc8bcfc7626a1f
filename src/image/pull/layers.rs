//! The layers of an image, fetched and unpacked side by side.
//!
//! When one fails the others are told to stop, and the staging directory goes only after all of them have.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::progress::Pull;
use super::{Fetching, Puller};
use crate::image::digest::Digest;
use crate::image::error::{ImageError, ImageErrorKind};
use crate::image::extract::{ChannelReader, ExtractError, Extracted, LayerExpectation, extract_layer};
use crate::image::registry::{BlobStream, LayerDescriptor, Resolved};
use crate::image::store::{Staging, StoreError, chain_ids};
use crate::sys;
use crate::telemetry::{LayerOrigin, metrics};

/// How many chunks of a blob wait to be unpacked; a chunk is what one read of the connection gave, up to
/// some 800 KB.
pub(super) const CHUNKS: usize = 4;

/// How much of an image is fetched before the disk is told to write what it unpacked to, and how often that is looked at.
const FLUSH_EVERY: u64 = 16 << 20;
const FLUSH_PAUSE: Duration = Duration::from_millis(100);

/// One layer to fetch.
pub(super) struct Job {
    pub(super) fetching: Fetching,
    pub(super) index: usize,
    pub(super) layer: LayerDescriptor,
    pub(super) diff_id: Digest,
    pub(super) staging: Arc<Staging>,
}

impl Puller {
    /// Fetches and unpacks the layers that the store does not have.
    pub(super) async fn layers(
        self: &Arc<Self>,
        fetching: &Fetching,
        resolved: &Resolved,
        staging: &Arc<Staging>,
    ) -> Result<Vec<Option<Extracted>>, ImageError> {
        let chain = chain_ids(&resolved.diff_ids);
        let (mut tasks, mut to_fetch) = (JoinSet::new(), 0);
        // The largest first, so that none of them is left over at the end, alone.
        let mut order: Vec<_> = resolved.layers.iter().enumerate().collect();
        order.sort_by_key(|(_, layer)| std::cmp::Reverse(layer.size));
        for (index, layer) in order {
            if staging.reuse(&chain[index]).is_some() {
                fetching.progress.layer_done();
                metrics().layer(LayerOrigin::Present);
                continue;
            }
            to_fetch += layer.size;
            let job = Job {
                fetching: fetching.clone(),
                index,
                layer: layer.clone(),
                diff_id: resolved.diff_ids[index].clone(),
                staging: Arc::clone(staging),
            };
            let puller = Arc::clone(self);
            let span = tracing::info_span!("layer", digest = %layer.digest);
            tasks.spawn(async move { (index, puller.layer(job).await) }.instrument(span));
        }
        fetching.progress.unpacks(resolved.layers.len(), to_fetch);
        let mut layers = vec![None; resolved.layers.len()];
        join(tasks, &mut layers, fetching, staging).await?;
        Ok(layers)
    }

    /// After a failure, lets the next pull have the layers that are done, if there is room for them and the disk has them:
    /// whoever takes them over begins later, and would not be told of what was lost before.
    pub(super) async fn keep_what_is_good(&self, staging: &Arc<Staging>, error: &ImageError) {
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

    pub(super) async fn layer(&self, job: Job) -> Result<Extracted, ImageError> {
        let aborted = || ImageError::Layer {
            reference: job.fetching.reference.to_string(),
            layer: job.layer.digest.clone(),
            source: ExtractError::Input(io::ErrorKind::Interrupted.into()),
        };
        let permit = tokio::select! {
            permit = self.layers.acquire() => permit,
            () = job.fetching.stop.cancelled() => return Err(aborted()),
        };
        let Ok(_permit) = permit else { return Err(aborted()) };
        let (staging, diff_id, index) = (Arc::clone(&job.staging), job.diff_id.clone(), job.index);
        if let Some(extracted) = sys::blocking(move || staging.take_over(&diff_id, index)).await {
            metrics().layer(LayerOrigin::Kept);
            return Ok(extracted);
        }
        let (digest, size) = (&job.layer.digest, job.layer.size);
        let blob = job.fetching.source.open_blob(digest, size).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (staging, index) = (Arc::clone(&job.staging), job.index);
        let expected = LayerExpectation { digest: digest.clone(), size, diff_id: job.diff_id.clone() };
        let (compression, limits) = (job.layer.compression, self.limits.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            let (input, to) = (ChannelReader::new(receiver), staging.layer(index));
            let extracted = extract_layer(input, compression, &expected, &to, &limits);
            extracted.inspect(|extracted| staging.finished(index, &expected.diff_id, extracted))
        });
        let fetched = feed(blob, sender, &job.fetching).await;
        let unpacked = unpacking.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        // Where the fetch has failed, unpacking has too, and knows less of why.
        fetched?;
        let unpacked = unpacked.inspect(|extracted| {
            metrics().layer(LayerOrigin::Fetched);
            metrics().unpacked(extracted.bytes);
        });
        unpacked.map_err(|source| {
            if is_damage(&source) {
                job.fetching.source.distrust(&job.layer.digest);
            }
            ImageError::Layer {
                reference: job.fetching.reference.to_string(),
                layer: job.layer.digest.clone(),
                source,
            }
        })
    }
}

/// Waits for all layers, or for all others to have stopped after one has failed.
async fn join(
    mut tasks: JoinSet<(usize, Result<Extracted, ImageError>)>,
    layers: &mut [Option<Extracted>],
    fetching: &Fetching,
    staging: &Arc<Staging>,
) -> Result<(), ImageError> {
    let mut failure = None;
    let mut flushing = std::pin::pin!(keep_flushing(staging, &fetching.progress));
    loop {
        let result = tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => ended.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())),
                None => return failure.map_or(Ok(()), Err),
            },
            error = &mut flushing, if failure.is_none() => {
                fetching.stop.cancel();
                failure = Some(error.into());
                continue;
            }
        };
        match result {
            (index, Ok(extracted)) => {
                fetching.progress.layer_done();
                layers[index] = Some(extracted);
            }
            (_, Err(error)) => {
                fetching.stop.cancel();
                failure.get_or_insert(error);
            }
        }
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
pub(super) async fn feed(
    mut blob: BlobStream,
    to: mpsc::Sender<io::Result<Bytes>>,
    fetching: &Fetching,
) -> Result<(), ImageError> {
    loop {
        let chunk = tokio::select! {
            chunk = blob.next_chunk() => chunk?,
            () = fetching.stop.cancelled() => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        fetching.progress.fetched(chunk.len());
        if to.send(Ok(chunk)).await.is_err() {
            return Ok(());
        }
    }
}
