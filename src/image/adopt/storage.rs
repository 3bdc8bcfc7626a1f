//! The images of containers-storage, which CRI-O, podman and skopeo share.
//!
//! ```text
//! <root>/overlay-images/images.json            id, names, top layer of each image
//! <root>/overlay-images/<id>/<key>             manifests and configuration
//! <root>/overlay-layers/layers.json            id, parent, diffID of each layer
//! <root>/overlay-layers/<id>.tar-split.gz      what makes a layer's archive again of its files
//! <root>/overlay/<id>/diff/                    a layer's files
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::AdoptError;
use super::layers::Layer;
use super::{Candidate, Found};
use crate::image::archive::docker::manifest_of;
use crate::image::archive::found::{FoundLayer, LARGEST_DOCUMENT};
use crate::image::digest::Digest;
use crate::image::extract::Compression;
use crate::image::reference::Reference;
use crate::image::registry::manifest::{self, Document};
use crate::image::registry::{LayerDescriptor, MOST_LAYERS, Platform};
use crate::sys::fs;

const IMAGES: &str = "overlay-images";
const LAYERS: &str = "overlay-layers";

/// The list of all images or layers of a node.
const LARGEST_LIST: u64 = 256 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageRecord {
    id: String,
    names: Option<Vec<String>>,
    layer: Option<String>,
    big_data_names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LayerRecord {
    id: String,
    parent: Option<String>,
    diff_digest: Option<Digest>,
    #[serde(default)]
    compressed_size: i64,
    uidmap: Option<Vec<serde::de::IgnoredAny>>,
}

/// Whether there is such a store at `root`.
pub(super) fn is_here(root: &Path) -> bool {
    root.join(IMAGES).join("images.json").is_file()
}

/// containers-storage, as far as it is looked at.
struct Store {
    root: PathBuf,
    layers: HashMap<String, LayerRecord>,
}

/// All images, each with what is wrong with it.
pub(super) fn find(root: &Path) -> Result<Vec<Found>, AdoptError> {
    let images: Vec<ImageRecord> = list(&root.join(IMAGES).join("images.json"))?;
    let layers: Vec<LayerRecord> = list(&root.join(LAYERS).join("layers.json"))?;
    let layers = layers.into_iter().map(|layer| (layer.id.clone(), layer)).collect();
    let store = Store { root: root.to_owned(), layers };
    let named = |image: &ImageRecord| {
        image.names.iter().flatten().next().cloned().unwrap_or_else(|| format!("sha256:{}", image.id))
    };
    Ok(images.iter().map(|image| (named(image), store.candidate(image))).collect())
}

impl Store {
    fn candidate(&self, image: &ImageRecord) -> Result<Candidate, AdoptError> {
        let directory = self.root.join(IMAGES).join(name(&image.id, &self.root)?);
        let bad = |reason: &str| AdoptError::Document { path: directory.clone(), reason: reason.to_owned() };
        let id: Digest = format!("sha256:{}", image.id).parse().map_err(|_| bad("its ID is not a digest"))?;
        let config = document(&directory.join(file_name(id.as_str())))?;
        if Digest::of(&config) != id {
            return Err(bad("its configuration is not that of its ID"));
        }
        let chain = self.chain(image.layer.as_deref())?;
        let diff_ids =
            manifest::diff_ids(&config, chain.len(), &Platform::host()).map_err(|e| bad(&e.to_string()))?;
        let mut layers = Vec::with_capacity(chain.len());
        for (record, diff_id) in chain.into_iter().zip(diff_ids) {
            layers.push(self.layer(record, diff_id)?);
        }
        let manifest = self.manifest(&directory, &config, &mut layers)?;
        let digests = manifest_digests(&directory, image);
        let references = image.names.iter().flatten().filter_map(|name| name.parse::<Reference>().ok());
        let mut names = Vec::new();
        for reference in references {
            // A name with a tag first, so that it is known by it.
            names.extend(reference.digest().is_none().then(|| (reference.clone(), None)));
            names.extend(digests.iter().map(|digest| (reference.clone(), Some(digest.clone()))));
        }
        Ok(Candidate { names, config, manifest, pinned: false, layers })
    }

    /// The layers from the lowest to `top`.
    fn chain(&self, top: Option<&str>) -> Result<Vec<&LayerRecord>, AdoptError> {
        let path = self.root.join(LAYERS);
        let bad = |reason: &str| AdoptError::Document { path: path.clone(), reason: reason.to_owned() };
        let mut chain = Vec::new();
        let mut at = top.filter(|id| !id.is_empty());
        while let Some(id) = at {
            let layer = self.layers.get(id).ok_or_else(|| bad(&format!("layer {id:?} is not listed")))?;
            chain.push(layer);
            if chain.len() > MOST_LAYERS {
                return Err(bad("an image has too many layers"));
            }
            at = layer.parent.as_deref().filter(|id| !id.is_empty());
        }
        chain.reverse();
        Ok(chain)
    }

    fn layer(&self, record: &LayerRecord, diff_id: Digest) -> Result<Layer, AdoptError> {
        let id = name(&record.id, &self.root)?;
        let bad = |reason: &str| AdoptError::Layer { layer: diff_id.to_string(), reason: reason.to_owned() };
        if record.diff_digest.as_ref() != Some(&diff_id) {
            return Err(bad("the image's configuration says another one than the store"));
        }
        if record.uidmap.as_ref().is_some_and(|map| !map.is_empty()) {
            return Err(bad("its files have other owners there (a user namespace)"));
        }
        let tree = self.root.join("overlay").join(id);
        if tree.join("composefs-data").exists() {
            return Err(bad("its files are kept as composefs there"));
        }
        let split = self.root.join(LAYERS).join(format!("{id}.tar-split.gz"));
        Ok(Layer {
            size: u64::try_from(record.compressed_size).unwrap_or(0),
            blob: None,
            tree: Some(tree.join("diff")).filter(|tree| tree.is_dir()),
            split: Some(split).filter(|split| split.is_file()),
            diff_id,
        })
    }

    /// The manifest by which the image came; where it is of another kind, one that says what is here. The layers learn
    /// their compressed size from it.
    fn manifest(&self, directory: &Path, config: &[u8], layers: &mut [Layer]) -> Result<Vec<u8>, AdoptError> {
        let path = directory.join("manifest");
        let raw = if path.exists() { document(&path)? } else { Vec::new() };
        if let Ok(Document::Manifest(manifest)) = Document::parse(&raw, None)
            && manifest.config.digest == Digest::of(config)
            && manifest.layers.len() == layers.len()
        {
            layers.iter_mut().zip(manifest.layers).for_each(|(layer, blob)| layer.size = blob.size);
            return Ok(raw);
        }
        let as_tar = |layer: &Layer| FoundLayer {
            file: String::new(),
            blob: LayerDescriptor {
                digest: layer.diff_id.clone(),
                size: layer.size,
                compression: Compression::None,
            },
            diff_id: layer.diff_id.clone(),
        };
        Ok(manifest_of(config, &layers.iter().map(as_tar).collect::<Vec<_>>()))
    }
}

/// The digests by which the image may be asked for: of its manifest, and of the index that led there.
fn manifest_digests(directory: &Path, image: &ImageRecord) -> Vec<Digest> {
    let keys = image.big_data_names.iter().flatten().filter(|key| key.starts_with("manifest"));
    let mut digests: Vec<Digest> = Vec::new();
    for key in keys {
        let Ok(content) = document(&directory.join(file_name(key))) else { continue };
        let digest = Digest::of(&content);
        let is_named = key.strip_prefix("manifest-").is_none_or(|named| named == digest.as_str());
        if is_named && !digests.contains(&digest) {
            digests.push(digest);
        }
    }
    digests
}

/// An ID that is safe as one component of a path.
fn name<'a>(id: &'a str, root: &Path) -> Result<&'a str, AdoptError> {
    match id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(id),
        false => Err(AdoptError::Document { path: root.to_owned(), reason: format!("{id:?} is not an ID") }),
    }
}

/// The file of a key: the key itself where it is plain, else `=` and its base64.
fn file_name(key: &str) -> String {
    match key.bytes().all(|b| matches!(b, b'.' | b'0'..=b'9' | b'a'..=b'z')) {
        true => key.to_owned(),
        false => format!("={}", STANDARD.encode(key)),
    }
}

fn document(path: &Path) -> Result<Vec<u8>, AdoptError> {
    read(path, LARGEST_DOCUMENT)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, AdoptError> {
    fs::read_bounded(path, limit).map_err(|source| AdoptError::Read { path: path.to_owned(), source })
}

fn list<T: DeserializeOwned>(path: &Path) -> Result<T, AdoptError> {
    let content = read(path, LARGEST_LIST)?;
    serde_json::from_slice(&content)
        .map_err(|e| AdoptError::Document { path: path.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A store of one image with an empty configuration of `diff_ids`, as its lists say.
    fn reasons(id: Option<&str>, top: &str, layers: &Value, diff_ids: &Value) -> String {
        let root = tempfile::tempdir().unwrap();
        let config =
            json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
        let own = Digest::of(config.as_bytes());
        let id = id.unwrap_or(own.hex());
        let images = json!([{ "id": id, "names": ["r.io/a:1"], "layer": top }]).to_string();
        for directory in [IMAGES, LAYERS] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        std::fs::write(root.path().join(IMAGES).join("images.json"), images).unwrap();
        std::fs::write(root.path().join(LAYERS).join("layers.json"), layers.to_string()).unwrap();
        if id.len() == 64 {
            let directory = root.path().join(IMAGES).join(id);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join(file_name(&format!("sha256:{id}"))), config).unwrap();
        }
        match find(root.path()) {
            Err(error) => error.to_string(),
            Ok(mut found) => match found.remove(0).1 {
                Ok(candidate) => format!("{} layers", candidate.layers.len()),
                Err(error) => error.to_string(),
            },
        }
    }

    #[test]
    fn files_have_the_names_that_containers_storage_gives_them() {
        assert_eq!(file_name("manifest"), "manifest");
        assert_eq!(file_name("sha256:0"), "=c2hhMjU2OjA=");
        assert_eq!(file_name("../x"), "=Li4veA==");
    }

    #[test]
    fn stores_that_lie_are_refused() {
        let (one, two, ids) = ("1".repeat(64), "2".repeat(64), json!([]));
        let diff = Digest::of(b"a");
        let layer = |id: &str, parent: &str| json!({ "id": id, "parent": parent, "diff-digest": diff });
        let own = |top: &str, layers: &Value, ids: &Value| reasons(None, top, layers, ids);
        assert_eq!(own("", &json!([]), &ids), "0 layers");
        assert_eq!(own(&one, &json!([layer(&one, "")]), &json!([diff])), "1 layers");
        assert!(reasons(Some("../../etc"), "", &json!([]), &ids).contains("is not an ID"));
        assert!(reasons(Some(&one), "", &json!([]), &ids).contains("not that of its ID"));
        assert!(own(&one, &json!([]), &ids).contains("is not listed"));
        let circle = json!([layer(&one, &two), layer(&two, &one)]);
        assert!(own(&one, &circle, &ids).contains("too many layers"));
        assert!(own(&one, &json!([layer(&one, "")]), &json!([Digest::of(b"b")])).contains("another one"));
        assert!(own(&one, &json!([layer(&one, "")]), &ids).contains("1 layers but the configuration 0"));
        assert!(own("../x", &json!([layer("../x", "")]), &json!([diff])).contains("is not an ID"));
        assert!(own(&one, &json!({}), &ids).contains("cannot be read"));
    }
}
