//! What the store knows in memory. No method of it touches the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::StoreError;
use super::image::Image;
use super::layer::{ChainId, LayerInfo, Usage};
use crate::id::ContainerId;
use crate::image::digest::Digest;

/// The record of a container's hold, in its directory.
pub(super) const HOLDS: &str = "holds.json";

struct Layer {
    info: LayerInfo,
    users: usize,
}

/// Images, layers with the number of their users, and containers' holds.
#[derive(Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<Digest, Arc<Image>>,
    pub(super) holds: BTreeMap<ContainerId, Vec<ChainId>>,
    layers: HashMap<ChainId, Layer>,
    /// Layers without users, which are there until they are collected.
    unused: BTreeSet<ChainId>,
    usage: Usage,
}

impl State {
    /// Adds a layer that no one uses yet; one that is there already stays as it is.
    pub(super) fn add_layer(&mut self, chain: &ChainId, info: LayerInfo) {
        if !self.layers.contains_key(chain) {
            self.layers.insert(chain.clone(), Layer { info, users: 0 });
            self.unused.insert(chain.clone());
            self.usage.bytes += info.bytes;
            self.usage.inodes += info.inodes;
        }
    }

    pub(super) fn layer(&self, chain: &ChainId) -> Option<LayerInfo> {
        self.layers.get(chain).map(|layer| layer.info)
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Adds a user to each layer, or to none when one is missing.
    pub(super) fn retain(&mut self, chain: &[ChainId]) -> Result<(), StoreError> {
        if let Some(missing) = chain.iter().find(|id| !self.layers.contains_key(*id)) {
            return Err(StoreError::NoLayer(missing.clone()));
        }
        for id in chain {
            if let Some(layer) = self.layers.get_mut(id) {
                layer.users += 1;
                self.unused.remove(id);
            }
        }
        Ok(())
    }

    /// Takes a user from each layer; returns whether one has none left.
    pub(super) fn release(&mut self, chain: &[ChainId]) -> bool {
        for id in chain {
            let Some(layer) = self.layers.get_mut(id) else { continue };
            layer.users = layer.users.saturating_sub(1);
            if layer.users == 0 {
                self.unused.insert(id.clone());
            }
        }
        !self.unused.is_empty()
    }

    /// The layers that no one here uses.
    pub(super) fn unused(&self) -> Vec<ChainId> {
        self.unused.iter().cloned().collect()
    }

    /// Whether someone here uses that layer.
    pub(super) fn is_used(&self, chain: &ChainId) -> bool {
        self.layers.contains_key(chain) && !self.unused.contains(chain)
    }

    /// Forgets a layer that no one uses.
    pub(super) fn forget(&mut self, chain: &ChainId) {
        if self.unused.remove(chain)
            && let Some(layer) = self.layers.remove(chain)
        {
            self.usage.bytes -= layer.info.bytes;
            self.usage.inodes -= layer.info.inodes;
        }
    }

    /// Adds an image, whose layers have to be here, or takes the place of what was known of it.
    pub(super) fn put_image(&mut self, image: Arc<Image>) -> Result<(), StoreError> {
        // First, so that what both have does not become unused in between.
        self.retain(&image.chain)?;
        if let Some(before) = self.images.insert(image.id.clone(), image) {
            self.release(&before.chain);
        }
        Ok(())
    }

    /// Forgets an image; returns whether that leaves a layer unused.
    pub(super) fn remove_image(&mut self, id: &Digest) -> bool {
        match self.images.remove(id) {
            Some(image) => self.release(&image.chain),
            None => false,
        }
    }

    /// The image that has exactly this tag or repository digest.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Image>> {
        let mut images = self.images.values();
        images.find(|image| image.tags.contains(name) || image.repo_digests.contains(name)).cloned()
    }

    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<Image>>, StoreError> {
        if let Some(image) = self.named(name) {
            return Ok(Some(image));
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix = !prefix.is_empty() && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_prefix {
            return Ok(None);
        }
        let mut matching = self.images.values().filter(|image| image.id.hex().starts_with(prefix));
        match (matching.next(), matching.count()) {
            (Some(_), others @ 1..) => {
                Err(StoreError::Ambiguous { prefix: prefix.to_owned(), count: others + 1 })
            }
            (found, _) => Ok(found.cloned()),
        }
    }

    /// Leaves each tag to the image that got it last.
    pub(super) fn settle_tags(&mut self) {
        let mut newest: BTreeMap<String, (u64, Digest)> = BTreeMap::new();
        for image in self.images.values() {
            for tag in &image.tags {
                let claim = (image.named_at, image.id.clone());
                match newest.get_mut(tag) {
                    Some(best) if *best >= claim => {}
                    Some(best) => *best = claim,
                    None => drop(newest.insert(tag.clone(), claim)),
                }
            }
        }
        for image in self.images.values_mut() {
            let keeps = |tag: &String| newest.get(tag).is_some_and(|(_, id)| *id == image.id);
            if !image.tags.iter().all(keeps) {
                let mut without = (**image).clone();
                without.tags.retain(|tag| newest.get(tag).is_some_and(|(_, id)| *id == image.id));
                *image = Arc::new(without);
            }
        }
    }

    /// Takes a tag from every image but `keeper`; returns those that changed.
    pub(super) fn take_tag(&mut self, tag: &str, keeper: &Digest) -> Vec<Arc<Image>> {
        let mut changed = Vec::new();
        for (id, image) in &mut self.images {
            if id != keeper && image.tags.contains(tag) {
                let mut without = (**image).clone();
                without.tags.remove(tag);
                *image = Arc::new(without);
                changed.push(Arc::clone(image));
            }
        }
        changed
    }
}
