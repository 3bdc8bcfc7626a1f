//! Checking the images of the node against what was unpacked, and repairing them, beside a running daemon or without one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::digest::Digest;
use super::error::ImageError;
use super::images::Images;
use super::store::{ChainId, DamagedRecord, Finding, Image, OldLayer};
use crate::sys;

/// What a check has found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Image records that cannot be used.
    pub records: Vec<DamagedRecord>,
    /// Layers whose files are not what was unpacked.
    pub layers: Vec<BrokenLayer>,
    /// How many layers were looked at.
    pub checked: usize,
}

impl Report {
    /// Whether all is well.
    pub fn is_clean(&self) -> bool {
        self.records.is_empty() && self.layers.is_empty()
    }
}

/// A layer whose files are not what was unpacked.
#[derive(Debug, Clone)]
pub struct BrokenLayer {
    /// The layer.
    pub chain: ChainId,
    /// An image that has it, and its place there, the base being 0.
    pub image: Arc<Image>,
    /// Its place in the image.
    pub index: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// What a repair did about one thing that was broken.
#[derive(Debug, Clone)]
pub enum Repaired {
    /// The record was renamed; its image has to be pulled again.
    SetAside(PathBuf),
    /// The layer was fetched and unpacked again.
    Replaced(OldLayer),
}

impl Images {
    /// Checks all images, or those of these names: records, and the files of each layer. `progress` is told of each layer
    /// before it is read. Reads every file.
    pub async fn check(
        &self,
        names: &[String],
        mut progress: impl FnMut(usize, usize, &ChainId),
    ) -> Result<Report, ImageError> {
        let store = self.store().clone();
        let (recorded, records) = sys::blocking(move || store.recorded()).await?;
        let mut report = Report { records, ..Report::default() };
        let images = if names.is_empty() { recorded } else { self.chosen(names)? };
        let layers = layers_of(&images);
        for (number, (chain, (image, index))) in layers.iter().enumerate() {
            progress(number + 1, layers.len(), chain);
            let (store, id, layer) = (self.store().clone(), image.id.clone(), chain.clone());
            // There is none for an image that misses layers.
            let check = move || {
                let _lease = store.lease(&id);
                store.check_layer(&layer)
            };
            let findings = sys::blocking(check).await;
            report.checked += 1;
            if !findings.is_empty() {
                let (chain, image, index) = (chain.clone(), Arc::clone(image), *index);
                report.layers.push(BrokenLayer { chain, image, index, findings });
            }
        }
        // Lower layers first: what is above takes metadata from them.
        report.layers.sort_by_key(|layer| layer.index);
        Ok(report)
    }

    /// Sets a record aside that cannot be used.
    pub async fn repair_record(&self, record: &DamagedRecord) -> Result<Repaired, ImageError> {
        let (store, record) = (self.store().clone(), record.clone());
        Ok(Repaired::SetAside(sys::blocking(move || store.set_aside(&record)).await?))
    }

    /// Fetches a broken layer again, by the manifest with which its image was pulled, and puts it into place. The layers
    /// below it have to be whole.
    pub async fn repair_layer(&self, broken: &BrokenLayer) -> Result<Repaired, ImageError> {
        let image = Arc::clone(&broken.image);
        let (store, id) = (self.store().clone(), image.id.clone());
        // There is none where other layers are missing as well.
        let _lease = sys::blocking(move || store.lease(&id)).await;
        let (staging, extracted) = self.puller().layer_again(&image, broken.index).await?;
        let (store, index) = (self.store().clone(), broken.index);
        let replace = move || {
            let replaced = store.replace_layer(&staging, &image.chain[..=index], &extracted);
            staging.keep_nothing();
            replaced
        };
        Ok(Repaired::Replaced(sys::blocking(replace).await?))
    }

    fn chosen(&self, names: &[String]) -> Result<Vec<Arc<Image>>, ImageError> {
        let mut chosen: BTreeMap<Digest, Arc<Image>> = BTreeMap::new();
        for name in names {
            let image = self.find(name)?.ok_or_else(|| ImageError::NoImage(name.clone()))?;
            chosen.insert(image.id.clone(), image);
        }
        Ok(chosen.into_values().collect())
    }
}

/// Each layer once, with an image that has it.
fn layers_of(images: &[Arc<Image>]) -> Vec<(ChainId, (Arc<Image>, usize))> {
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    for image in images {
        for (index, chain) in image.chain.iter().enumerate() {
            if seen.insert(chain) {
                layers.push((chain.clone(), (Arc::clone(image), index)));
            }
        }
    }
    layers
}
