//! The images of an archive, as far as their documents tell, and which of them are wanted.

use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::registry::LayerDescriptor;

use super::error::ArchiveError;

/// The largest document of an archive (as of a registry).
pub(in crate::image) const LARGEST_DOCUMENT: u64 = 4 << 20;

/// How many images an archive may have.
pub(super) const MOST_IMAGES: usize = 1000;

/// An image of an archive: its documents are read and verified, its layers are not.
#[derive(Debug, Clone)]
pub(in crate::image) struct Found {
    /// Names in normal form, with the digest of what the name stands for where the archive keeps that document.
    pub(in crate::image) names: Vec<(Reference, Option<Digest>)>,
    /// Names that are a tag alone.
    pub(in crate::image) tags: Vec<String>,
    /// What the archive's index points to; `None` where podd has made the manifest.
    pub(in crate::image) digest: Option<Digest>,
    pub(in crate::image) manifest: Vec<u8>,
    pub(in crate::image) config: Vec<u8>,
    pub(in crate::image) layers: Vec<FoundLayer>,
}

/// A layer and where it is.
#[derive(Debug, Clone)]
pub(in crate::image) struct FoundLayer {
    /// The file of the archive.
    pub(in crate::image) file: String,
    pub(in crate::image) blob: LayerDescriptor,
    pub(in crate::image) diff_id: Digest,
}

impl Found {
    fn all_names(&self) -> impl Iterator<Item = String> {
        let names = self.names.iter().map(|(name, _)| name.to_string());
        names.chain(self.tags.iter().cloned())
    }

    fn has(&self, wanted: &Reference) -> bool {
        self.names.iter().any(|(name, _)| name == wanted)
    }

    fn named(mut self, names: &[Reference]) -> Self {
        let digest = self.digest.clone();
        self.names = names.iter().map(|name| (name.clone(), digest.clone())).collect();
        self.tags.clear();
        self
    }
}

/// One image for each that the archive has under several names.
pub(super) fn merge(found: Vec<Found>) -> Vec<Found> {
    let mut merged: Vec<Found> = Vec::new();
    for image in found {
        match merged.iter_mut().find(|other| other.config == image.config && other.digest == image.digest) {
            Some(other) => {
                other.names.extend(image.names);
                other.tags.extend(image.tags);
            }
            None => merged.push(image),
        }
    }
    merged
}

/// The images that the operator wants: all, or those of the names given. A single image takes whatever names are given.
pub(super) fn choose(found: Vec<Found>, wanted: &[Reference]) -> Result<Vec<Found>, ArchiveError> {
    if let Some(name) = wanted.iter().find(|name| name.digest().is_some()) {
        return Err(ArchiveError::NameWithDigest(name.clone()));
    }
    if wanted.is_empty() {
        return Ok(found);
    }
    if found.len() == 1 {
        return Ok(found.into_iter().map(|image| image.named(wanted)).collect());
    }
    let mut chosen: Vec<Found> = Vec::new();
    for name in wanted {
        let by_name = found.iter().find(|image| image.has(name));
        let by_tag =
            || found.iter().find(|image| image.tags.iter().any(|tag| Some(tag.as_str()) == name.tag()));
        let Some(image) = by_name.or_else(by_tag) else {
            let names = found.iter().flat_map(Found::all_names).collect();
            return Err(ArchiveError::NoSuchName { name: name.clone(), names });
        };
        chosen.push(image.clone().named(std::slice::from_ref(name)));
    }
    Ok(merge(chosen))
}
