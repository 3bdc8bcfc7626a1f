//! What the store knows in memory. No method of it touches the disk.

use std::collections::{BTreeMap, HashMap};
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
    usage: Usage,
}

impl State {
    /// Adds a layer that no one uses yet; one that is there already stays as it is.
    pub(super) fn add_layer(&mut self, chain: &ChainId, info: LayerInfo) {
        if !self.layers.contains_key(chain) {
            self.layers.insert(chain.clone(), Layer { info, users: 0 });
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
            }
        }
        Ok(())
    }

    /// Forgets the layers that no one uses.
    pub(super) fn drop_unused(&mut self) {
        let usage = &mut self.usage;
        self.layers.retain(|_, layer| {
            if layer.users == 0 {
                usage.bytes -= layer.info.bytes;
                usage.inodes -= layer.info.inodes;
            }
            layer.users > 0
        });
    }

    /// Takes a user from each layer; those that have none left are forgotten and returned.
    pub(super) fn release(&mut self, chain: &[ChainId]) -> Vec<ChainId> {
        let mut unused = Vec::new();
        for id in chain {
            let Some(layer) = self.layers.get_mut(id) else { continue };
            layer.users = layer.users.saturating_sub(1);
            if layer.users == 0 {
                self.usage.bytes -= layer.info.bytes;
                self.usage.inodes -= layer.info.inodes;
                self.layers.remove(id);
                unused.push(id.clone());
            }
        }
        unused
    }

    pub(super) fn users(&self, image: &Image) -> Vec<ContainerId> {
        let Some(top) = image.chain.last() else { return Vec::new() };
        let holders = self.holds.iter().filter(|(_, chain)| chain.contains(top));
        holders.map(|(container, _)| container.clone()).collect()
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
