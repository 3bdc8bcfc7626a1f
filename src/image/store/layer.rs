//! Layers: their names and what is known of each.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::record::{self, RecordError};

/// The record beside a layer's files.
pub(super) const RECORD: &str = "layer.json";

/// A layer together with all those below it (OCI image-spec, "Layer ChainID").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

impl ChainId {
    /// The hexadecimal digits, the layer's directory.
    pub fn hex(&self) -> &str {
        self.0.hex()
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The chain IDs of layers whose diffIDs are given, lowest first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<ChainId> {
    let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => ChainId(diff_id.clone()),
            Some(below) => ChainId(Digest::of(format!("{below} {diff_id}").as_bytes())),
        });
    }
    chain
}

/// What is known of a layer; kept in its `layer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// What its files take.
    pub bytes: u64,
    /// Its files and directories.
    pub inodes: u64,
    /// Its root is opaque, which overlayfs does not look at: the layers below must be left out.
    #[serde(default)]
    pub hides_below: bool,
}

/// What layers take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// What their files take.
    pub bytes: u64,
    /// Their files and directories.
    pub inodes: u64,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCounts {
    /// Images.
    pub images: usize,
    /// What all layers take.
    pub usage: Usage,
    /// What was discarded and is not deleted yet.
    pub trash: u64,
}

/// Where a layer lies.
pub(super) fn directory(root: &Path, chain: &ChainId) -> PathBuf {
    root.join("layers").join(chain.hex())
}

/// Reads what is known of a layer; `None` when it is not there.
pub(super) fn read(root: &Path, chain: &ChainId) -> Result<Option<LayerInfo>, RecordError> {
    record::read(&directory(root, chain).join(RECORD))
}

/// The same by the layer's directory, with what is wrong as a text.
pub(super) fn read_in(directory: &Path) -> Result<Option<LayerInfo>, String> {
    record::read(&directory.join(RECORD)).map_err(|e| explain(&e))
}

/// An error with its cause.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
