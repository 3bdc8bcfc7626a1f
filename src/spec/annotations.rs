//! Annotations: which of the client's are heard, and what the runtime is told.
//!
//! An annotation is written by whoever may make a pod, and runtimes and hooks take orders from some of them. So none of
//! the client's is passed on, or obeyed by podd itself, but those that the operator allows the handler
//! (`runtimes.NAME.allowed_annotations`).

use std::collections::{BTreeMap, HashMap};

use super::SpecInput;
use crate::api;

/// The annotations that the operator allows, of the pod and of the container, whose own wins.
pub fn allowed(
    pod: &api::PodSandboxConfig,
    container: &api::ContainerConfig,
    patterns: &[String],
) -> BTreeMap<String, String> {
    let all = pod.annotations.iter().chain(&container.annotations);
    let heard = all.filter(|(key, _)| patterns.iter().any(|pattern| matches(pattern, key)));
    heard.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A pattern is a whole name, or the front of one and a `*`.
fn matches(pattern: &str, key: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(front) => key.starts_with(front),
        None => key == pattern,
    }
}

/// What the runtime's document carries: what was allowed, and what hooks and VM runtimes look for, by the names that the
/// field has agreed on.
pub(super) fn build(input: &SpecInput<'_>) -> HashMap<String, String> {
    let pod = input.pod.metadata.clone().unwrap_or_default();
    let name = input.config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    let image = input.config.image.as_ref().map(|image| match image.user_specified_image.as_str() {
        "" => image.image.clone(),
        specified => specified.to_owned(),
    });
    let own = [
        ("container-type", "container".to_owned()),
        ("container-name", name),
        ("image-name", image.unwrap_or_default()),
        ("sandbox-id", input.pod_id.to_string()),
        ("sandbox-name", pod.name),
        ("sandbox-namespace", pod.namespace),
        ("sandbox-uid", pod.uid),
    ];
    let own = own.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value));
    input.annotations.iter().map(|(key, value)| (key.clone(), value.clone())).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_operator_allows_is_heard_and_the_container_has_the_last_word() {
        fn map<T: FromIterator<(String, String)>>(pairs: &[(&str, &str)]) -> T {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        }
        let pod = api::PodSandboxConfig {
            annotations: map(&[("a.io/x", "pod"), ("a.io/y", "pod"), ("run.oci.keep", "1")]),
            ..Default::default()
        };
        let container =
            api::ContainerConfig { annotations: map(&[("a.io/x", "own"), ("b", "2")]), ..Default::default() };
        let of = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            allowed(&pod, &container, &patterns)
        };
        assert_eq!(of(&[]), BTreeMap::new());
        assert_eq!(of(&["a.io/*", "b"]), map(&[("a.io/x", "own"), ("a.io/y", "pod"), ("b", "2")]));
        assert_eq!(of(&["run.oci"]), BTreeMap::new());
    }
}
