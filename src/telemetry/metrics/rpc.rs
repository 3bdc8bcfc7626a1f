//! The CRI's operations. Their names are a closed set, so that no client can make the scrape grow.

use std::sync::OnceLock;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::{Label, Pair};

/// All RPCs, by name; the last stands for what is none of them.
const NAMES: [&str; 41] = [
    "Attach",
    "CheckpointContainer",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "GetContainerEvents",
    "ImageFsInfo",
    "ImageStatus",
    "ListContainerStats",
    "ListContainers",
    "ListImages",
    "ListMetricDescriptors",
    "ListPodSandbox",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "PullImage",
    "RemoveContainer",
    "RemoveImage",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RunPodSandbox",
    "RuntimeConfig",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "UpdateRuntimeConfig",
    "Version",
];
/// What a client calls that is no RPC of the CRI.
const OTHER: &str = "other";

/// All operations.
#[derive(Debug)]
pub struct Rpcs {
    /// By the places of [`NAMES`], and one more; each is there once it was called.
    called: [OnceLock<Rpc>; NAMES.len() + 1],
    seconds: Family<Label, Histogram, fn() -> Histogram>,
    in_flight: Family<Label, Gauge<i64, AtomicI64>>,
    errors: Family<Pair, Counter>,
}

/// One operation.
#[derive(Debug)]
pub struct Rpc {
    /// Its name, as the CRI has it.
    pub name: &'static str,
    seconds: Histogram,
    in_flight: Gauge<i64, AtomicI64>,
}

impl Rpcs {
    pub(super) fn new() -> Self {
        Self {
            called: [const { OnceLock::new() }; NAMES.len() + 1],
            seconds: Family::new_with_constructor(Histogram::of_seconds),
            in_flight: Family::default(),
            errors: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "cri_operation_seconds",
            "Time from a call to the beginning of its answer",
            self.seconds.clone(),
        );
        registry.register(
            "cri_operations_in_flight",
            "Calls that are not answered yet",
            self.in_flight.clone(),
        );
        registry.register("cri_operation_errors", "Calls that ended in an error", self.errors.clone());
    }

    /// The operation that a request's path means.
    pub fn at(&self, path: &str) -> &Rpc {
        let name = path.strip_prefix("/runtime.v1.").and_then(|path| path.split_once('/'));
        let place = name.and_then(|(_, name)| NAMES.binary_search(&name).ok()).unwrap_or(NAMES.len());
        self.called[place].get_or_init(|| {
            let name = NAMES.get(place).copied().unwrap_or(OTHER);
            let label = [("rpc", name)];
            Rpc {
                name,
                seconds: self.seconds.get_or_create_owned(&label),
                in_flight: self.in_flight.get_or_create_owned(&label),
            }
        })
    }

    /// One of them has failed, with this gRPC code.
    pub fn failed(&self, rpc: &Rpc, code: &'static str) {
        self.errors.get_or_create(&[("rpc", rpc.name), ("code", code)]).inc();
    }
}

impl Rpc {
    /// A call has come.
    pub fn begin(&self) {
        self.in_flight.inc();
    }

    /// Its answer begins.
    pub fn answered(&self, took: Duration) {
        self.seconds.observe(took);
    }

    /// It is over, or its client is gone.
    pub fn end(&self) {
        self.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_interface() {
        let proto = include_str!("../../../proto/api.proto");
        let rpcs = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc "));
        let mut rpcs: Vec<_> = rpcs.filter_map(|rest| Some(rest.split_once('(')?.0.trim())).collect();
        rpcs.sort_unstable();
        assert_eq!(rpcs, NAMES);
    }

    #[test]
    fn what_is_no_rpc_is_counted_as_one_thing() {
        let rpcs = Rpcs::new();
        assert_eq!(rpcs.at("/runtime.v1.RuntimeService/Version").name, "Version");
        assert_eq!(rpcs.at("/runtime.v1.ImageService/PullImage").name, "PullImage");
        for path in ["", "/", "/runtime.v1.RuntimeService/Versions", "/grpc.health.v1.Health/Check"] {
            assert_eq!(rpcs.at(path).name, OTHER, "{path}");
        }
    }
}
