//! An image, in memory and as its record.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::layer::{ChainId, chain_ids};
use super::{NewImage, StoreError};
use crate::image::digest::Digest;
use crate::image::policy::Signature;

/// How many signatures are kept with an image: those of four pulls by a manifest and its index.
const MOST_SIGNATURES: usize = 256;

/// An image whose layers are all here.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// Normalized names with tags, such as `docker.io/library/busybox:1.36`.
    pub tags: BTreeSet<String>,
    /// Normalized names with digests, such as `docker.io/library/busybox@sha256:...`.
    pub repo_digests: BTreeSet<String>,
    /// The compressed layers and the configuration, in bytes.
    pub size: u64,
    /// Its layers, lowest first.
    pub chain: Vec<ChainId>,
    /// The configuration; what it left out has been filled in.
    pub config: ImageConfiguration,
    /// The configuration's own bytes.
    pub raw_config: Vec<u8>,
    /// The bytes of the manifest by which it was pulled last.
    pub raw_manifest: Vec<u8>,
    /// What is attached to the manifests by which it was pulled, where a policy asked for it; not verified.
    pub signatures: Vec<Signature>,
    /// The type of artifact that it is instead of a container image. Its ID is the digest of its manifest then, and its only
    /// layer has its files.
    pub artifact: Option<String>,
    /// Never to be removed by the kubelet's garbage collection.
    pub pinned: bool,
    /// When it was given its last name, in nanoseconds since 1970; decides between two that claim one tag.
    pub named_at: u64,
}

/// An image's file.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    id: Digest,
    tags: BTreeSet<String>,
    repo_digests: BTreeSet<String>,
    size: u64,
    chain: Vec<ChainId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact: Option<String>,
    pinned: bool,
    named_at: u64,
    config: String,
    manifest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    signatures: Vec<Signature>,
}

/// Where an image's record lies.
pub(super) fn path(root: &Path, id: &Digest) -> PathBuf {
    root.join("images").join(file_name(id))
}

/// The name of an image's record.
pub(super) fn file_name(id: &Digest) -> String {
    format!("{}.json", id.hex())
}

impl Image {
    /// The image that a pull brings, with no more names than that pull gave it.
    pub(super) fn new(new: NewImage, named_at: u64) -> Result<Self, StoreError> {
        let config = parse_config(&new.config).map_err(StoreError::Config)?;
        let diff_ids: Vec<Digest> = match new.artifact {
            Some(_) => vec![Digest::of(&new.manifest)],
            None => config.rootfs().diff_ids().iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
        };
        if diff_ids.len() != new.layers.len() {
            return Err(StoreError::LayerCount { listed: diff_ids.len(), given: new.layers.len() });
        }
        Ok(Self {
            id: Digest::of(if new.artifact.is_some() { &new.manifest } else { &new.config }),
            tags: new.tag.into_iter().collect(),
            repo_digests: new.repo_digest.into_iter().collect(),
            size: new.size,
            chain: chain_ids(&diff_ids),
            config,
            raw_config: new.config,
            raw_manifest: new.manifest,
            signatures: new.signatures,
            artifact: new.artifact,
            pinned: new.pinned,
            named_at,
        })
    }

    /// The digests of its layers' tars, lowest first.
    pub fn diff_ids(&self) -> Vec<Digest> {
        if self.artifact.is_some() {
            return vec![self.id.clone()];
        }
        // They were parsed when the image was made or read.
        self.config.rootfs().diff_ids().iter().filter_map(|id| id.parse().ok()).collect()
    }

    pub(super) fn without_name(&self, name: &str) -> Self {
        let mut image = self.clone();
        image.tags.remove(name);
        image.repo_digests.remove(name);
        image
    }

    /// Keeps the signatures that it had before as well, the newest first.
    pub(super) fn keep_signatures(&mut self, before: &[Signature]) {
        for signature in before {
            if self.signatures.len() < MOST_SIGNATURES && !self.signatures.contains(signature) {
                self.signatures.push(signature.clone());
            }
        }
    }

    pub(super) fn to_record(&self) -> Record {
        Record {
            id: self.id.clone(),
            tags: self.tags.clone(),
            repo_digests: self.repo_digests.clone(),
            size: self.size,
            chain: self.chain.clone(),
            artifact: self.artifact.clone(),
            pinned: self.pinned,
            named_at: self.named_at,
            config: STANDARD.encode(&self.raw_config),
            manifest: STANDARD.encode(&self.raw_manifest),
            signatures: self.signatures.clone(),
        }
    }

    /// The image of a record, or what is wrong with it.
    pub(super) fn from_record(record: Record) -> Result<Self, String> {
        let raw_config = STANDARD.decode(&record.config).map_err(|e| format!("its configuration: {e}"))?;
        let raw_manifest = STANDARD.decode(&record.manifest).map_err(|e| format!("its manifest: {e}"))?;
        let named = if record.artifact.is_some() { &raw_manifest } else { &raw_config };
        if Digest::of(named) != record.id {
            return Err("its configuration is not that of its ID".to_owned());
        }
        let config = parse_config(&raw_config).map_err(|e| format!("its configuration: {e}"))?;
        let image = Self {
            id: record.id,
            tags: record.tags,
            repo_digests: record.repo_digests,
            size: record.size,
            chain: record.chain,
            config,
            raw_config,
            raw_manifest,
            signatures: record.signatures,
            artifact: record.artifact,
            pinned: record.pinned,
            named_at: record.named_at,
        };
        match image.chain == chain_ids(&image.diff_ids()) {
            true => Ok(image),
            false => Err("its layers are not those of its configuration".to_owned()),
        }
    }
}

/// Parses a configuration as leniently as real images need: tools leave out required fields or write null for them.
fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, serde_json::Error> {
    let mut config: Map<String, Value> = serde_json::from_slice(bytes)?;
    config.retain(|_, value| !value.is_null());
    // No one here reads the history, so its shape is no reason to refuse an image.
    config.remove("history");
    config.entry("architecture").or_insert_with(|| json!("unknown"));
    config.entry("os").or_insert_with(|| json!("linux"));
    let rootfs = config.entry("rootfs").or_insert_with(|| json!({}));
    if let Some(rootfs) = rootfs.as_object_mut() {
        rootfs.retain(|_, value| !value.is_null());
        rootfs.entry("type").or_insert_with(|| json!("layers"));
        rootfs.entry("diff_ids").or_insert_with(|| json!([]));
    }
    serde_json::from_value(Value::Object(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_configurations_are_read() {
        let config = br#"{"config":{"Env":null,"Cmd":["a"],"OnBuild":null,"Volumes":{"/v":{}}},"history":7,
            "rootfs":{"diff_ids":null},"created":null,"extra":1}"#;
        let config = parse_config(config).unwrap();
        let inner = config.config().as_ref().unwrap();
        assert_eq!(inner.cmd().as_deref(), Some(["a".to_owned()].as_slice()));
        assert_eq!(inner.volumes().as_deref(), Some(["/v".to_owned()].as_slice()));
        assert!(config.rootfs().diff_ids().is_empty());
        assert!(parse_config(b"{}").is_ok());
        assert!(parse_config(b"[]").is_err());
        assert!(parse_config(b"").is_err());
    }

    fn signature(payload: &str) -> Signature {
        Signature { of: Digest::of(b"m"), payload: payload.to_owned(), signature: "AAAA".to_owned() }
    }

    #[test]
    fn signatures_are_recorded_and_kept_over_a_pull_that_asks_for_none() {
        let new = |signatures: &[Signature]| {
            let new =
                NewImage { config: b"{}".to_vec(), signatures: signatures.to_vec(), ..NewImage::default() };
            Image::new(new, 0).unwrap()
        };
        let (one, two) = (signature("one"), signature("two"));
        let signed = new(std::slice::from_ref(&one));
        let text = serde_json::to_string(&signed.to_record()).unwrap();
        assert_eq!(Image::from_record(serde_json::from_str(&text).unwrap()).unwrap(), signed);
        let unsigned = new(&[]);
        let text = serde_json::to_string(&unsigned.to_record()).unwrap();
        assert!(
            !text.contains("signatures"),
            "records of images without signatures are as they were: {text}"
        );
        assert_eq!(Image::from_record(serde_json::from_str(&text).unwrap()).unwrap(), unsigned);

        let mut again = new(&[]);
        again.keep_signatures(&signed.signatures);
        assert_eq!(again.signatures, std::slice::from_ref(&one));
        let mut newer = new(&[two.clone(), one.clone()]);
        newer.keep_signatures(&signed.signatures);
        assert_eq!(newer.signatures, [two.clone(), one]);
        let flood: Vec<_> = (0..2 * MOST_SIGNATURES).map(|n| signature(&n.to_string())).collect();
        newer.keep_signatures(&flood);
        assert_eq!((newer.signatures.len(), &newer.signatures[0]), (MOST_SIGNATURES, &two));
    }
}
