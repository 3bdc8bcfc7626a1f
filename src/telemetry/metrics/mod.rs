//! What is counted. Recording is a few atomic operations, whether or not anybody scrapes; `docs/metrics.md` lists it all.
//!
//! There is one set for the process ([`metrics`]), so that leaves count without being handed anything. Labels come from
//! closed sets: names in the code, kinds of an enum, plugins of the configuration up to [`PLUGINS_MAX`].

mod histogram;
mod rpc;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use histogram::Histogram;
pub use rpc::{Rpc, Rpcs};

/// How many CNI plugins are told apart.
const PLUGINS_MAX: usize = 32;

type Label = [(&'static str, &'static str); 1];
type Pair = [(&'static str, &'static str); 2];
type PluginLabels = [(&'static str, String); 2];
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything that is counted in this process.
#[derive(Debug)]
pub struct Metrics {
    /// The CRI's operations.
    pub rpcs: Rpcs,
    stages: Histograms<Label>,
    stage_errors: Family<Label, Counter>,
    plugins: Histograms<PluginLabels>,
    // Held for a look-up, after a program was run.
    known_plugins: Mutex<BTreeSet<String>>,
    plugin_errors: Family<PluginLabels, Counter>,
    pull_seconds: Histogram,
    pull_rate: Histogram,
    pull_errors: Family<Label, Counter>,
    pull_layers: Family<Label, Counter>,
    pull_retries: Counter,
    unpacked_bytes: Counter<u64, AtomicU64>,
    exits: Family<Label, Counter>,
    oom_kills: Counter,
    monitors_lost: Counter,
    leaks_found: Family<Label, Counter>,
    leaks_repaired: Family<Label, Counter>,
    sessions: Family<Label, Gauge<i64, AtomicI64>>,
    sessions_begun: Family<Label, Counter>,
    log_lines_lost: Counter,
    span_batches_lost: Counter,
}

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

/// Where a layer of a pull came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerOrigin {
    /// It was fetched and unpacked.
    Fetched,
    /// An earlier pull that failed had finished it.
    Kept,
    /// Another image has it.
    Present,
}

/// Something that should not be on the node any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leak {
    /// What is there of a pod that is not to be.
    Pod,
    /// What is there of a container that is not to be.
    Container,
    /// A writable layer without its container.
    WritableLayer,
    /// A network attachment without its pod.
    Network,
    /// A pod or container whose client never came back for it.
    Abandoned,
    /// A layer, or what was being made, that no image has.
    Image,
}

impl Leak {
    fn label(self) -> Label {
        let kind = match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::WritableLayer => "writable_layer",
            Self::Network => "network",
            Self::Abandoned => "abandoned",
            Self::Image => "image",
        };
        [("kind", kind)]
    }
}

/// A session of the streaming server that is under way; it is over when this is dropped.
#[derive(Debug)]
pub struct Session(Gauge<i64, AtomicI64>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    fn new() -> Self {
        Self {
            rpcs: Rpcs::new(),
            stages: Family::new_with_constructor(Histogram::of_seconds),
            stage_errors: Family::default(),
            plugins: Family::new_with_constructor(Histogram::of_seconds),
            known_plugins: Mutex::default(),
            plugin_errors: Family::default(),
            pull_seconds: Histogram::of_seconds(),
            pull_rate: Histogram::of_numbers(histogram::BYTES_PER_SECOND),
            pull_errors: Family::default(),
            pull_layers: Family::default(),
            pull_retries: Counter::default(),
            unpacked_bytes: Counter::default(),
            exits: Family::default(),
            oom_kills: Counter::default(),
            monitors_lost: Counter::default(),
            leaks_found: Family::default(),
            leaks_repaired: Family::default(),
            sessions: Family::default(),
            sessions_begun: Family::default(),
            log_lines_lost: Counter::default(),
            span_batches_lost: Counter::default(),
        }
    }

    /// Puts all of them into a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.rpcs.register(registry);
        let r = registry;
        r.register("stage_seconds", "Time that stages of operations took", self.stages.clone());
        r.register("stage_errors", "Stages that failed", self.stage_errors.clone());
        r.register("cni_plugin_seconds", "Time that runs of CNI plugins took", self.plugins.clone());
        r.register("cni_plugin_errors", "Runs of CNI plugins that failed", self.plugin_errors.clone());
        r.register("pull_seconds", "Time that pulls took, failed ones too", self.pull_seconds.clone());
        r.register(
            "pull_bytes_per_second",
            "Mean rate of pulls that fetched layers, compressed bytes per second",
            self.pull_rate.clone(),
        );
        r.register("pull_errors", "Pulls that failed, by what that means", self.pull_errors.clone());
        r.register("pull_layers", "Layers of pulls, by where they came from", self.pull_layers.clone());
        r.register("pull_retries", "Requests to registries that were made again", self.pull_retries.clone());
        r.register("unpacked_bytes", "Bytes of layers after unpacking", self.unpacked_bytes.clone());
        r.register("container_exits", "Containers that ended, by reason", self.exits.clone());
        r.register("oom_kills", "Containers that ended for want of memory", self.oom_kills.clone());
        r.register(
            "monitors_lost",
            "Monitors that ended before their containers",
            self.monitors_lost.clone(),
        );
        r.register("leaks_found", "Things found that should not be there", self.leaks_found.clone());
        r.register("leaks_repaired", "Those of them that are gone now", self.leaks_repaired.clone());
        r.register("streaming_sessions", "Sessions of exec, attach and port-forward", self.sessions.clone());
        r.register("streaming_sessions_begun", "Sessions that have begun", self.sessions_begun.clone());
        r.register("log_lines_lost", "Lines that the journal did not take", self.log_lines_lost.clone());
        r.register("span_batches_lost", "Exports of spans that failed", self.span_batches_lost.clone());
    }

    /// A stage is over.
    pub fn stage(&self, stage: &'static str, took: Duration, ok: bool) {
        let label = [("stage", stage)];
        self.stages.get_or_create(&label).observe(took);
        if !ok {
            self.stage_errors.get_or_create(&label).inc();
        }
    }

    /// A CNI plugin's run is over.
    pub fn plugin(&self, plugin: &str, command: &'static str, took: Duration, ok: bool) {
        let label = [("plugin", self.known_plugin(plugin)), ("command", command.to_owned())];
        self.plugins.get_or_create(&label).observe(took);
        if !ok {
            self.plugin_errors.get_or_create(&label).inc();
        }
    }

    /// Its name, or what stands for those that are too many.
    fn known_plugin(&self, plugin: &str) -> String {
        let mut known = self.known_plugins.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(plugin) {
            if known.len() >= PLUGINS_MAX {
                return "other".to_owned();
            }
            known.insert(plugin.to_owned());
        }
        plugin.to_owned()
    }

    /// A pull is over: what it fetched, and since when it fetched.
    pub fn pull(&self, took: Duration, fetched: u64, fetching: Option<Duration>) {
        self.pull_seconds.observe(took);
        if let Some(fetching) = fetching.filter(|time| fetched > 0 && !time.is_zero()) {
            self.pull_rate.observe_number((fetched as f64 / fetching.as_secs_f64()) as u64);
        }
    }

    /// A pull has failed.
    pub fn pull_failed(&self, kind: &'static str) {
        self.pull_errors.get_or_create(&[("kind", kind)]).inc();
    }

    /// A pull has one more of its layers.
    pub fn layer(&self, origin: LayerOrigin) {
        let origin = match origin {
            LayerOrigin::Fetched => "fetched",
            LayerOrigin::Kept => "kept",
            LayerOrigin::Present => "present",
        };
        self.pull_layers.get_or_create(&[("origin", origin)]).inc();
    }

    /// A layer is unpacked.
    pub fn unpacked(&self, bytes: u64) {
        self.unpacked_bytes.inc_by(bytes);
    }

    /// A registry is asked once more.
    pub fn retry(&self) {
        self.pull_retries.inc();
    }

    /// A container has ended.
    pub fn exit(&self, reason: &'static str, oom_killed: bool) {
        self.exits.get_or_create(&[("reason", reason)]).inc();
        if oom_killed {
            self.oom_kills.inc();
        }
    }

    /// A monitor has ended before its container.
    pub fn monitor_lost(&self) {
        self.monitors_lost.inc();
    }

    /// Something is there that should not be.
    pub fn leak_found(&self, leak: Leak) {
        self.leaks_found.get_or_create(&leak.label()).inc();
    }

    /// It is gone now.
    pub fn leak_repaired(&self, leak: Leak) {
        self.leaks_repaired.get_or_create(&leak.label()).inc();
    }

    /// A session of the streaming server begins.
    pub fn session(&self, kind: &'static str) -> Session {
        self.sessions_begun.get_or_create(&[("kind", kind)]).inc();
        let open = self.sessions.get_or_create_owned(&[("kind", kind)]);
        open.inc();
        Session(open)
    }

    /// A line of the log is lost.
    pub fn log_line_lost(&self) {
        self.log_lines_lost.inc();
    }

    /// A batch of spans is lost.
    pub fn span_batch_lost(&self) {
        self.span_batches_lost.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(metrics: &Metrics) -> String {
        let mut registry = Registry::with_prefix("podd");
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn times_are_in_their_buckets_and_summed() {
        let metrics = Metrics::new();
        metrics.stage("one", Duration::from_millis(3), true);
        metrics.stage("one", Duration::from_millis(5), false);
        metrics.stage("one", Duration::from_secs(1000), true);
        let text = scrape(&metrics);
        for line in [
            "podd_stage_seconds_sum{stage=\"one\"} 1000.008",
            "podd_stage_seconds_count{stage=\"one\"} 3",
            "podd_stage_seconds_bucket{le=\"0.0025\",stage=\"one\"} 0",
            "podd_stage_seconds_bucket{le=\"0.005\",stage=\"one\"} 2",
            "podd_stage_seconds_bucket{le=\"120.0\",stage=\"one\"} 2",
            "podd_stage_seconds_bucket{le=\"+Inf\",stage=\"one\"} 3",
            "podd_stage_errors_total{stage=\"one\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn plugins_are_told_apart_up_to_a_limit() {
        let metrics = Metrics::new();
        for n in 0..1000 {
            metrics.plugin(&format!("p{n}"), "ADD", Duration::ZERO, n % 2 == 0);
        }
        let text = scrape(&metrics);
        let counts = text.lines().filter(|line| line.starts_with("podd_cni_plugin_seconds_count"));
        assert_eq!(counts.count(), PLUGINS_MAX + 1);
        assert!(
            text.contains("podd_cni_plugin_seconds_count{plugin=\"other\",command=\"ADD\"} 968"),
            "{text}"
        );
    }
}
