//! From a reference to an image: index, manifest and configuration, each verified before it is read.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::Known;
use super::error::{Context, ErrorKind, RegistryError, Stage};
use super::manifest::{self, ACCEPT, Artifact, Content, Document, LayerDescriptor, Manifest};
use super::platform::Platform;
use super::session::Session;
use crate::image::digest::Digest;

/// The largest manifest or index (the distribution specification asks registries for 4 MiB).
const LARGEST_MANIFEST: usize = 4 * 1024 * 1024;
/// The largest image configuration.
const LARGEST_CONFIG: usize = 4 * 1024 * 1024;
/// How many indexes may lead to a manifest.
const DEEPEST_INDEX: usize = 2;

/// An image as the registry serves it for one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The digest of what the reference names, an index or a manifest: the image's RepoDigest.
    pub digest: Digest,
    /// The digest of the manifest that was chosen; the same as `digest` where no index was served.
    pub manifest_digest: Digest,
    /// The manifest as it was served.
    pub manifest: Bytes,
    /// The digest of the configuration: the image's ID.
    pub config_digest: Digest,
    /// The configuration as it was served.
    pub config: Bytes,
    /// What it is instead of a container image. Its ID is the manifest's digest then; it has neither layers nor configuration.
    pub artifact: Option<Artifact>,
    /// The layers, the base first.
    pub layers: Vec<LayerDescriptor>,
    /// The digests of the layers' uncompressed tars, as many as `layers`.
    pub diff_ids: Vec<Digest>,
}

/// A document and what it was verified to be.
struct Verified {
    digest: Digest,
    body: Bytes,
    document: Document,
}

impl Session {
    pub(super) async fn resolve(
        &self,
        platform: &Platform,
        known: &Known<'_>,
    ) -> Result<Resolved, RegistryError> {
        let context = Context::new(Stage::ResolveManifest, self.reference.to_string());
        let top = self.named_document(&context).await?;
        let digest = top.digest.clone();
        let (manifest_digest, body, manifest) = self.descend(top, platform, &context).await?;
        if manifest.artifact.is_some() {
            return Ok(Resolved {
                digest,
                config_digest: manifest_digest.clone(),
                manifest_digest,
                manifest: body,
                config: Bytes::from_static(b"{}"),
                artifact: manifest.artifact,
                layers: Vec::new(),
                diff_ids: Vec::new(),
            });
        }
        let config = match known(&manifest.config.digest) {
            Some(config) => config,
            None => self.config(&manifest.config).await?,
        };
        let diff_ids = manifest::diff_ids(&config, manifest.layers.len(), platform)
            .map_err(|e| context.at(Stage::FetchConfig).invalid(e.to_string()))?;
        Ok(Resolved {
            digest,
            manifest_digest,
            manifest: body,
            config_digest: manifest.config.digest,
            config,
            artifact: None,
            layers: manifest.layers,
            diff_ids,
        })
    }

    /// What the reference's digest or tag names.
    async fn named_document(&self, context: &Context) -> Result<Verified, RegistryError> {
        match (self.endpoint.reference.digest(), self.endpoint.reference.tag()) {
            (Some(digest), _) => self.manifest_document(digest.as_str(), Some(digest), context).await,
            (None, tag) => self.manifest_document(tag.unwrap_or("latest"), None, context).await,
        }
    }

    /// Follows indexes to the platform's manifest.
    async fn descend(
        &self,
        top: Verified,
        platform: &Platform,
        context: &Context,
    ) -> Result<(Digest, Bytes, Manifest), RegistryError> {
        let mut at = top;
        let mut depth = 0;
        loop {
            let index = match at.document {
                Document::Manifest(manifest) => return Ok((at.digest, at.body, manifest)),
                Document::Index(index) => index,
            };
            depth += 1;
            if depth > DEEPEST_INDEX {
                return Err(context.invalid(format!("more than {DEEPEST_INDEX} indexes inside each other")));
            }
            let entry = index.choose(platform).map_err(|e| context.invalid(e.to_string()))?;
            at = self.manifest_document(entry.digest.as_str(), Some(&entry.digest), context).await?;
            check_size(&entry, &at.body, context)?;
        }
    }

    async fn manifest_document(
        &self,
        name: &str,
        wanted: Option<&Digest>,
        context: &Context,
    ) -> Result<Verified, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
        let path = format!("manifests/{name}");
        let (answered, body) = self.document(&path, &headers, LARGEST_MANIFEST, context).await?;
        let digest = Digest::of(&body);
        let claimed = text(&answered, "docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        for expected in wanted.into_iter().chain(&claimed) {
            check_digest(expected, &digest, context)?;
        }
        let document = Document::parse(&body, text(&answered, "content-type"))
            .map_err(|e| context.invalid(e.to_string()))?;
        Ok(Verified { digest, body, document })
    }

    async fn config(&self, content: &Content) -> Result<Bytes, RegistryError> {
        let object = format!("{} of {}", content.digest, self.reference);
        let context = Context::new(Stage::FetchConfig, object);
        if content.size > LARGEST_CONFIG as u64 {
            return Err(context.error(ErrorKind::TooLarge, format!("more than {LARGEST_CONFIG} bytes")));
        }
        let path = format!("blobs/{}", content.digest);
        let (_, body) = self.document(&path, &HeaderMap::new(), LARGEST_CONFIG, &context).await?;
        check_size(content, &body, &context)?;
        check_digest(&content.digest, &Digest::of(&body), &context)?;
        Ok(body)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn check_digest(expected: &Digest, found: &Digest, context: &Context) -> Result<(), RegistryError> {
    match expected == found {
        true => Ok(()),
        false => Err(context.error(
            ErrorKind::DigestMismatch,
            format!("the registry sent {found} where {expected} was expected"),
        )),
    }
}

fn check_size(expected: &Content, body: &[u8], context: &Context) -> Result<(), RegistryError> {
    match body.len() as u64 == expected.size {
        true => Ok(()),
        false => Err(context.invalid(format!("{} bytes instead of {}", body.len(), expected.size))),
    }
}
