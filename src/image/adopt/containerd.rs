//! The images of containerd: names and snapshots from its databases, documents and layers from its content store.
//!
//! ```text
//! <root>/io.containerd.metadata.v1.bolt/meta.db
//!     v1/k8s.io/images/<name>/target/{digest,mediatype,size}, .../labels/<key>
//!     v1/k8s.io/snapshots/overlayfs/<chain ID>/name = key in the snapshotter
//! <root>/io.containerd.content.v1.content/blobs/sha256/<digest>       as in an OCI layout
//! <root>/io.containerd.snapshotter.v1.overlayfs/metadata.db
//!     v1/snapshots/<key>/id
//! <root>/io.containerd.snapshotter.v1.overlayfs/snapshots/<id>/fs/    a layer's files
//! ```

use std::path::{Path, PathBuf};

use super::bolt::{Bolt, Bucket, Value};
use super::error::AdoptError;
use super::layers::Layer;
use super::{Candidate, Found};
use crate::image::archive::oci;
use crate::image::archive::source::Source;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::registry::Platform;
use crate::image::registry::manifest::Content;
use crate::image::store::chain_ids;
use crate::sys::fs;

const METADATA: &str = "io.containerd.metadata.v1.bolt/meta.db";
const CONTENT: &str = "io.containerd.content.v1.content";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.overlayfs";
const NAMESPACE: &str = "k8s.io";
const PINNED: &str = "io.cri-containerd.pinned";

/// Whether containerd has a store at `root`.
pub(super) fn is_here(root: &Path) -> bool {
    root.join(METADATA).is_file()
}

/// An image's record.
struct Record {
    name: String,
    target: Content,
    media_type: String,
    pinned: bool,
}

/// containerd's store, as far as it is looked at.
struct Store {
    root: PathBuf,
    metadata: Bolt,
    snapshots: Option<Bolt>,
    content: Source,
}

/// All images of the Kubernetes namespace, each with what is wrong with it.
pub(super) fn find(root: &Path) -> Result<Vec<Found>, AdoptError> {
    let content = root.join(CONTENT);
    let content =
        fs::open_directory(&content).map_err(|source| AdoptError::Read { path: content, source })?;
    let snapshots = root.join(SNAPSHOTTER).join("metadata.db");
    let store = Store {
        root: root.to_owned(),
        metadata: Bolt::read(&root.join(METADATA))?,
        snapshots: if snapshots.exists() { Some(Bolt::read(&snapshots)?) } else { None },
        content: Source::Directory(content),
    };
    let broken = |reason| AdoptError::Database { path: root.join(METADATA), reason };
    let mut found = Vec::new();
    for record in store.records().map_err(broken)? {
        let name = record.name.clone();
        found.push((name, store.candidate(&record)));
    }
    Ok(found)
}

impl Store {
    fn records(&self) -> Result<Vec<Record>, &'static str> {
        let Some(images) = self.metadata.root()?.bucket(&["v1", NAMESPACE, "images"])? else {
            return Ok(Vec::new());
        };
        let mut records = Vec::new();
        for (name, value) in images.entries()? {
            let Value::Bucket(image) = value else { continue };
            let name = String::from_utf8_lossy(name).into_owned();
            if let Some(record) = record(name, image)? {
                records.push(record);
            }
        }
        Ok(records)
    }

    fn candidate(&self, record: &Record) -> Result<Candidate, AdoptError> {
        let target = record.target.clone();
        let platform = Platform::host();
        let found =
            oci::read(&self.content, target, &record.media_type, &platform)?.map_err(AdoptError::Artifact)?;
        let diff_ids: Vec<Digest> = found.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let mut layers = Vec::new();
        for (layer, chain) in found.layers.into_iter().zip(chain_ids(&diff_ids)) {
            let blob = self.root.join(CONTENT).join(&layer.file);
            let tree = self.snapshot(&chain.to_string())?;
            layers.push(Layer {
                diff_id: layer.diff_id,
                size: layer.blob.size,
                blob: blob.is_file().then_some((blob, layer.blob)),
                tree,
                split: None,
            });
        }
        // CRI keeps a record by image ID besides those by name.
        let name = record.name.parse::<Reference>().ok();
        let names = name.into_iter().map(|name| (name, Some(record.target.digest.clone()))).collect();
        let (manifest, config) = (found.manifest, found.config);
        Ok(Candidate { names, config, manifest, pinned: record.pinned, layers })
    }

    /// The files of the snapshot of a chain ID.
    fn snapshot(&self, chain: &str) -> Result<Option<PathBuf>, AdoptError> {
        let Some(snapshots) = &self.snapshots else { return Ok(None) };
        let broken = |reason| AdoptError::Database { path: self.root.join(SNAPSHOTTER), reason };
        let id = (|| {
            let path = ["v1", NAMESPACE, "snapshots", "overlayfs", chain];
            let Some(named) = self.metadata.root()?.bucket(&path)? else { return Ok(None) };
            let Some(key) = named.bytes("name")? else { return Ok(None) };
            let Ok(key) = std::str::from_utf8(key) else { return Ok(None) };
            let Some(snapshot) = snapshots.root()?.bucket(&["v1", "snapshots", key])? else {
                return Ok(None);
            };
            Ok(snapshot.bytes("id")?.and_then(uvarint))
        })();
        let tree = |id: u64| self.root.join(SNAPSHOTTER).join("snapshots").join(id.to_string()).join("fs");
        Ok(id.map_err(broken)?.map(tree).filter(|tree| tree.is_dir()))
    }
}

fn record(name: String, image: Bucket<'_>) -> Result<Option<Record>, &'static str> {
    let Some(target) = image.bucket(&["target"])? else { return Ok(None) };
    let text = |key| -> Result<String, &'static str> {
        Ok(String::from_utf8_lossy(target.bytes(key)?.unwrap_or_default()).into_owned())
    };
    let Ok(digest) = text("digest")?.parse::<Digest>() else { return Ok(None) };
    let size = target.bytes("size")?.and_then(varint).and_then(|size| u64::try_from(size).ok());
    let Some(size) = size else { return Ok(None) };
    let pinned = match image.bucket(&["labels"])? {
        Some(labels) => labels.bytes(PINNED)?.is_some_and(|value| value == b"pinned"),
        None => false,
    };
    Ok(Some(Record { name, target: Content { digest, size }, media_type: text("mediatype")?, pinned }))
}

/// A number as Go's `binary.PutUvarint` writes it.
fn uvarint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        value |= bits.checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The same with a sign (`binary.PutVarint`).
fn varint(bytes: &[u8]) -> Option<i64> {
    let value = uvarint(bytes)?;
    let half = (value >> 1).cast_signed();
    Some(if value & 1 == 1 { !half } else { half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_writes_them() {
        assert_eq!(uvarint(&[0x7f]), Some(127));
        assert_eq!(uvarint(&[0xac, 0x02]), Some(300));
        assert_eq!(uvarint(&[0x80]), None);
        assert_eq!(uvarint(&[0xff; 11]), None);
        assert_eq!(varint(&[0xd8, 0x04]), Some(300));
        assert_eq!(varint(&[0x01]), Some(-1));
        assert_eq!(uvarint(&[]), None);
    }
}
