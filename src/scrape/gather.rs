//! What is there at the moment of a scrape: pods, containers, monitors, images, queues, the process.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::process::Process;
use crate::pod::{ContainerState, Pods};
use crate::streaming::Streaming;

/// Looks at the parts of the daemon.
pub(super) struct Gatherer {
    pods: Arc<Pods>,
    streaming: Streaming,
}

impl Debug for Gatherer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Gatherer")
    }
}

impl Gatherer {
    pub(super) fn new(pods: Arc<Pods>, streaming: Streaming) -> Self {
        Self { pods, streaming }
    }
}

impl Collector for Gatherer {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut page = Page(&mut encoder);
        self.pods(&mut page)?;
        self.images(&mut page)?;
        self.queues(&mut page)?;
        process(&mut page)
    }
}

impl Gatherer {
    fn pods(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let pods = self.pods.pods();
        let ready = pods.iter().filter(|pod| pod.is_ready()).count();
        let states = [("ready", ready), ("not_ready", pods.len() - ready)];
        page.gauges("pods", "Pods, by state", "state", &states)?;
        let (mut created, mut running, mut exited, mut lost) = (0, 0, 0, 0);
        for container in self.pods.containers() {
            match container.state() {
                ContainerState::Created => created += 1,
                ContainerState::Running { .. } => running += 1,
                ContainerState::Exited(_) => exited += 1,
            }
            lost += usize::from(container.is_unwatched());
        }
        let states = [("created", created), ("running", running), ("exited", exited)];
        page.gauges("containers", "Containers, by state", "state", &states)?;
        let monitors = [("alive", created + running - lost), ("lost", lost)];
        page.gauges(
            "monitors",
            "Monitors of living containers; those that were lost do not come back",
            "state",
            &monitors,
        )
    }

    fn images(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let images = self.pods.images();
        let counts = images.counts();
        page.gauge("images", "Images in the store", counts.images as u64)?;
        page.gauge("image_store_bytes", "What the layers in the store take", counts.usage.bytes)?;
        page.gauge(
            "image_store_inodes",
            "Files and directories of the layers in the store",
            counts.usage.inodes,
        )?;
        let totals = images.pull_totals();
        page.gauge("pulls_in_progress", "Pulls under way", images.pulls().len() as u64)?;
        let ended = [("succeeded", totals.succeeded), ("failed", totals.failed)];
        page.counters("pulls", "Pulls that ended", "result", &ended)?;
        page.counter("pull_bytes", "Bytes of layers that were fetched, compressed", totals.bytes)
    }

    fn queues(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let trash = usize::try_from(self.pods.images().counts().trash).unwrap_or(usize::MAX);
        let queues = [
            ("undo", self.pods.unfinished()),
            ("cni_del_retries", self.pods.network().pending()),
            ("trash", trash),
            ("streaming_tokens", self.streaming.promises()),
        ];
        page.gauges("queue_length", "Things that wait for their turn", "queue", &queues)
    }
}

fn process(page: &mut Page<'_, '_>) -> fmt::Result {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("api", "v1")];
    page.labelled_gauge("build_info", "This build; always 1", &[(&labels[..], 1)])?;
    let Some(process) = Process::observe() else { return Ok(()) };
    page.counter_seconds(
        "process_cpu_seconds",
        "Processor time of the daemon, its user's and the kernel's",
        process.cpu,
    )?;
    page.gauge("process_resident_memory_bytes", "Memory of the daemon that is resident", process.resident)?;
    page.gauge("process_virtual_memory_bytes", "Address space of the daemon", process.virtual_memory)?;
    page.gauge("process_threads", "Threads of the daemon", process.threads)?;
    page.gauge("process_open_fds", "File descriptors of the daemon", process.descriptors)?;
    page.gauge("process_max_fds", "How many file descriptors it may have", process.descriptors_max)?;
    page.gauge_seconds(
        "process_start_time_seconds",
        "When the daemon started, in seconds since 1970",
        process.started,
    )
}

/// The scrape as far as it is written.
struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Page<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)
    }

    fn gauge_seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(&'static str, usize)],
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (at, value) in values {
            let labels = [(label, *at)];
            ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX))
                .encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn labelled_gauge(&mut self, name: &str, help: &str, values: &[(&[(&str, &str)], i64)]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(*value).encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn counter_seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(&'static str, u64)],
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (at, value) in values {
            let labels = [(label, *at)];
            ConstCounter::new(*value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
