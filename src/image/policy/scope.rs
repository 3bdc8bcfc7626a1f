//! Which part of a policy decides about an image: the most specific scope that names it.
//!
//! For `r.example.com:5000/a/b:v1` these are tried in turn: the image with its tag (or its digest, which decides over a
//! tag), `r.example.com:5000/a/b`, `r.example.com:5000/a`, `r.example.com:5000`, `*.example.com`, `*.com`, the default of
//! the transport (`""`), the default of all. The others are ignored, whatever they say.

use std::fmt;

use super::{Policy, Requirement};
use crate::image::reference::Reference;

/// The place in the policy that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// `transports.docker[...]`; empty for that transport's default.
    Docker(&'a str),
    /// `default`.
    Default,
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(scope) => write!(f, "docker {scope:?}"),
            Self::Default => f.write_str("\"default\""),
        }
    }
}

impl Policy {
    pub(super) fn lookup(&self, image: Option<&Reference>) -> (Scope<'_>, &[Requirement]) {
        let mut candidates = image.map(candidates).unwrap_or_default();
        candidates.push(String::new());
        for candidate in &candidates {
            if let Some((scope, requirements)) = self.docker.get_key_value(candidate) {
                return (Scope::Docker(scope), requirements);
            }
        }
        (Scope::Default, &self.default)
    }
}

/// The scopes that name an image, the most specific first.
fn candidates(image: &Reference) -> Vec<String> {
    let name = image.name();
    let mut scopes = vec![match (image.digest(), image.tag()) {
        (Some(digest), _) => image.repo_digest(digest),
        (None, tag) => format!("{name}:{}", tag.unwrap_or_default()),
    }];
    let mut rest = name.as_str();
    scopes.push(rest.to_owned());
    while let Some((parent, _)) = rest.rsplit_once('/') {
        scopes.push(parent.to_owned());
        rest = parent;
    }
    // Wildcards stand for host names, so without a port; an IPv6 address has no parts to stand for.
    let mut host = rest.split_once(':').map_or(rest, |(host, _)| host);
    while let Some((_, parent)) = host.split_once('.') {
        scopes.push(format!("*.{parent}"));
        host = parent;
    }
    scopes
}

/// Whether a scope can name any image: one that cannot would be ignored in silence, and the policy not be what it seems.
pub(super) fn check(scope: &str) -> Result<(), String> {
    let host = scope.strip_prefix("*.").unwrap_or(scope);
    let refused = |why: &str| Err(format!("scope {scope:?} can never match: {why}"));
    if host.contains('*') {
        return refused("* stands only for all sub-domains, as in \"*.example.com\"");
    }
    if host.len() < scope.len() && host.contains(['/', ':', '@']) {
        return refused("after * there may be nothing but a domain, without port and path");
    }
    if scope.contains("//") || scope.starts_with('/') || scope.ends_with('/') {
        return refused(
            "it has to be a host, a namespace, a repository or an image, such as \"docker.io/library\"",
        );
    }
    if scope.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return refused("it has white space in it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

    fn policy(scopes: &[&str]) -> Policy {
        let docker = scopes.iter().map(|scope| ((*scope).to_owned(), vec![Requirement::Reject])).collect();
        Policy { default: vec![Requirement::AcceptAnything], docker }
    }

    fn deciding(scopes: &[&str], image: &str) -> String {
        let (policy, image) = (policy(scopes), image.parse::<Reference>().unwrap());
        policy.lookup(Some(&image)).0.to_string()
    }

    #[test]
    fn the_most_specific_scope_decides() {
        let all = [
            "",
            "*.com",
            "*.example.com",
            "r.example.com:5000",
            "r.example.com:5000/a",
            "r.example.com:5000/a/b",
            "r.example.com:5000/a/b:v1",
        ];
        for length in (1..=all.len()).rev() {
            let wanted = format!("docker {:?}", all[length - 1]);
            assert_eq!(deciding(&all[..length], "r.example.com:5000/a/b:v1"), wanted);
        }
        assert_eq!(deciding(&[], "r.example.com:5000/a/b:v1"), "\"default\"");
    }

    #[test]
    fn parts_of_words_other_hosts_ports_and_tags_do_not_match() {
        let scopes = [
            "r.example.com:5000/a/bb",
            "r.example.com:5000/aa",
            "r.example.com",
            "r.example.com:50",
            "*.r.example.com",
            "*.ple.com",
            "example.com",
            "a",
            "a/b",
            "r.example.com:5000/a/b:v",
            "r.example.com:5000/a/b:v11",
        ];
        assert_eq!(deciding(&scopes, "r.example.com:5000/a/b:v1"), "\"default\"");
    }

    #[test]
    fn names_are_matched_in_full_and_a_digest_decides_over_a_tag() {
        assert_eq!(
            deciding(&["docker.io/library/busybox:latest"], "busybox"),
            "docker \"docker.io/library/busybox:latest\""
        );
        assert_eq!(deciding(&["busybox", "library"], "busybox"), "\"default\"");
        let (digest, tag) = (format!("r.io/a@sha256:{HEX}"), "r.io/a:v1");
        assert_eq!(
            deciding(&[&digest, tag], &format!("r.io/a:v1@sha256:{HEX}")),
            format!("docker {digest:?}")
        );
        assert_eq!(deciding(&[tag], &format!("r.io/a:v1@sha256:{HEX}")), "\"default\"");
        assert_eq!(deciding(&["*.0.0.1"], "127.0.0.1:5000/a"), "docker \"*.0.0.1\"");
        assert_eq!(deciding(&["[::1]:5000"], "[::1]:5000/a"), "docker \"[::1]:5000\"");
        assert_eq!(policy(&[""]).lookup(None).0, Scope::Docker(""));
    }

    #[test]
    fn scopes_that_can_never_match_are_refused() {
        for good in ["r.io", "localhost:5000/a", "*.example.com", "docker.io/library/busybox:1", "[::1]:5000"]
        {
            check(good).unwrap();
        }
        for bad in [
            "*",
            "a*.com",
            "*.a.*.com",
            "*.a.com:5000",
            "*.a.com/b",
            "https://r.io",
            "/a",
            "r.io/",
            "r.io /a",
        ] {
            assert!(check(bad).unwrap_err().contains("can never match"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_longer_path_always_wins_over_what_it_is_below(
            host in "[a-z]{1,4}(\\.[a-z]{1,3}){1,2}(:[1-9][0-9]{0,2})?",
            path in proptest::collection::vec("[a-z]{1,3}", 1..5),
            tag in "[a-z]{1,3}",
            present in proptest::collection::vec(any::<bool>(), 7),
        ) {
            let mut chain: Vec<String> = vec![host];
            for part in &path {
                chain.push(format!("{}/{part}", chain.last().unwrap()));
            }
            let image = format!("{}:{tag}", chain.last().unwrap());
            chain.push(image.clone());
            let listed: Vec<&str> =
                chain.iter().zip(&present).filter(|(_, present)| **present).map(|(scope, _)| scope.as_str()).collect();
            let wanted = listed.last().map_or("\"default\"".to_owned(), |scope| format!("docker {scope:?}"));
            prop_assert_eq!(deciding(&listed, &image), wanted);
        }

        #[test]
        fn what_decides_names_the_image_or_a_parent_of_it(
            scopes in proptest::collection::vec("(\\*\\.)?[a-b]\\.[a-b](:1)?(/[a-b]){0,3}(:[a-b])?", 0..6),
            image in "[a-b]\\.[a-b](:1)?(/[a-b]){1,3}:[a-b]",
        ) {
            let listed: Vec<&str> = scopes.iter().map(String::as_str).collect();
            let policy = policy(&listed);
            let parsed: Reference = image.parse().unwrap();
            if let Scope::Docker(scope) = policy.lookup(Some(&parsed)).0 {
                let names = image == scope
                    || image.strip_prefix(scope).is_some_and(|rest| rest.starts_with([':', '/']))
                    || scope.strip_prefix('*').is_some_and(|domain| parsed.registry().split(':').next().unwrap().ends_with(domain));
                prop_assert!(names, "{} for {}", scope, image);
            }
        }
    }
}
