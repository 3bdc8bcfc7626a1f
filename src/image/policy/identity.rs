//! Whether the name in a signature is the one that the policy wants there (`signedIdentity`).
//!
//! A signature says of a manifest under which name it was published. What a name is compared with is the name by which the
//! image is used; where that has a digest, its tag says nothing any more and is dropped.

use crate::image::reference::Reference;

/// What the name in a signature has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignedIdentity {
    /// The very name by which the image is used.
    MatchExact,
    /// The same; for an image by digest, any name in its repository.
    MatchRepoDigestOrExact,
    /// Any name in the image's repository.
    MatchRepository,
    /// This name.
    ExactReference(Reference),
    /// Any name in this repository, given by its full name.
    ExactRepository(String),
    /// As `MatchRepoDigestOrExact`, once the beginning of the image's name is replaced.
    Remap { prefix: String, signed_prefix: String },
}

/// A name as a signature has it, with or without a tag.
struct SignedName {
    /// With the default tag, where the signature gives none.
    reference: Reference,
    is_exact: bool,
}

impl SignedIdentity {
    /// `exactReference`; it needs a tag or a digest.
    pub(super) fn exact_reference(text: &str) -> Result<Self, String> {
        let name = SignedName::parse(text)
            .ok_or_else(|| format!("dockerReference {text:?} is not an image name"))?;
        match name.is_exact {
            true => Ok(Self::ExactReference(name.reference)),
            false => Err(format!("dockerReference {text:?} has neither a tag nor a digest")),
        }
    }

    /// `exactRepository`.
    pub(super) fn exact_repository(text: &str) -> Result<Self, String> {
        let name = SignedName::parse(text)
            .ok_or_else(|| format!("dockerRepository {text:?} is not a repository"))?;
        Ok(Self::ExactRepository(name.reference.name()))
    }

    /// `remapIdentity`.
    pub(super) fn remap(prefix: &str, signed_prefix: &str) -> Result<Self, String> {
        for text in [prefix, signed_prefix] {
            if !is_prefix(text) {
                return Err(format!(
                    "{text:?} is not a host, a namespace or a repository in full, such as \"docker.io/library\""
                ));
            }
        }
        Ok(Self::Remap { prefix: prefix.to_owned(), signed_prefix: signed_prefix.to_owned() })
    }

    /// Whether a signature with that name is good for the image; one that has no name is known to no repository.
    pub(super) fn accepts(&self, image: Option<&Reference>, signed: &str) -> bool {
        let Some(signed) = SignedName::parse(signed) else { return false };
        match self {
            Self::ExactReference(wanted) => signed.is_exact && signed.reference == *wanted,
            Self::ExactRepository(wanted) => signed.reference.name() == *wanted,
            Self::MatchExact => image.is_some_and(|image| signed.is(&as_used(image))),
            Self::MatchRepoDigestOrExact => image.is_some_and(|image| signed.is_of(&as_used(image))),
            Self::MatchRepository => image.is_some_and(|image| signed.reference.name() == image.name()),
            Self::Remap { prefix, signed_prefix } => image
                .and_then(|image| remapped(&as_used(image), prefix, signed_prefix))
                .is_some_and(|image| signed.is_of(&image)),
        }
    }
}

impl SignedName {
    fn parse(text: &str) -> Option<Self> {
        let reference: Reference = text.parse().ok()?;
        let has_tag = text.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/'));
        Some(Self { reference, is_exact: text.contains('@') || has_tag })
    }

    fn is(&self, image: &Reference) -> bool {
        self.is_exact && self.reference == *image
    }

    /// The same name, or for an image by digest the same repository: the digest itself is compared elsewhere.
    fn is_of(&self, image: &Reference) -> bool {
        match image.digest() {
            Some(_) => self.is_exact && self.reference.name() == image.name(),
            None => self.is(image),
        }
    }
}

/// The name without the tag that a digest overrides.
fn as_used(image: &Reference) -> Reference {
    let by_digest = image.digest().and_then(|digest| image.repo_digest(digest).parse().ok());
    by_digest.unwrap_or_else(|| image.clone())
}

/// The image's name with another beginning; the same where it does not begin so; `None` where that gives no name.
fn remapped(image: &Reference, prefix: &str, signed_prefix: &str) -> Option<Reference> {
    let name = image.name();
    let Some(rest) = name.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return Some(image.clone());
    };
    let whole = image.to_string();
    let wanted = format!("{signed_prefix}{rest}{}", &whole[name.len()..]);
    // In full: a name that would be completed is another one.
    wanted.parse().ok().filter(|reference: &Reference| reference.to_string() == wanted)
}

/// A host, namespace or repository in full, without tag and digest.
fn is_prefix(text: &str) -> bool {
    let below = format!("{text}/x");
    let is_full = below.parse::<Reference>().is_ok_and(|reference| reference.name() == below);
    text == "docker.io" || is_full
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

    fn accepts(identity: &SignedIdentity, image: &str, signed: &str) -> bool {
        identity.accepts(Some(&image.parse().unwrap()), signed)
    }

    #[test]
    fn names_are_compared_as_the_requirement_says() {
        let (tag, other, bare) = ("r.io/a:v1", "r.io/a:v2", "r.io/a");
        let by_digest = format!("r.io/a@{DIGEST}");
        let both = format!("r.io/a:v1@{DIGEST}");
        let exact = SignedIdentity::MatchExact;
        let default = SignedIdentity::MatchRepoDigestOrExact;
        let repository = SignedIdentity::MatchRepository;
        let reference = SignedIdentity::exact_reference("r.io/a:v1").unwrap();
        let named = SignedIdentity::exact_repository("r.io/a").unwrap();
        let cases: [(&SignedIdentity, &str, &str, bool); 24] = [
            (&exact, tag, tag, true),
            (&exact, tag, other, false),
            (&exact, tag, bare, false),
            (&exact, &by_digest, tag, false),
            (&exact, &by_digest, &by_digest, true),
            (&exact, &both, &by_digest, true),
            (&exact, &both, tag, false),
            (&default, tag, tag, true),
            (&default, tag, other, false),
            (&default, tag, bare, false),
            (&default, tag, &by_digest, false),
            (&default, &by_digest, tag, true),
            (&default, &both, other, true),
            (&default, &by_digest, bare, false),
            (&default, &by_digest, "r.io/b:v1", false),
            (&repository, tag, bare, true),
            (&repository, tag, other, true),
            (&repository, tag, "r.io/b:v1", false),
            (&reference, "x.io/other:1", tag, true),
            (&reference, tag, other, false),
            (&reference, tag, bare, false),
            (&named, "x.io/other:1", other, true),
            (&named, "x.io/other:1", bare, true),
            (&named, tag, "r.io/a/b", false),
        ];
        for (identity, image, signed, wanted) in cases {
            assert_eq!(accepts(identity, image, signed), wanted, "{identity:?} {image} {signed}");
        }
    }

    #[test]
    fn short_names_in_signatures_are_completed_but_for_the_tag() {
        let default = SignedIdentity::MatchRepoDigestOrExact;
        assert!(accepts(&default, "docker.io/library/busybox:1", "busybox:1"));
        assert!(!accepts(&default, "docker.io/library/busybox:latest", "busybox"));
        for hostile in ["", "r.io/a:", "../a", "r.io/a:v1\n", "\u{202e}", "r.io/a:v1 "] {
            for identity in [&default, &SignedIdentity::MatchRepository, &SignedIdentity::MatchExact] {
                assert!(!accepts(identity, "r.io/a:v1", hostile), "{hostile:?}");
            }
        }
    }

    #[test]
    fn a_remapped_prefix_ends_at_a_slash() {
        let remap = |from: &str, to: &str| SignedIdentity::remap(from, to).unwrap();
        let mirror = remap("mirror.io:5000/vendor", "vendor.com");
        assert!(accepts(&mirror, "mirror.io:5000/vendor/a/b:v1", "vendor.com/a/b:v1"));
        assert!(!accepts(&mirror, "mirror.io:5000/vendor/a/b:v1", "mirror.io:5000/vendor/a/b:v1"));
        assert!(!accepts(&mirror, "mirror.io:5000/vendors/a:v1", "vendor.coms/a:v1"));
        assert!(accepts(&mirror, "other.io/a:v1", "other.io/a:v1"));
        assert!(accepts(&mirror, &format!("mirror.io:5000/vendor/a@{DIGEST}"), "vendor.com/a:v7"));
        assert!(accepts(&remap("docker.io", "r.io"), "busybox:1", "r.io/library/busybox:1"));
        assert!(!accepts(&remap("r.io", "docker.io"), "r.io/busybox:1", "busybox:1"));
        for bad in
            ["busybox", "", "r.io/a:v1", "r.io/a@sha256:00", "r.io/", "R.io/A", "a/b", "index.docker.io"]
        {
            assert!(SignedIdentity::remap(bad, "r.io").is_err(), "{bad}");
            assert!(SignedIdentity::remap("r.io", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_without_a_name_matches_only_what_names_another() {
        let named = SignedIdentity::exact_repository("r.io/a").unwrap();
        assert!(named.accepts(None, "r.io/a:v1"));
        for identity in [
            SignedIdentity::MatchExact,
            SignedIdentity::MatchRepoDigestOrExact,
            SignedIdentity::MatchRepository,
            SignedIdentity::remap("r.io", "s.io").unwrap(),
        ] {
            assert!(!identity.accepts(None, "r.io/a:v1"), "{identity:?}");
        }
    }

    #[test]
    fn values_of_the_policy_are_checked() {
        assert!(SignedIdentity::exact_reference("r.io/a").is_err());
        assert!(SignedIdentity::exact_reference("R/").is_err());
        assert!(SignedIdentity::exact_repository("../a").is_err());
    }
}
