//! Fetching again what is broken of an image that is here.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::layers::Job;
use super::{Fetching, Puller};
use crate::image::error::ImageError;
use crate::image::extract::Extracted;
use crate::image::registry::{PullAuth, artifact_of_manifest, layers_of_manifest};
use crate::image::store::{Image, Staging};
use crate::sys;

impl Puller {
    /// Fetches and unpacks one layer of an image that is here, from whichever of its names has it.
    pub(in crate::image) async fn layer_again(
        &self,
        image: &Image,
        index: usize,
    ) -> Result<(Arc<Staging>, Extracted), ImageError> {
        let layers = layers_of_manifest(&image.raw_manifest).unwrap_or_default();
        let artifact = artifact_of_manifest(&image.raw_manifest);
        let diff_id = image.diff_ids().get(index).cloned();
        let mut failure = ImageError::NoSource { image: image.id.clone(), index };
        let store = self.store.clone();
        let staging = Arc::new(sys::blocking(move || store.stage()).await?);
        for name in image.repo_digests.iter().chain(&image.tags) {
            let Ok(reference) = name.parse() else { continue };
            let under_way = self.progress.begin(&reference);
            let source = match self.client.source(&reference, &PullAuth::default()).await {
                Ok(source) => source,
                Err(error) => {
                    failure = error.into();
                    continue;
                }
            };
            let fetching = Fetching {
                reference,
                source,
                progress: Arc::clone(under_way.pull()),
                stop: CancellationToken::new(),
            };
            let fetched = match (&artifact, layers.get(index), &diff_id) {
                (Some(artifact), ..) => self.artifact_files(&fetching, &artifact.files, &staging).await,
                (None, Some(layer), Some(diff_id)) => {
                    fetching.progress.unpacks(1, layer.size);
                    let (layer, diff_id, staging) = (layer.clone(), diff_id.clone(), Arc::clone(&staging));
                    self.layer(Job { fetching, index, layer, diff_id, staging }).await
                }
                (None, ..) => return Err(failure),
            };
            match fetched {
                Ok(extracted) => {
                    under_way.succeeded();
                    return Ok((staging, extracted));
                }
                Err(error) => failure = error,
            }
            self.clear(&staging, index).await?;
        }
        Err(failure)
    }

    /// Makes room for another attempt.
    async fn clear(&self, staging: &Staging, index: usize) -> Result<(), ImageError> {
        let (store, path) = (self.store.clone(), staging.layer(index));
        Ok(sys::blocking(move || store.discard(&path)).await?)
    }
}
