//! From an archive to images in the store.
//!
//! All documents are read and verified before the first layer is unpacked; then each image is put together from its
//! layers, which go through [`extract_layer`]. What the store has is not unpacked again, and need not be in the archive.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ArchiveError;
use super::found::{self, Found, FoundLayer};
use super::progress::Progress;
use super::source::{Section, Source};
use super::{docker, oci};
use crate::image::assemble::{Assembled, LayerMaker, Plan, assemble};
use crate::image::extract::{Extracted, LayerExpectation, Limits, extract_layer};
use crate::image::reference::Reference;
use crate::image::registry::Platform;
use crate::image::store::{Image, Store};

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
    import_source(store, &Source::open(path, store, options.max_spooled_bytes, progress)?, options, progress)
}

/// The same from a file or pipe that is open.
pub fn import_stream(
    store: &Store,
    input: File,
    options: &ImportOptions,
    progress: &Progress,
) -> Result<Vec<Imported>, ArchiveError> {
    import_source(store, &Source::tar(input, store, options.max_spooled_bytes, progress)?, options, progress)
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
        let Assembled { image, made } = assemble(self.store, &self.plan(), self)?;
        let names = self.image.names.iter().map(|(name, _)| name.to_string()).collect();
        Ok(Imported { image, names, unpacked: made })
    }

    fn plan(&self) -> Plan {
        let blobs = self.image.layers.iter().map(|layer| layer.blob.size).sum::<u64>();
        Plan {
            names: self.image.names.clone(),
            config: self.image.config.clone(),
            manifest: self.image.manifest.clone(),
            size: blobs + self.image.config.len() as u64,
            pinned: self.options.pinned,
            diff_ids: self.image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
            parallel: self.options.parallel,
        }
    }
}

impl LayerMaker<ArchiveError> for Job<'_> {
    /// The layers have to be there, and whole, before any work begins.
    fn prepare(&self, missing: &[usize]) -> Result<(), ArchiveError> {
        let mut bytes = 0;
        for layer in missing.iter().map(|&index| &self.image.layers[index]) {
            let (expected, actual) = (layer.blob.size, self.source.get(&layer.file)?.len());
            if expected != actual {
                return Err(ArchiveError::Size { name: layer.file.clone(), expected, actual });
            }
            bytes += expected;
        }
        let layers = self.image.layers.len();
        self.progress.expect(layers as u64, bytes);
        (missing.len()..layers).for_each(|_| self.progress.layer_done());
        Ok(())
    }

    fn make(&self, index: usize, directory: &Path, stop: &AtomicBool) -> Result<Extracted, ArchiveError> {
        let FoundLayer { file, blob, diff_id } = &self.image.layers[index];
        let input = Watched { section: self.source.get(file)?, progress: self.progress, stop };
        let expected =
            LayerExpectation { digest: blob.digest.clone(), size: blob.size, diff_id: diff_id.clone() };
        let extracted = extract_layer(input, blob.compression, &expected, directory, &self.options.limits)
            .map_err(|source| ArchiveError::Layer { layer: file.clone(), source })?;
        self.progress.layer_done();
        Ok(extracted)
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
        if self.stop.load(Ordering::Relaxed) || self.progress.is_stopped() {
            return Err(io::Error::other("another layer has failed, or the import was stopped"));
        }
        let count = self.section.read(buffer)?;
        self.progress.read(count as u64);
        Ok(count)
    }
}
