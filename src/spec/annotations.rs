//! Annotations: which of the client's are heard, and what the runtime is told.
//!
//! An annotation is written by whoever may make a pod, and runtimes and hooks take orders from some of them. So none of
//! the client's is passed on, or obeyed by podd itself, but those that the operator allows the handler
//! (`runtimes.NAME.allowed_annotations`).

use std::collections::{BTreeMap, HashMap};

use super::{SpecError, SpecInput};
use crate::api;
use crate::cgroup::{self, CgroupMode};

/// Asks for a container's own cgroup to be writable inside of it; the second is CRI-O's newer name for it.
const WRITABLE_CGROUP: [&str; 2] =
    ["io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "cgroup2-mount-hierarchy-rw.crio.io"];

/// Tells crun the name of a cgroup to make below a scope; empty is none. Without it the limits and the processes would be in
/// `container` below the scope, and where they are would depend on the runtime.
const SYSTEMD_SUBGROUP: &str = "run.oci.systemd.subgroup";

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
    let allowed = input.annotations.iter().map(|(key, value)| (key.clone(), value.clone()));
    allowed.chain(own).chain(for_systemd(input.cgroups_path)).collect()
}

/// What a document says to a runtime that has systemd make the cgroup.
pub(super) fn for_systemd(cgroups_path: &str) -> Option<(String, String)> {
    cgroup::is_systemd(cgroups_path).then(|| (SYSTEMD_SUBGROUP.to_owned(), String::new()))
}

/// Whether the container is to write to its own cgroup. It must not be able to lift its own limits that way: the kernel sees
/// to that for a cgroup namespace, on cgroup v2 with `nsdelegate`.
pub(super) fn writable_cgroup(input: &SpecInput<'_>) -> Result<bool, SpecError> {
    for name in WRITABLE_CGROUP {
        let field = || format!("annotations[{name:?}]");
        match input.annotations.get(name).map(String::as_str) {
            None | Some("false") => {}
            Some("true") if input.host.cgroup == CgroupMode::V1 => {
                let why = "it needs cgroup v2 with a cgroup namespace, and the host has v1";
                return Err(SpecError::unsupported(field(), why));
            }
            Some("true") if !input.host.nsdelegate => {
                let why = "/sys/fs/cgroup is mounted without nsdelegate, so that the container could lift its own \
                           limits; mount -o remount,nsdelegate /sys/fs/cgroup, and start podd again";
                return Err(SpecError::unsupported(field(), why));
            }
            Some("true") => return Ok(true),
            Some(other) => {
                return Err(SpecError::invalid(
                    field(),
                    format!("{other:?} is neither \"true\" nor \"false\""),
                ));
            }
        }
    }
    Ok(false)
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
