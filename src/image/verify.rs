//! When an image is held against the signature policy: at each pull, before any layer is fetched, and again when a
//! container is made of it, since the policy may have changed, or another namespace's may hold.
//!
//! The second time is without the network: signatures are kept with the image as they were fetched. So they are fetched
//! as soon as any policy of the node may ask for them, not only the one that holds for the pull.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::ImageError;
use super::images::{Images, is_id};
use super::policy::{Demand, PolicyError, PolicyFile, Signature, Why};
use super::reference::Reference;
use super::registry::{Resolved, Source};
use super::store::Image;
use crate::sys;

/// An image in a registry, to be verified.
pub(super) struct Signed<'a> {
    pub(super) reference: &'a Reference,
    pub(super) resolved: &'a Resolved,
    pub(super) policy: &'a Arc<PolicyFile>,
    /// Fetch the signatures whether or not this policy needs them.
    pub(super) keep: bool,
}

impl Images {
    /// Refuses what no signature could save before anything is asked of a registry. Answers the policy that holds, and
    /// whether signatures are to be kept.
    pub(super) async fn admit(
        &self,
        reference: &Reference,
        namespace: Option<&str>,
    ) -> Result<(Arc<PolicyFile>, bool), ImageError> {
        let policy = self.policies.of(namespace)?;
        let ruling = policy.ruling(Some(reference));
        if ruling.demand() == Demand::Nothing {
            policy.decide(&reference.to_string(), &ruling, &[])?;
        }
        let (policies, name) = (Arc::clone(&self.policies), reference.clone());
        let keep = sys::blocking(move || policies.may_ask_for_signatures(&name)).await;
        Ok((policy, keep))
    }

    /// Whether a container of a pod in `namespace` may be made of an image that is here; `asked` is what the pod's author
    /// wrote for it. Without a network, and at the cost of a stat(2) or two where no signature is needed.
    pub async fn verify(&self, image: &Arc<Image>, asked: &str, namespace: &str) -> Result<(), ImageError> {
        let policy = self.policies.of(Some(namespace))?;
        let candidates =
            if is_id(asked) { Ok(Vec::new()) } else { self.registries.in_force().conf().candidates(asked) };
        let names = Names::of(image, candidates.unwrap_or_default());
        let needs_none = |name: Option<&Reference>| {
            let ruling = policy.ruling(name);
            ruling.demand() == Demand::Nothing && policy.decide(asked, &ruling, &[]).is_ok()
        };
        if names.any(needs_none) {
            return Ok(());
        }
        let (image, asked) = (Arc::clone(image), asked.to_owned());
        sys::blocking(move || decide(&policy, &image, &names, &asked)).await
    }
}

/// Whether one of the names makes the image acceptable; if not, why the first does not.
fn decide(policy: &PolicyFile, image: &Image, names: &Names, asked: &str) -> Result<(), ImageError> {
    let called = |name: Option<&Reference>| name.map_or_else(|| asked.to_owned(), ToString::to_string);
    let judge =
        |name: Option<&Reference>| policy.decide(&called(name), &policy.ruling(name), &image.signatures);
    let first = names.first.as_ref();
    match judge(first) {
        Ok(()) => Ok(()),
        Err(_) if names.any(|name| judge(name).is_ok()) => Ok(()),
        Err(error) if lacks_signature(&error) => Err(ImageError::NoSignatureKept(called(first), error)),
        Err(error) => Err(error.into()),
    }
}

fn lacks_signature(error: &PolicyError) -> bool {
    matches!(error, PolicyError::Refused { source, .. } if source.why == Why::NoSignature)
}

/// The names by which an image is judged; one that is accepted is enough, since whoever may use the image by one name may
/// use it.
struct Names {
    /// `None` for an image without any name.
    first: Option<Reference>,
    others: Vec<Reference>,
}

impl Names {
    /// What the pod's author wrote, if the image is known by it or by another name of the same repository (a tag may have
    /// moved on); else, as for an ID, all that it has. A short name is `asked` as all that it may stand for.
    fn of(image: &Image, asked: Vec<Reference>) -> Self {
        let known: BTreeSet<Reference> =
            image.tags.iter().chain(&image.repo_digests).filter_map(|name| name.parse().ok()).collect();
        let is_known = |reference: &Reference| known.iter().any(|name| name.name() == reference.name());
        if let Some(reference) = asked.into_iter().find(is_known) {
            return Self { first: Some(reference), others: Vec::new() };
        }
        let mut known = known.into_iter();
        Self { first: known.next(), others: known.collect() }
    }

    fn any(&self, is_good: impl Fn(Option<&Reference>) -> bool) -> bool {
        is_good(self.first.as_ref()) || self.others.iter().any(|name| is_good(Some(name)))
    }
}

impl Signed<'_> {
    /// Fetches what is attached to the image's manifest, and to the index that led to it, as far as it is needed, and holds
    /// it against the policy. Answers what is to be kept.
    pub(super) async fn verify(&self, source: &Source) -> Result<Vec<Signature>, ImageError> {
        let needed = self.policy.ruling(Some(self.reference)).demand() == Demand::Signatures;
        if !needed && !self.keep {
            return Ok(Vec::new());
        }
        let signatures = match self.fetch(source).await {
            Ok(signatures) => signatures,
            Err(error) if needed => return Err(error),
            Err(error) => {
                tracing::warn!(image = %self.reference, %error, "no signatures are kept, which another policy asks for");
                Vec::new()
            }
        };
        if !needed {
            return Ok(signatures);
        }
        let (policy, reference) = (Arc::clone(self.policy), self.reference.clone());
        sys::blocking(move || {
            let ruling = policy.ruling(Some(&reference));
            policy.decide(&reference.to_string(), &ruling, &signatures)?;
            Ok(signatures)
        })
        .await
    }

    async fn fetch(&self, source: &Source) -> Result<Vec<Signature>, ImageError> {
        let (manifest, index) = (&self.resolved.manifest_digest, &self.resolved.digest);
        let mut signatures = source.signatures(manifest).await?;
        if index != manifest {
            signatures.extend(source.signatures(index).await?);
        }
        Ok(signatures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::Digest;
    use crate::image::store::NewImage;
    use crate::image::store::Store;

    fn names(asked: &str, tags: &[&str], digests: &[String]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), std::time::Duration::ZERO).unwrap();
        let new = |tag: Option<&&str>, digest: Option<&String>| NewImage {
            config: br#"{"rootfs":{"diff_ids":[]}}"#.to_vec(),
            tag: tag.map(|tag| (*tag).to_owned()),
            repo_digest: digest.cloned(),
            ..NewImage::default()
        };
        let all =
            tags.iter().map(|tag| new(Some(tag), None)).chain(digests.iter().map(|d| new(None, Some(d))));
        let mut image = None;
        for new in all.chain([new(None, None)]) {
            image = Some(store.commit_image(&store.stage().unwrap(), new).unwrap());
        }
        let asked = if is_id(asked) { Vec::new() } else { asked.parse().into_iter().collect() };
        let names = Names::of(&image.unwrap(), asked);
        names.first.iter().chain(&names.others).map(ToString::to_string).collect()
    }

    #[test]
    #[allow(clippy::cloned_ref_to_slice_refs)]
    fn an_image_is_judged_by_what_was_asked_for_only_if_it_is_known_by_it() {
        let id = Digest::of(br#"{"rootfs":{"diff_ids":[]}}"#).to_string();
        let digest = format!("r.io/a@{}", Digest::of(b"m"));
        assert_eq!(names("r.io/a:v1", &["r.io/a:v1", "x.io/a:v1"], &[]), ["r.io/a:v1"]);
        assert_eq!(names("r.io/a:moved", &[], &[digest.clone()]), ["r.io/a:moved"]);
        assert_eq!(names("r.io/b:v1", &["r.io/a:v1"], &[digest.clone()]), [digest, "r.io/a:v1".to_owned()]);
        assert_eq!(names(&id, &["r.io/a:v1", "x.io/a:v1"], &[]), ["r.io/a:v1", "x.io/a:v1"]);
        assert!(names("r.io/a:v1", &[], &[]).is_empty());
        assert_eq!(names("", &["r.io/a:v1"], &[]), ["r.io/a:v1"]);
    }
}
