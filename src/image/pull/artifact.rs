//! Pulling an OCI artifact: its blobs become the files of one directory, which is its only layer.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::layers::{CHUNKS, feed};
use super::{Fetching, Puller};
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::extract::{ArtifactWriter, ChannelReader, ExtractError, Extracted};
use crate::image::registry::ArtifactFile;
use crate::image::store::{Staging, chain_ids};
use crate::sys;

/// The most that the blobs of one artifact may have together, in bytes.
const MOST_BYTES: u64 = 1 << 40;

impl Puller {
    /// Fetches what the store does not have of an artifact; the result is its one layer.
    pub(super) async fn artifact(
        &self,
        fetching: &Fetching,
        id: &Digest,
        files: &[ArtifactFile],
        staging: &Arc<Staging>,
    ) -> Result<Vec<Option<Extracted>>, ImageError> {
        let (chain, holder) = (chain_ids(std::slice::from_ref(id)), Arc::clone(staging));
        if sys::blocking(move || holder.reuse(&chain[0])).await.is_some() {
            return Ok(vec![None]);
        }
        self.artifact_files(fetching, files, staging).await.map(|extracted| vec![Some(extracted)])
    }

    /// Fetches all blobs, one after the other: an artifact is one large blob, or a few small ones.
    pub(super) async fn artifact_files(
        &self,
        fetching: &Fetching,
        files: &[ArtifactFile],
        staging: &Arc<Staging>,
    ) -> Result<Extracted, ImageError> {
        let failed = |layer: &Digest| {
            let (reference, layer) = (fetching.reference.to_string(), layer.clone());
            move |source: ExtractError| ImageError::Layer { reference, layer, source }
        };
        let all = files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size));
        if let (Some(file), true) = (files.first(), all.is_none_or(|all| all > MOST_BYTES)) {
            return Err(failed(&file.digest)(ExtractError::Limit {
                what: "bytes of blobs",
                limit: MOST_BYTES,
            }));
        }
        fetching.progress.unpacks(1, all.unwrap_or_default());
        let to = staging.layer(0);
        let created = sys::blocking(move || ArtifactWriter::create(&to)).await;
        let whole = Digest::of(fetching.reference.to_string().as_bytes());
        let mut writer = created.map_err(failed(files.first().map_or(&whole, |file| &file.digest)))?;
        for file in files {
            // An error would be that of a closed semaphore, and this one never is.
            let _permit = self.permit().await;
            let blob = fetching.source.open_blob(&file.digest, file.size).await?;
            let (sender, receiver) = mpsc::channel(CHUNKS);
            let wanted = file.clone();
            let writing = tokio::task::spawn_blocking(move || {
                let input = ChannelReader::new(receiver);
                writer.file(&wanted.title, input, &wanted.digest, wanted.size).map(|()| writer)
            });
            let fetched = feed(blob, sender, fetching).await;
            let written = writing.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            fetched?;
            writer = written.map_err(failed(&file.digest))?;
        }
        let finished = sys::blocking(move || writer.finish()).await;
        finished.map_err(failed(files.first().map_or(&whole, |file| &file.digest)))
    }
}
