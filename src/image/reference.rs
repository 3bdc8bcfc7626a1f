//! Image references, normalized as Kubernetes and its tools write them.
//!
//! `busybox` is `docker.io/library/busybox:latest`: the registry defaults to docker.io, a docker.io repository of one
//! component lies in `library/`, and `:latest` is added where neither tag nor digest is given. The grammar is that of
//! the distribution project's references; a value of [`Reference`] always satisfies it, so that its parts are safe in a
//! URL path, and `Display` and `FromStr` are each other's inverse.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, InvalidDigest, excerpt};

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
const DOCKER_HUB_OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_HOST: usize = 255;
const LONGEST_TAG: usize = 128;

/// A normalized image reference: registry, repository, and a tag, a digest or both.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?} is not valid: {reason}")]
pub struct InvalidReference {
    text: String,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("it is empty")]
    Empty,
    #[error("registry {0:?} is not a host name or address with an optional port")]
    Registry(String),
    #[error(
        "repository {0:?} may have only lower-case letters, digits and single separators . _ - / between them"
    )]
    Repository(String),
    #[error("the repository is longer than {LONGEST_REPOSITORY} characters")]
    TooLong,
    #[error("tag {0:?} is not 1 to {LONGEST_TAG} letters, digits, _ . - (and no . or - first)")]
    Tag(String),
    #[error("{0}")]
    Digest(#[from] InvalidDigest),
    #[error("64 hexadecimal digits are an image ID, not a name")]
    ImageId,
}

impl Reference {
    /// The registry, `host` or `host:port`; `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository inside the registry, for instance `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where the reference has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the reference has one. It decides over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `name:tag`, where the reference has a tag.
    pub fn repo_tag(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `name@digest` for the given digest.
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// Whether a text names its registry itself, rather than leaving it to a default.
    pub fn names_registry(text: &str) -> bool {
        text.split_once('/').is_some_and(|(first, _)| looks_like_registry(first))
    }

    fn parse(text: &str) -> Result<Self, Reason> {
        if text.is_empty() {
            return Err(Reason::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(Reason::Tag(excerpt(tag.unwrap_or_default())));
        }
        let (registry, repository) = split_registry(name)?;
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self { registry, repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Separates `:tag`; a colon before the last slash belongs to the registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// Registry and repository, both validated and with the defaults applied.
fn split_registry(name: &str) -> Result<(String, String), Reason> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if looks_like_registry(first) => (first, rest),
        _ => (DOCKER_HUB, name),
    };
    if !is_registry(registry) {
        return Err(Reason::Registry(excerpt(registry)));
    }
    if registry == DOCKER_HUB && is_image_id(repository) {
        return Err(Reason::ImageId);
    }
    let registry = if registry == DOCKER_HUB_LEGACY { DOCKER_HUB } else { registry };
    let prefix = if registry == DOCKER_HUB && !repository.contains('/') { DOCKER_HUB_OFFICIAL } else { "" };
    let repository = format!("{prefix}{repository}");
    if !repository.split('/').all(is_component) {
        return Err(Reason::Repository(excerpt(&repository)));
    }
    if repository.len() > LONGEST_REPOSITORY {
        return Err(Reason::TooLong);
    }
    Ok((registry.to_owned(), repository))
}

/// Whether the first component of a name can only be a registry, as the distribution project decides it.
fn looks_like_registry(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':'])
        || component.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port_is_valid = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port_is_valid;
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    host.len() <= LONGEST_HOST && host.split('.').all(is_host_label) && port.is_none_or(is_port)
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// One path component: runs of `[a-z0-9]`, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let mut after_run = false;
    for byte in component.bytes() {
        if is_alphanumeric(byte) {
            let is_allowed = match separator.as_str() {
                "" => true,
                "." | "_" | "__" => after_run,
                dashes => after_run && dashes.bytes().all(|b| b == b'-'),
            };
            if !is_allowed {
                return false;
            }
            separator.clear();
            after_run = true;
        } else if byte.is_ascii() {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    after_run && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        Self::parse(text).map_err(|reason| InvalidReference { text: excerpt(text), reason })
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

    #[test]
    fn short_names_are_normalized() {
        let digest = format!("sha256:{HEX}");
        let cases = [
            ("busybox".to_owned(), "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36".to_owned(), "docker.io/library/busybox:1.36".to_owned()),
            ("foo.com:8080".to_owned(), "docker.io/library/foo.com:8080".to_owned()),
            ("user/app".to_owned(), "docker.io/user/app:latest".to_owned()),
            ("index.docker.io/app".to_owned(), "docker.io/library/app:latest".to_owned()),
            ("localhost/app".to_owned(), "localhost/app:latest".to_owned()),
            ("Host/app".to_owned(), "Host/app:latest".to_owned()),
            ("127.0.0.1:5000/a/b-c__d".to_owned(), "127.0.0.1:5000/a/b-c__d:latest".to_owned()),
            ("[::1]:5000/app:v1".to_owned(), "[::1]:5000/app:v1".to_owned()),
            (format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (format!("r.io:1/app:v1@{digest}"), format!("r.io:1/app:v1@{digest}")),
        ];
        for (text, normalized) in cases {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), normalized);
        }
    }

    #[test]
    fn the_parts_are_those_of_the_text() {
        let reference: Reference = format!("r.io:5000/a/b:v1@sha256:{HEX}").parse().unwrap();
        assert_eq!(reference.registry(), "r.io:5000");
        assert_eq!(reference.repository(), "a/b");
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(reference.name(), "r.io:5000/a/b");
        assert_eq!(reference.repo_tag().as_deref(), Some("r.io:5000/a/b:v1"));
        let digest = reference.digest().unwrap();
        assert_eq!(digest.hex(), HEX);
        assert_eq!(reference.repo_digest(digest), format!("r.io:5000/a/b@sha256:{HEX}"));
        let by_digest: Reference = format!("app@sha256:{HEX}").parse().unwrap();
        assert_eq!((by_digest.tag(), by_digest.repo_tag()), (None, None));
    }

    #[test]
    fn what_is_not_a_reference_is_refused_with_its_text() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "b".repeat(129));
        let sha512 = format!("a@sha512:{}", "a".repeat(128));
        let bad = [
            "",
            ":tag",
            "@",
            "a:",
            "a@",
            "A",
            "a b",
            "a/../b",
            "/a",
            "a/",
            "a//b",
            "a?x",
            "a#x",
            "a%2fb",
            "a:b:c",
            "r.io:99999/a",
            "r.io:/a",
            "-r.io/a",
            "r..io/a",
            "[::1/a",
            "[zz]/a",
            "a:-t",
            "a_-b",
            "a___b",
            "a..b",
            "http://r.io/a",
            "u:p@r.io/a",
            "a@sha256:00",
            "ä",
            "a\n",
            HEX,
            &long,
            &long_tag,
            &sha512,
        ];
        for text in bad {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.starts_with("image reference "), "{error}");
        }
        let error = sha512.parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains("sha512\" is not supported"), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics_and_what_is_accepted_round_trips(text in ".{0,80}|[aA0.:/@_\\-\\[\\]]{0,24}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let shown = reference.to_string();
                prop_assert_eq!(shown.parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn well_formed_text_is_accepted(
            registry in "(localhost|[a-z]{1,8}\\.io|\\[::1\\])(:[1-9][0-9]{0,3})?",
            repository in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,8}){0,3}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}",
        ) {
            let text = format!("{registry}/{repository}:{tag}");
            prop_assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }
}
