//! OCI image layouts (OCI image-spec, "Image Layout"): `oci-layout`, `index.json` and `blobs/`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::ArchiveError;
use super::found::{Found, FoundLayer, LARGEST_DOCUMENT, MOST_IMAGES};
use super::source::{Source, blob_name};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::registry::Platform;
use crate::image::registry::manifest::{self, Content, Descriptor, Document, InvalidManifest, Manifest};

pub(super) const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";

/// How many indexes may lead from `index.json` to a manifest.
const DEEPEST_INDEX: usize = 2;

/// A full name, as containerd and docker write it.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";
/// A full name or a tag alone.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Descriptor>>,
}

fn name_of(entry: &Descriptor) -> Option<&str> {
    let annotations = entry.annotations.as_ref()?;
    let name = annotations.get(FULL_NAME).or_else(|| annotations.get(REF_NAME))?;
    Some(name.as_str()).filter(|name| !name.is_empty())
}

/// All images of a layout that are for `platform`.
pub(super) fn find(source: &Source, platform: &Platform) -> Result<Vec<Found>, ArchiveError> {
    check_version(source)?;
    let index = source.read(INDEX, LARGEST_DOCUMENT)?;
    let index: Index = serde_json::from_slice(&index).map_err(|e| ArchiveError::document(INDEX, &e))?;
    let entries = index.manifests.unwrap_or_default();
    if entries.len() > MOST_IMAGES {
        return Err(ArchiveError::Limit { what: "images", limit: MOST_IMAGES as u64 });
    }
    let mut found = Vec::new();
    let mut artifact = None;
    for entry in for_platform(&entries, platform)? {
        match image(source, entry, platform)? {
            Ok(image) => found.push(image),
            Err(kind) => artifact = Some(kind),
        }
    }
    match artifact {
        Some(kind) if found.is_empty() => {
            Err(ArchiveError::document(INDEX, &InvalidManifest::Artifact(kind)))
        }
        _ => Ok(found),
    }
}

fn check_version(source: &Source) -> Result<(), ArchiveError> {
    if source.find(LAYOUT)?.is_none() {
        return Ok(());
    }
    let layout = source.read(LAYOUT, LARGEST_DOCUMENT)?;
    let layout: Layout = serde_json::from_slice(&layout).map_err(|e| ArchiveError::document(LAYOUT, &e))?;
    match layout.image_layout_version.starts_with("1.") {
        true => Ok(()),
        false => {
            let reason = format!("layouts of version {:?} are not supported", layout.image_layout_version);
            Err(ArchiveError::document(LAYOUT, &reason))
        }
    }
}

/// The entries to take: of several for one name, by platform, those that run best here. Without a name each is an image
/// of its own, where it has a platform the best.
fn for_platform<'a>(
    entries: &'a [Descriptor],
    platform: &Platform,
) -> Result<Vec<&'a Descriptor>, ArchiveError> {
    let mut by_name: BTreeMap<Option<&str>, Vec<&Descriptor>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.artifact_type.is_none()) {
        by_name.entry(name_of(entry)).or_default().push(entry);
    }
    let mut chosen = Vec::new();
    let mut others = Vec::new();
    for (name, group) in by_name {
        let rank = |entry: &Descriptor| entry.platform.as_ref().map_or(Some(0), |own| platform.rank(own));
        let Some(best) = group.iter().filter_map(|entry| rank(entry)).max() else {
            others.extend(group.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string));
            continue;
        };
        let usable = group.into_iter().filter(|entry| rank(entry) == Some(best) || entry.platform.is_none());
        chosen.extend(usable.take(if name.is_some() { 1 } else { usize::MAX }));
    }
    if chosen.is_empty() && !others.is_empty() {
        let wanted = platform.clone();
        return Err(ArchiveError::document(INDEX, &InvalidManifest::NoPlatform { wanted, offered: others }));
    }
    Ok(chosen)
}

/// The image of an entry, or what else it is.
fn image(
    source: &Source,
    entry: &Descriptor,
    platform: &Platform,
) -> Result<Result<Found, String>, ArchiveError> {
    let content = entry.content("entry of the index").map_err(|e| ArchiveError::document(INDEX, &e))?;
    let (names, tags) = names(entry, &content.digest);
    let found = read(source, content, &entry.media_type, platform)?;
    Ok(found.map(|found| Found { names, tags, ..found }))
}

/// The nameless image of an index or manifest among the blobs of `source`, or what else it is.
pub(in crate::image) fn read(
    source: &Source,
    top: Content,
    media_type: &str,
    platform: &Platform,
) -> Result<Result<Found, String>, ArchiveError> {
    let digest = top.digest.clone();
    let (raw, manifest) = match descend(source, top, media_type, platform) {
        Err(Descent::Artifact(kind)) => return Ok(Err(kind)),
        Err(Descent::Failed(error)) => return Err(error),
        Ok(found) => found,
    };
    let config_name = blob_name(&manifest.config.digest);
    let config = source.blob(&manifest.config.digest, manifest.config.size, LARGEST_DOCUMENT)?;
    let diff_ids = manifest::diff_ids(&config, manifest.layers.len(), platform)
        .map_err(|e| ArchiveError::document(&config_name, &e))?;
    let layers = manifest.layers.into_iter().zip(diff_ids);
    let layers = layers.map(|(blob, diff_id)| FoundLayer { file: blob_name(&blob.digest), blob, diff_id });
    Ok(Ok(Found {
        names: Vec::new(),
        tags: Vec::new(),
        digest: Some(digest),
        manifest: raw,
        config,
        layers: layers.collect(),
    }))
}

enum Descent {
    Artifact(String),
    Failed(ArchiveError),
}

impl From<ArchiveError> for Descent {
    fn from(error: ArchiveError) -> Self {
        Self::Failed(error)
    }
}

/// Follows indexes to the platform's manifest.
fn descend(
    source: &Source,
    mut at: Content,
    media_type: &str,
    platform: &Platform,
) -> Result<(Vec<u8>, Manifest), Descent> {
    let mut media_type = Some(media_type).filter(|text| !text.is_empty());
    for _ in 0..=DEEPEST_INDEX {
        let name = blob_name(&at.digest);
        let body = source.blob(&at.digest, at.size, LARGEST_DOCUMENT)?;
        let invalid = |error| match error {
            InvalidManifest::Artifact(kind) => Descent::Artifact(kind),
            error => Descent::Failed(ArchiveError::document(&name, &error)),
        };
        match Document::parse(&body, media_type.take()).map_err(invalid)? {
            Document::Manifest(Manifest { artifact: Some(artifact), .. }) => {
                return Err(Descent::Artifact(artifact.kind));
            }
            Document::Manifest(manifest) => return Ok((body, manifest)),
            Document::Index(index) => at = index.choose(platform).map_err(invalid)?,
        }
    }
    Err(ArchiveError::document(INDEX, "its indexes are nested too deep").into())
}

/// An entry's name, or its tag alone. A name that is none gives an image without a name.
fn names(entry: &Descriptor, digest: &Digest) -> (Vec<(Reference, Option<Digest>)>, Vec<String>) {
    let Some(name) = name_of(entry) else { return (Vec::new(), Vec::new()) };
    if !name.contains(['/', ':', '@']) {
        return (Vec::new(), vec![name.to_owned()]);
    }
    match name.parse::<Reference>() {
        Ok(reference) => (vec![(reference, Some(digest.clone()))], Vec::new()),
        Err(error) => {
            tracing::warn!(%error, "image of the archive is taken without its name");
            (Vec::new(), Vec::new())
        }
    }
}
