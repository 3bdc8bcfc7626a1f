//! Takes the layers of one image, each in the way that is there and wanted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::AdoptError;
use super::split::Split;
use super::{Mode, Way, share, tree};
use crate::image::assemble::LayerMaker;
use crate::image::digest::Digest;
use crate::image::extract::{Compression, Extracted, LayerExpectation, Limits, extract_layer};
use crate::image::registry::LayerDescriptor;
use crate::sys::fs;

/// A layer of another store.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) diff_id: Digest,
    /// The size of its compressed blob, as far as it is known.
    pub(super) size: u64,
    /// Its blob, where it was kept.
    pub(super) blob: Option<(PathBuf, LayerDescriptor)>,
    /// Its files.
    pub(super) tree: Option<PathBuf>,
    /// What makes its archive of its files again.
    pub(super) split: Option<PathBuf>,
}

/// The layers of one image under way.
pub(super) struct Taking<'a> {
    pub(super) layers: &'a [Layer],
    /// How files are to be taken; `None` is the cheapest way.
    pub(super) mode: Option<Mode>,
    pub(super) verify: bool,
    pub(super) limits: &'a Limits,
    /// A directory of podd's store.
    pub(super) store: &'a Path,
    /// The ways that were gone; held to add one.
    pub(super) ways: Mutex<Vec<Way>>,
    /// The bytes of the files that were taken.
    pub(super) bytes: AtomicU64,
}

impl Layer {
    /// The way this layer will be taken.
    pub(super) fn way(&self, mode: Option<Mode>, store: &Path) -> Result<Way, AdoptError> {
        let tree = |path: &Path, mode| share::resolve(path, store, mode).map(Way::Tree);
        match (mode, &self.blob, &self.tree) {
            (None | Some(Mode::Copy), Some(_), _) | (_, Some(_), None) => Ok(Way::Blob),
            (Some(Mode::Copy), None, Some(_)) if self.split.is_some() => Ok(Way::Split),
            (_, _, Some(path)) => tree(path, mode),
            (_, None, None) => Err(AdoptError::NoLayer(self.diff_id.clone())),
        }
    }
}

impl LayerMaker<AdoptError> for Taking<'_> {
    fn prepare(&self, missing: &[usize]) -> Result<(), AdoptError> {
        missing.iter().try_for_each(|&index| self.layers[index].way(self.mode, self.store).map(drop))
    }

    fn make(&self, index: usize, directory: &Path, stop: &AtomicBool) -> Result<Extracted, AdoptError> {
        let layer = &self.layers[index];
        let way = layer.way(self.mode, self.store)?;
        let missing = || AdoptError::NoLayer(layer.diff_id.clone());
        let extracted = match way {
            Way::Blob => {
                let (path, blob) = layer.blob.as_ref().ok_or_else(missing)?;
                let input =
                    File::open(path).map_err(|source| AdoptError::Read { path: path.clone(), source })?;
                let (digest, size) = (blob.digest.clone(), blob.size);
                let expected = LayerExpectation { digest, size, diff_id: layer.diff_id.clone() };
                self.unpack(input, blob.compression, &expected, directory, stop)?
            }
            Way::Split => {
                let split = self.split(layer)?;
                let (digest, size) = (layer.diff_id.clone(), split.size());
                let expected = LayerExpectation { digest, size, diff_id: layer.diff_id.clone() };
                self.unpack(split, Compression::None, &expected, directory, stop)?
            }
            Way::Tree(mode) => {
                if self.verify {
                    verify(self.split(layer)?, &layer.diff_id, stop)?;
                }
                let tree = layer.tree.as_deref().ok_or_else(missing)?;
                let manner = tree::Manner { mode, read: self.verify, limits: self.limits };
                tree::take(tree, directory, manner, self.listed(layer)?.as_ref(), stop)?
            }
        };
        self.bytes.fetch_add(extracted.bytes, Ordering::Relaxed);
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).push(way);
        Ok(extracted)
    }
}

impl Taking<'_> {
    /// The directories that the layer's archive lists, where that is known. One that is listed by a path through a link
    /// is not found by that path: then all count as listed.
    fn listed(&self, layer: &Layer) -> Result<Option<BTreeSet<Vec<u8>>>, AdoptError> {
        let (Some(notes), Some(tree)) = (&layer.split, &layer.tree) else { return Ok(None) };
        let fail = |source| AdoptError::Read { path: notes.clone(), source };
        let listed = self.split(layer)?.listed_directories().map_err(fail)?;
        let root = fs::open_directory(tree).map_err(fail)?;
        let is_there = |path: &Vec<u8>| fs::open_directory_beneath(root.as_fd(), path).is_ok();
        Ok(Some(listed).filter(|listed| listed.iter().all(is_there)))
    }

    fn split(&self, layer: &Layer) -> Result<Split, AdoptError> {
        match (&layer.split, &layer.tree) {
            (Some(split), Some(tree)) => Split::open(split, tree),
            _ => Err(AdoptError::Layer {
                layer: layer.diff_id.to_string(),
                reason: "there is nothing that it could be verified by".to_owned(),
            }),
        }
    }

    fn unpack(
        &self,
        input: impl Read + Send,
        compression: Compression,
        expected: &LayerExpectation,
        directory: &Path,
        stop: &AtomicBool,
    ) -> Result<Extracted, AdoptError> {
        extract_layer(Stoppable { input, stop }, compression, expected, directory, self.limits)
            .map_err(|source| AdoptError::Unpack { layer: expected.diff_id.to_string(), source })
    }
}

fn verify(split: Split, expected: &Digest, stop: &AtomicBool) -> Result<(), AdoptError> {
    let fail = |reason: String| AdoptError::Layer { layer: expected.to_string(), reason };
    let input = Stoppable { input: split, stop };
    match Digest::of_all(input).map_err(|e| fail(e.to_string()))? {
        actual if actual == *expected => Ok(()),
        actual => Err(fail(format!("its files are not as they were unpacked: they give {actual}"))),
    }
}

/// Ends when another layer has failed.
struct Stoppable<'a, R> {
    input: R,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(io::Error::other("another layer has failed")),
            false => self.input.read(buffer),
        }
    }
}
