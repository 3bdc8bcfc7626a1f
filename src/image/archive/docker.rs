//! Archives of `docker save`: `manifest.json` names configurations and layers, in today's or the old layout.
//!
//! Such an archive has no manifest in the sense of OCI, so one is made that says what the archive has: the same archive
//! always gives the same bytes. The image's ID is the digest of its configuration, as everywhere.

use std::io::Read;

use serde::Deserialize;
use serde_json::json;

use super::error::ArchiveError;
use super::found::{Found, FoundLayer, LARGEST_DOCUMENT, MOST_IMAGES};
use super::source::Source;
use crate::image::digest::Digest;
use crate::image::extract::Compression;
use crate::image::reference::Reference;
use crate::image::registry::{LayerDescriptor, MOST_LAYERS, Platform, manifest};

pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// All images of the archive.
pub(super) fn find(source: &Source, platform: &Platform) -> Result<Vec<Found>, ArchiveError> {
    let items = source.read(MANIFEST, LARGEST_DOCUMENT)?;
    let items: Vec<Item> =
        serde_json::from_slice(&items).map_err(|e| ArchiveError::document(MANIFEST, &e))?;
    if items.len() > MOST_IMAGES {
        return Err(ArchiveError::Limit { what: "images", limit: MOST_IMAGES as u64 });
    }
    items.iter().map(|item| image(source, item, platform)).collect()
}

fn image(source: &Source, item: &Item, platform: &Platform) -> Result<Found, ArchiveError> {
    let config = source.read(&item.config, LARGEST_DOCUMENT)?;
    check_name(&item.config, &Digest::of(&config))?;
    let files = item.layers.as_deref().unwrap_or_default();
    if files.len() > MOST_LAYERS {
        return Err(ArchiveError::Limit { what: "layers", limit: MOST_LAYERS as u64 });
    }
    let diff_ids = manifest::diff_ids(&config, files.len(), platform)
        .map_err(|e| ArchiveError::document(&item.config, &e))?;
    let layers = files.iter().zip(diff_ids).map(|(file, diff_id)| layer(source, file, diff_id));
    let layers: Vec<FoundLayer> = layers.collect::<Result<_, _>>()?;
    let mut names = Vec::new();
    for tag in item.repo_tags.iter().flatten() {
        match tag.parse::<Reference>() {
            Ok(name) => names.push((name, None)),
            Err(error) => tracing::warn!(%error, "image of the archive is taken without this name"),
        }
    }
    Ok(Found {
        names,
        tags: Vec::new(),
        digest: None,
        manifest: manifest_of(&config, &layers),
        config,
        layers,
    })
}

/// A configuration's file is named by its digest; where it is, that has to be true.
fn check_name(name: &str, actual: &Digest) -> Result<(), ArchiveError> {
    let stem = name.rsplit('/').next().unwrap_or(name);
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    match format!("sha256:{stem}").parse::<Digest>() {
        Ok(expected) if expected != *actual => {
            Err(ArchiveError::Digest { name: name.to_owned(), expected, actual: actual.clone() })
        }
        _ => Ok(()),
    }
}

/// What a descriptor would say about a layer. A plain tar is what its diffID says, which unpacking verifies.
fn layer(source: &Source, file: &str, diff_id: Digest) -> Result<FoundLayer, ArchiveError> {
    let mut start = Vec::with_capacity(6);
    let section = source.get(file)?;
    let size = section.len();
    section.take(6).read_to_end(&mut start).map_err(ArchiveError::Read)?;
    let fail = |source| ArchiveError::Layer { layer: file.to_owned(), source };
    let compression = Compression::detect(&start).map_err(fail)?.unwrap_or(Compression::None);
    let digest = match compression {
        Compression::None => diff_id.clone(),
        Compression::Gzip | Compression::Zstd => hash(source, file)?,
    };
    Ok(FoundLayer { file: file.to_owned(), blob: LayerDescriptor { digest, size, compression }, diff_id })
}

fn hash(source: &Source, file: &str) -> Result<Digest, ArchiveError> {
    Digest::of_all(source.get(file)?).map_err(ArchiveError::Read)
}

/// An OCI manifest of these.
pub(in crate::image) fn manifest_of(config: &[u8], layers: &[FoundLayer]) -> Vec<u8> {
    let descriptors = layers.iter().map(|layer| {
        let media_type = match layer.blob.compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        json!({ "mediaType": media_type, "digest": layer.blob.digest, "size": layer.blob.size })
    });
    let config_type = "application/vnd.oci.image.config.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": config_type, "digest": Digest::of(config), "size": config.len() },
        "layers": descriptors.collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}
