//! An image from layers that are on this machine already, in an archive or in another runtime's store.
//!
//! The counterpart of a pull: what the store has is kept, what is missing is made on a few threads, and all is committed at
//! once. The first layer that fails stops the others.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::digest::Digest;
use super::extract::Extracted;
use super::reference::Reference;
use super::store::{Image, NewImage, Staging, Store, StoreError, chain_ids};

/// An image to be.
pub(super) struct Plan {
    /// Its names, with the digest of what the name stands for where that is known.
    pub(super) names: Vec<(Reference, Option<Digest>)>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
    /// The compressed layers and the configuration, in bytes.
    pub(super) size: u64,
    pub(super) pinned: bool,
    /// The layers' diffIDs, lowest first.
    pub(super) diff_ids: Vec<Digest>,
    /// How many layers are made at a time.
    pub(super) parallel: NonZeroUsize,
}

/// Where the layers come from: an archive or a store.
pub(super) trait LayerMaker<E>: Sync {
    /// Looks whether the layers of these indexes can be made, before any is.
    fn prepare(&self, missing: &[usize]) -> Result<(), E>;

    /// Makes a layer in a staging directory, as `extract_layer` does; ends soon after `stop` is set.
    fn make(&self, index: usize, directory: &Path, stop: &AtomicBool) -> Result<Extracted, E>;
}

/// An image that is in the store now.
pub(super) struct Assembled {
    pub(super) image: Arc<Image>,
    /// How many layers had to be made.
    pub(super) made: usize,
}

/// Makes the missing layers and commits the image under all its names. Blocks.
pub(super) fn assemble<E: From<StoreError> + Send>(
    store: &Store,
    plan: &Plan,
    maker: &impl LayerMaker<E>,
) -> Result<Assembled, E> {
    let staging = store.stage()?;
    let chain = chain_ids(&plan.diff_ids);
    let missing: Vec<usize> =
        (0..chain.len()).filter(|&index| staging.reuse(&chain[index]).is_none()).collect();
    maker.prepare(&missing)?;
    let layers = make_all(&staging, plan, &missing, maker)?;
    let mut image = store.commit_image(&staging, plan.image(plan.names.first(), layers))?;
    for id in &chain {
        // The further names need them, whatever happens to the image meanwhile.
        let _ = staging.reuse(id);
    }
    for name in plan.names.iter().skip(1) {
        image = store.commit_image(&staging, plan.image(Some(name), vec![None; chain.len()]))?;
    }
    Ok(Assembled { image, made: missing.len() })
}

fn make_all<E: Send>(
    staging: &Staging,
    plan: &Plan,
    missing: &[usize],
    maker: &impl LayerMaker<E>,
) -> Result<Vec<Option<Extracted>>, E> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    // Held to store one result.
    let results = Mutex::new((vec![None; plan.diff_ids.len()], None));
    let work = || {
        while let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let made = maker.make(index, &staging.layer(index), &stop);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match made {
                Ok(extracted) => results.0[index] = Some(extracted),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    results.1.get_or_insert(error);
                }
            }
        }
    };
    thread::scope(|scope| {
        // This thread is one of them.
        for _ in 1..plan.parallel.get().min(missing.len()) {
            scope.spawn(work);
        }
        work();
    });
    let (layers, failure) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(layers), Err)
}

impl Plan {
    fn image(&self, name: Option<&(Reference, Option<Digest>)>, layers: Vec<Option<Extracted>>) -> NewImage {
        let (tag, repo_digest) = match name {
            None => (None, None),
            Some((name, digest)) => (
                name.repo_tag().filter(|_| name.digest().is_none()),
                digest.as_ref().map(|digest| name.repo_digest(digest)),
            ),
        };
        NewImage {
            config: self.config.clone(),
            manifest: self.manifest.clone(),
            size: self.size,
            tag,
            repo_digest,
            artifact: None,
            signatures: Vec::new(),
            pinned: self.pinned,
            layers,
        }
    }
}
