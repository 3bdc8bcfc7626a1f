//! Sigstore signatures of an image, as cosign, skopeo and podman attach them: a manifest in the image's repository, tagged
//! `sha256-<digest>.sig`, with one layer for each signature.
//!
//! Bounded and checked by digest, but not verified: anyone who may push may attach anything.

use std::collections::HashMap;

use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

use super::error::{Context, ErrorKind, RegistryError, Stage};
use super::session::Session;
use super::source::Source;
use crate::image::digest::Digest;
use crate::image::policy::{LARGEST_PAYLOAD, LARGEST_SIGNATURE, Signature};

/// The largest manifest of signatures.
const LARGEST_MANIFEST: usize = 1024 * 1024;
/// The most signatures of one manifest: each time an image is signed adds one.
const MOST_SIGNATURES: usize = 32;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Source {
    /// The signatures that are attached to a manifest or index, none where nothing is. Attachments of other kinds, and
    /// what is too large for a signature, are passed over. A mirror that has none may not have been told of them: the next
    /// endpoint is asked.
    pub async fn signatures(&self, of: &Digest) -> Result<Vec<Signature>, RegistryError> {
        let context = Context::new(Stage::FetchSignatures, self.reference().repo_digest(of));
        let mut round = self.round((0..self.endpoints()).collect(), &context);
        while let Some((index, session)) = round.next().await {
            match session.signatures(of, &context).await {
                Ok(signatures) => return Ok(signatures),
                Err(error) => round.failed(index, error),
            }
        }
        let mut failures = round.failures.values();
        if failures.all(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(Vec::new());
        }
        Err(self.combine(&context, round.failures))
    }
}

impl Session {
    async fn signatures(&self, of: &Digest, context: &Context) -> Result<Vec<Signature>, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST));
        let path = format!("manifests/sha256-{}.sig", of.hex());
        let (_, body) = self.document(&path, &headers, LARGEST_MANIFEST, context).await?;
        let manifest: Manifest = serde_json::from_slice(&body).map_err(|e| context.invalid(e.to_string()))?;
        let layers: Vec<_> = manifest.layers.into_iter().filter(is_signature).collect();
        if layers.len() > MOST_SIGNATURES {
            return Err(context.error(
                ErrorKind::TooLarge,
                format!("{} signatures are attached, more than {MOST_SIGNATURES}", layers.len()),
            ));
        }
        let mut signatures = Vec::with_capacity(layers.len());
        for mut layer in layers {
            let Some(payload) = payload(self, &layer, context).await? else { continue };
            let signature = layer.annotations.remove(ANNOTATION).unwrap_or_default();
            signatures.push(Signature { of: of.clone(), payload, signature });
        }
        Ok(signatures)
    }
}

fn is_signature(layer: &Layer) -> bool {
    layer.media_type == SIGNATURE
        && layer.size <= LARGEST_PAYLOAD as u64
        && layer.annotations.get(ANNOTATION).is_some_and(|signature| signature.len() <= LARGEST_SIGNATURE)
}

/// The signed document; `None` where it is not even text.
async fn payload(
    session: &Session,
    layer: &Layer,
    context: &Context,
) -> Result<Option<String>, RegistryError> {
    let path = format!("blobs/{}", layer.digest);
    let (_, body) = session.document(&path, &HeaderMap::new(), LARGEST_PAYLOAD, context).await?;
    let found = Digest::of(&body);
    if found != layer.digest {
        let detail = format!("the registry sent {found} where {} was expected", layer.digest);
        return Err(context.error(ErrorKind::DigestMismatch, detail));
    }
    Ok(String::from_utf8(body.to_vec()).ok())
}
