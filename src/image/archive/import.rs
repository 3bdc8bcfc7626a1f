//! From an archive to images in the store.
//!
//! All documents are read and verified before the first layer is unpacked; the layers of an image go through
//! [`extract_layer`] on a few threads, and the image is committed as a pulled one is. What the store has is not unpacked
//! again, and need not be in the archive.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::error::ArchiveError;
use super::found::{self, Found, FoundLayer};
use super::progress::Progress;
use super::source::{Section, Source};
use super::{docker, oci};
use crate::image::digest::Digest;
use crate::image::extract::{ExtractError, Extracted, LayerExpectation, Limits, extract_layer};
use crate::image::reference::Reference;
use crate::image::registry::Platform;
use crate::image::store::{Image, NewImage, Staging, Store, chain_ids};

/// What an archive may take on disk when it has to be decompressed first.
const MOST_SPOOLED: u64 = 256 << 30;

/// How an archive is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Which images of several to take, or what to call a single one; empty: all, by the names in the archive.
    pub names: Vec<Reference>,
    /// Keep the kubelet's garbage collection from them.
    pub pinned: bool,
    /// How many layers are unpacked at a time.
    pub parallel: NonZeroUsize,
    /// What the images are to run on.
    pub platform: Platform,
    /// What a layer may ask for.
    pub limits: Limits,
    /// How many bytes a compressed archive may decompress to.
    pub max_spooled_bytes: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            pinned: false,
            parallel: NonZeroUsize::MIN.saturating_add(1),
            platform: Platform::host(),
            limits: Limits::default(),
            max_spooled_bytes: MOST_SPOOLED,
        }
    }
}

/// An image that was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The image as it is in the store now.
    pub image: Arc<Image>,
    /// The names that the import gave it.
    pub names: Vec<String>,
    /// How many of its layers had to be unpacked.
    pub unpacked: usize,
}

/// Imports the images of an archive in a file, compressed or not, or of an OCI layout in a directory. Blocks.
pub fn import(
    store: &Store,
    path: &Path,
    options: &ImportOptions,
    progress: &Progress,
) -> Result<Vec<Imported>, ArchiveError> {
    import_source(store, &Source::open(path, store, options.max_spooled_bytes)?, options, progress)
}

/// The same from a file or pipe that is open.
pub fn import_stream(
    store: &Store,
    input: File,
    options: &ImportOptions,
    progress: &Progress,
) -> Result<Vec<Imported>, ArchiveError> {
    import_source(store, &Source::tar(input, store, options.max_spooled_bytes)?, options, progress)
}

fn import_source(
    store: &Store,
    source: &Source,
    options: &ImportOptions,
    progress: &Progress,
) -> Result<Vec<Imported>, ArchiveError> {
    let found = if source.find(oci::INDEX)?.is_some() {
        oci::find(source, &options.platform)?
    } else if source.find(docker::MANIFEST)?.is_some() {
        docker::find(source, &options.platform)?
    } else {
        return Err(ArchiveError::NoImages);
    };
    let wanted = found::choose(found::merge(found), &options.names)?;
    if wanted.is_empty() {
        return Err(ArchiveError::NoImages);
    }
    wanted.iter().map(|image| Job { store, source, options, progress, image }.run()).collect()
}

/// One image under way.
struct Job<'a> {
    store: &'a Store,
    source: &'a Source,
    options: &'a ImportOptions,
    progress: &'a Progress,
    image: &'a Found,
}

impl Job<'_> {
    fn run(&self) -> Result<Imported, ArchiveError> {
        let staging = self.store.stage()?;
        let layers = &self.image.layers;
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let chain = chain_ids(&diff_ids);
        let missing: Vec<usize> =
            (0..layers.len()).filter(|&index| staging.reuse(&chain[index]).is_none()).collect();
        for &index in &missing {
            self.check(&layers[index])?;
        }
        let bytes = missing.iter().map(|&index| layers[index].blob.size).sum();
        self.progress.expect(layers.len() as u64, bytes);
        (missing.len()..layers.len()).for_each(|_| self.progress.layer_done());
        let extracted = self.unpack(&staging, &missing)?;
        let image = self.commit(&staging, extracted)?;
        for id in &chain {
            // Kept by the image from here on; the further names need them.
            let _ = staging.reuse(id);
        }
        let image = self.name(&staging, image)?;
        let names = self.image.names.iter().map(|(name, _)| name.to_string()).collect();
        Ok(Imported { image, names, unpacked: missing.len() })
    }

    /// A layer has to be there, and whole, before any work begins.
    fn check(&self, layer: &FoundLayer) -> Result<(), ArchiveError> {
        let (expected, actual) = (layer.blob.size, self.source.get(&layer.file)?.len());
        match expected == actual {
            true => Ok(()),
            false => Err(ArchiveError::Size { name: layer.file.clone(), expected, actual }),
        }
    }

    /// Unpacks the layers of these indexes; the first failure stops the others.
    fn unpack(&self, staging: &Staging, missing: &[usize]) -> Result<Vec<Option<Extracted>>, ArchiveError> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        // Held to store one result.
        let results = Mutex::new((vec![None; self.image.layers.len()], None));
        let work = || {
            while let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let unpacked = self.layer(staging, index, &stop);
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                match unpacked {
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
            for _ in 1..self.options.parallel.get().min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        let (extracted, failure) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(extracted), Err)
    }

    fn layer(&self, staging: &Staging, index: usize, stop: &AtomicBool) -> Result<Extracted, ArchiveError> {
        let FoundLayer { file, blob, diff_id } = &self.image.layers[index];
        let input = Watched { section: self.source.get(file)?, progress: self.progress, stop };
        let expected =
            LayerExpectation { digest: blob.digest.clone(), size: blob.size, diff_id: diff_id.clone() };
        let directory = staging.layer(index);
        let extracted =
            extract_layer(input, blob.compression, &expected, &directory, &self.options.limits)
                .map_err(|source: ExtractError| ArchiveError::Layer { layer: file.clone(), source })?;
        self.progress.layer_done();
        Ok(extracted)
    }

    fn commit(&self, staging: &Staging, layers: Vec<Option<Extracted>>) -> Result<Arc<Image>, ArchiveError> {
        let name = self.image.names.first();
        Ok(self.store.commit_image(staging, self.new_image(name, layers))?)
    }

    /// Gives the image its further names.
    fn name(&self, staging: &Staging, mut image: Arc<Image>) -> Result<Arc<Image>, ArchiveError> {
        for name in self.image.names.iter().skip(1) {
            let layers = vec![None; self.image.layers.len()];
            image = self.store.commit_image(staging, self.new_image(Some(name), layers))?;
        }
        Ok(image)
    }

    fn new_image(
        &self,
        name: Option<&(Reference, Option<Digest>)>,
        layers: Vec<Option<Extracted>>,
    ) -> NewImage {
        let blobs = self.image.layers.iter().map(|layer| layer.blob.size).sum::<u64>();
        let repo_digest = |(name, digest): &(Reference, Option<Digest>)| {
            digest.as_ref().map(|digest| name.repo_digest(digest))
        };
        NewImage {
            config: self.image.config.clone(),
            manifest: self.image.manifest.clone(),
            size: blobs + self.image.config.len() as u64,
            tag: name.filter(|(name, _)| name.digest().is_none()).and_then(|(name, _)| name.repo_tag()),
            repo_digest: name.and_then(repo_digest),
            pinned: self.options.pinned,
            layers,
        }
    }
}

/// A layer's bytes, counted, until another layer has failed.
struct Watched<'a> {
    section: Section,
    progress: &'a Progress,
    stop: &'a AtomicBool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("another layer has failed"));
        }
        let count = self.section.read(buffer)?;
        self.progress.read(count as u64);
        Ok(count)
    }
}
