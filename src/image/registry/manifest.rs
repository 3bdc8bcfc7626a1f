//! Manifests, indexes and image configurations: read, told apart, and checked against their limits.
//!
//! Pure functions over bytes whose digest is already verified. A document is what its fields make it; a media type in the
//! body or in the `Content-Type` header that says otherwise is refused, because two readers could then see two images.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::platform::Platform;
use crate::image::digest::Digest;
use crate::image::extract::Compression;

/// The most layers that an image may have.
pub const MOST_LAYERS: usize = 500;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// The annotation that names a blob of an artifact.
const TITLE: &str = "org.opencontainers.image.title";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// The `Accept` header of a request for a manifest.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A layer as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// The digest of the blob, compressed as it is.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// How to read the blob.
    pub compression: Compression,
}

/// A blob of an artifact as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactFile {
    /// Its name, by the annotation `org.opencontainers.image.title`, else by its digest.
    pub title: String,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
}

/// What a manifest describes that is no container image (OCI image-spec, "Guidelines for Artifact Usage").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its type.
    pub kind: String,
    /// Its blobs.
    pub files: Vec<ArtifactFile>,
}

/// A document that podd cannot take an image from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::image) enum InvalidManifest {
    #[error("the manifest is not valid JSON at line {line} column {column}")]
    NotJson { line: usize, column: usize },
    #[error(
        "the image uses Docker's manifest schema 1, which podd does not support: push it again with a newer tool"
    )]
    Schema1,
    #[error("the document has both layers and manifests")]
    Ambiguous,
    #[error("the document is neither a manifest nor an index")]
    Neither,
    #[error("the document is {what} but its media type says {media_type:?}")]
    Confused { what: &'static str, media_type: String },
    #[error("it is an artifact ({0:?}), not a container image")]
    Artifact(String),
    #[error("layer {index} has media type {media_type:?}, which podd does not support")]
    Layer { index: usize, media_type: String },
    #[error("the image has {0} layers, more than {MOST_LAYERS}")]
    TooManyLayers(usize),
    #[error("{what}: {reason}")]
    Descriptor { what: String, reason: String },
    #[error("no entry of the index is for {wanted}; it has {}", list(.offered))]
    NoPlatform { wanted: Platform, offered: Vec<String> },
    #[error("the image configuration is not valid JSON at line {line} column {column}")]
    Config { line: usize, column: usize },
    #[error("the image is for operating system {0:?}")]
    OperatingSystem(String),
    #[error("the manifest has {layers} layers but the configuration {diff_ids} diff_ids")]
    LayerCount { layers: usize, diff_ids: usize },
}

/// A document by its kind.
#[derive(Debug)]
pub(in crate::image) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// An OCI index or a Docker manifest list.
#[derive(Debug)]
pub(in crate::image) struct Index {
    entries: Vec<Descriptor>,
}

/// An OCI or Docker schema 2 manifest of an image.
#[derive(Debug)]
pub(in crate::image) struct Manifest {
    pub(in crate::image) config: Content,
    pub(in crate::image) layers: Vec<LayerDescriptor>,
    /// What it is instead of an image; it has no `layers` then.
    pub(in crate::image) artifact: Option<Artifact>,
}

/// Where some content is to be had, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Content {
    pub(in crate::image) digest: Digest,
    pub(in crate::image) size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<IgnoredAny>,
}

/// A descriptor as it is written; its digest is checked only when it is followed, so that an index may have entries
/// that are nothing to us.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::image) struct Descriptor {
    #[serde(default)]
    pub(in crate::image) media_type: String,
    digest: String,
    size: u64,
    pub(in crate::image) platform: Option<Platform>,
    pub(in crate::image) artifact_type: Option<String>,
    pub(in crate::image) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// What it leads to; `what` it is, for the error.
    pub(in crate::image) fn content(&self, what: impl Into<String>) -> Result<Content, InvalidManifest> {
        match self.digest.parse() {
            Ok(digest) => Ok(Content { digest, size: self.size }),
            Err(e) => Err(InvalidManifest::Descriptor { what: what.into(), reason: e.to_string() }),
        }
    }

    fn artifact_file(&self, index: usize) -> Result<ArtifactFile, InvalidManifest> {
        let Content { digest, size } = self.content(format!("blob {index}"))?;
        let title = self.annotations.as_ref().and_then(|annotations| annotations.get(TITLE)).cloned();
        let title = title.unwrap_or_else(|| format!("sha256-{}", digest.hex()));
        Ok(ArtifactFile { title, digest, size })
    }
}

impl Document {
    /// Reads a document that was served with `content_type`.
    pub(in crate::image) fn parse(body: &[u8], content_type: Option<&str>) -> Result<Self, InvalidManifest> {
        let wire: Wire = serde_json::from_slice(body)
            .map_err(|e| InvalidManifest::NotJson { line: e.line(), column: e.column() })?;
        let is_schema1 = wire.schema_version == Some(1) || wire.fs_layers.is_some();
        if is_schema1 || content_type.is_some_and(|t| t.starts_with(DOCKER_SCHEMA1)) {
            return Err(InvalidManifest::Schema1);
        }
        let is_index = match (&wire.layers, &wire.manifests) {
            (Some(_), Some(_)) => return Err(InvalidManifest::Ambiguous),
            (None, None) => return Err(Self::without_content(&wire)),
            (_, manifests) => manifests.is_some(),
        };
        for media_type in [wire.media_type.as_deref(), content_type.map(essence)].into_iter().flatten() {
            check_media_type(media_type, is_index)?;
        }
        match wire.manifests {
            Some(entries) => Ok(Self::Index(Index { entries })),
            None => Manifest::new(wire).map(Self::Manifest),
        }
    }

    /// An artifact may have no layers at all; say so rather than "neither".
    fn without_content(wire: &Wire) -> InvalidManifest {
        wire.artifact_type.clone().map_or(InvalidManifest::Neither, InvalidManifest::Artifact)
    }
}

impl Index {
    /// The entry that runs best on `platform`; the first of equals. One that names no platform is taken last.
    pub(in crate::image) fn choose(&self, platform: &Platform) -> Result<Content, InvalidManifest> {
        let usable = |entry: &&Descriptor| {
            let is_document = matches!(
                entry.media_type.as_str(),
                OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST | ""
            );
            is_document && entry.artifact_type.is_none()
        };
        let mut best: Option<(u32, &Descriptor)> = None;
        for entry in self.entries.iter().filter(usable) {
            let rank = match &entry.platform {
                Some(own) => platform.rank(own),
                None => Some(0),
            };
            if let Some(rank) = rank
                && best.is_none_or(|(highest, _)| rank > highest)
            {
                best = Some((rank, entry));
            }
        }
        match best {
            Some((_, entry)) => entry.content("entry of the index"),
            None => Err(InvalidManifest::NoPlatform { wanted: platform.clone(), offered: self.platforms() }),
        }
    }

    fn platforms(&self) -> Vec<String> {
        self.entries.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string).collect()
    }
}

impl Manifest {
    fn new(wire: Wire) -> Result<Self, InvalidManifest> {
        let Some(config) = wire.config else {
            return Err(InvalidManifest::Neither);
        };
        let layers = wire.layers.unwrap_or_default();
        if layers.len() > MOST_LAYERS {
            return Err(InvalidManifest::TooManyLayers(layers.len()));
        }
        if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            let files = layers.iter().enumerate().map(|(index, blob)| blob.artifact_file(index));
            let files = files.collect::<Result<_, _>>()?;
            let kind = wire.artifact_type.unwrap_or_else(|| config.media_type.clone());
            let (config, artifact) = (config.content("configuration")?, Some(Artifact { kind, files }));
            return Ok(Self { config, layers: Vec::new(), artifact });
        }
        let layers = layers.iter().enumerate().map(|(index, layer)| {
            let media_type = layer.media_type.clone();
            let compression = compression(&media_type).ok_or(InvalidManifest::Layer { index, media_type })?;
            let Content { digest, size } = layer.content(format!("layer {index}"))?;
            Ok(LayerDescriptor { digest, size, compression })
        });
        let (config, layers) = (config.content("configuration")?, layers.collect::<Result<_, _>>()?);
        Ok(Self { config, layers, artifact: None })
    }
}

/// The layers of an image's manifest; `None` where the document is no such manifest.
pub fn layers_of_manifest(body: &[u8]) -> Option<Vec<LayerDescriptor>> {
    match Document::parse(body, None).ok()? {
        Document::Manifest(manifest) => Some(manifest.layers),
        Document::Index(_) => None,
    }
}

/// The artifact of a manifest; `None` where the document is another one.
pub fn artifact_of_manifest(body: &[u8]) -> Option<Artifact> {
    match Document::parse(body, None).ok()? {
        Document::Manifest(manifest) => manifest.artifact,
        Document::Index(_) => None,
    }
}

/// The diff IDs of a configuration, which must belong to a manifest of `layers` layers.
pub(in crate::image) fn diff_ids(
    config: &[u8],
    layers: usize,
    platform: &Platform,
) -> Result<Vec<Digest>, InvalidManifest> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        os: String,
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        /// Go tools write `null` for the empty list.
        diff_ids: Option<Vec<Digest>>,
    }
    let config: Config = serde_json::from_slice(config)
        .map_err(|e| InvalidManifest::Config { line: e.line(), column: e.column() })?;
    if !config.os.is_empty() && config.os != platform.os {
        return Err(InvalidManifest::OperatingSystem(config.os));
    }
    let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
    match diff_ids.len() == layers {
        true => Ok(diff_ids),
        false => Err(InvalidManifest::LayerCount { layers, diff_ids: diff_ids.len() }),
    }
}

/// Refuses a media type that says index of a manifest or the reverse; one that is not of this field says nothing.
fn check_media_type(media_type: &str, is_index: bool) -> Result<(), InvalidManifest> {
    let says_index = match media_type {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        _ => return Ok(()),
    };
    if says_index == is_index {
        return Ok(());
    }
    let what = if is_index { "an index" } else { "a manifest" };
    Err(InvalidManifest::Confused { what, media_type: media_type.to_owned() })
}

fn compression(media_type: &str) -> Option<Compression> {
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd" => Compression::Zstd,
        "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => return None,
    })
}

/// A `Content-Type` without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn list(platforms: &[String]) -> String {
    match platforms {
        [] => "no platforms".to_owned(),
        some => some.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(document: &Value) -> Result<Document, InvalidManifest> {
        Document::parse(document.to_string().as_bytes(), None)
    }

    fn descriptor(media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": Digest::of(media_type.as_bytes()), "size": 7 })
    }

    fn manifest(layer: &str) -> Value {
        json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [descriptor(layer)] })
    }

    #[test]
    fn layers_are_known_by_their_media_type() {
        for (media_type, wanted) in [
            ("application/vnd.oci.image.layer.v1.tar", Compression::None),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
        ] {
            let Ok(Document::Manifest(manifest)) = parse(&manifest(media_type)) else {
                panic!("{media_type}")
            };
            assert_eq!((manifest.layers[0].compression, manifest.layers[0].size), (wanted, 7));
        }
        for media_type in ["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "text/html"] {
            let error = parse(&manifest(media_type)).unwrap_err();
            assert_eq!(error, InvalidManifest::Layer { index: 0, media_type: media_type.to_owned() });
        }
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(parse(&json!({ "schemaVersion": 1 })).unwrap_err(), InvalidManifest::Schema1);
        assert_eq!(parse(&json!({ "fsLayers": [] })).unwrap_err(), InvalidManifest::Schema1);
        assert_eq!(parse(&json!({ "schemaVersion": 2 })).unwrap_err(), InvalidManifest::Neither);
        let both = json!({ "layers": [], "manifests": [] });
        assert_eq!(parse(&both).unwrap_err(), InvalidManifest::Ambiguous);
        let mut long = manifest(gzip);
        long["layers"] = json!(vec![descriptor(gzip); MOST_LAYERS + 1]);
        assert_eq!(parse(&long).unwrap_err(), InvalidManifest::TooManyLayers(MOST_LAYERS + 1));
        let mut sha512 = manifest(gzip);
        sha512["layers"][0]["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
        assert!(parse(&sha512).unwrap_err().to_string().contains("layer 0: digest algorithm"));
        let mut negative = manifest(gzip);
        negative["layers"][0]["size"] = json!(-1);
        assert!(matches!(parse(&negative).unwrap_err(), InvalidManifest::NotJson { .. }));
    }

    #[test]
    fn what_is_no_image_is_an_artifact_with_named_files() {
        let mut chart = manifest("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
        chart["config"] = descriptor("application/vnd.cncf.helm.config.v1+json");
        chart["layers"].as_array_mut().unwrap().push(descriptor("text/plain"));
        chart["layers"][0]["annotations"] = json!({ TITLE: "chart.tgz", "other": "x" });
        let Ok(Document::Manifest(manifest)) = parse(&chart) else { panic!() };
        let artifact = manifest.artifact.unwrap();
        assert_eq!(artifact.kind, "application/vnd.cncf.helm.config.v1+json");
        assert_eq!(artifact.files[0].title, "chart.tgz");
        assert_eq!(artifact.files[1].title, format!("sha256-{}", Digest::of(b"text/plain").hex()));
        chart["artifactType"] = json!("application/vnd.example");
        let Ok(Document::Manifest(manifest)) = parse(&chart) else { panic!() };
        assert_eq!(
            (manifest.artifact.unwrap().kind.as_str(), manifest.layers.len()),
            ("application/vnd.example", 0)
        );
    }

    #[test]
    fn media_types_that_contradict_the_body_are_refused() {
        let mut confused = manifest("application/vnd.oci.image.layer.v1.tar");
        confused["mediaType"] = json!(OCI_INDEX);
        assert!(matches!(parse(&confused), Err(InvalidManifest::Confused { .. })));
        let index = json!({ "manifests": [] }).to_string();
        for (content_type, accepted) in [
            ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", false),
            ("application/vnd.oci.image.index.v1+json; charset=utf-8", true),
            ("application/json", true),
        ] {
            let parsed = Document::parse(index.as_bytes(), Some(content_type));
            assert_eq!(parsed.is_ok(), accepted, "{content_type}");
        }
    }

    #[test]
    fn the_entry_for_the_platform_is_chosen_past_attestations() {
        let entry = |architecture: &str| {
            let os = if architecture == "unknown" { "unknown" } else { "linux" };
            let mut entry = descriptor(OCI_MANIFEST);
            entry["digest"] = json!(Digest::of(architecture.as_bytes()));
            entry["platform"] = json!({ "os": os, "architecture": architecture });
            entry
        };
        let index = json!({ "manifests": [entry("unknown"), entry("arm64"), entry("amd64")] });
        let Ok(Document::Index(index)) = parse(&index) else { panic!() };
        let wanted = |architecture: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        };
        assert_eq!(index.choose(&wanted("amd64")).unwrap().digest, Digest::of(b"amd64"));
        let error = index.choose(&wanted("s390x")).unwrap_err().to_string();
        assert_eq!(
            error,
            "no entry of the index is for linux/s390x; it has unknown/unknown, linux/arm64, linux/amd64"
        );
    }

    #[test]
    fn diff_ids_must_fit_the_layers() {
        let platform = Platform::host();
        let config = json!({ "os": "linux", "rootfs": { "diff_ids": [Digest::of(b"a")] } }).to_string();
        assert_eq!(diff_ids(config.as_bytes(), 1, &platform).unwrap(), [Digest::of(b"a")]);
        let error = diff_ids(config.as_bytes(), 2, &platform).unwrap_err();
        assert_eq!(error, InvalidManifest::LayerCount { layers: 2, diff_ids: 1 });
        let null = br#"{"rootfs": {"diff_ids": null}}"#;
        assert_eq!(diff_ids(null, 0, &platform).unwrap(), []);
        let windows = br#"{"os": "windows", "rootfs": {"diff_ids": null}}"#;
        assert!(diff_ids(windows, 0, &platform).is_err());
    }
}
