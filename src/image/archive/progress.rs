//! How far an import is, for whoever wants to show it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Figures of an import under way, readable at any time from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    total_bytes: AtomicU64,
    layers: AtomicU64,
    total_layers: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Bytes of layers read so far, as they are in the archive.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of layers to read; grows with each image.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Layers that are unpacked or were here.
    pub fn layers(&self) -> u64 {
        self.layers.load(Ordering::Relaxed)
    }

    /// Layers of the images so far.
    pub fn total_layers(&self) -> u64 {
        self.total_layers.load(Ordering::Relaxed)
    }

    /// Makes the import fail soon.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(in crate::image) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(in crate::image) fn expect(&self, layers: u64, bytes: u64) {
        self.total_layers.fetch_add(layers, Ordering::Relaxed);
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(in crate::image) fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(in crate::image) fn layer_done(&self) {
        self.layers.fetch_add(1, Ordering::Relaxed);
    }
}
