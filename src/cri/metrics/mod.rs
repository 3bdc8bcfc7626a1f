//! The RPCs of metrics: everything that the kubelet publishes of pods where it has no cAdvisor of its own (KEP-2371).
//!
//! Times are whole seconds, because the CRI's metrics are integers. The timestamp is 0, which says that a figure was measured
//! for this request. What this kernel does not know is left out rather than said to be zero.

mod descriptors;

use std::collections::HashMap;

use super::{Service, render};
use crate::api;
use crate::cgroup::stats::{Device, Pressure};
use crate::pod::{ContainerDetails, ContainerState, FileSystem, Nanos, Pod, PodDetails};
use descriptors::{ALL, Descriptor};

/// The container label of what belongs to a pod as a whole, as it was when that was a container.
const POD: &str = "POD";
/// The kernel's own period and share, where the client names none.
const PERIOD: i64 = 100_000;
const SHARES: i64 = 1024;
/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// All metrics that there can be.
pub(super) fn descriptors() -> Vec<api::MetricDescriptor> {
    ALL.iter().map(|descriptor| descriptor.message()).collect()
}

impl Service {
    pub(super) async fn pod_sandbox_metrics(&self) -> Vec<api::PodSandboxMetrics> {
        let node = self.pods.details().await;
        let of_node = OfNode { devices: &node.devices, file_system: node.file_system };
        node.pods.iter().map(|pod| pod_metrics(pod, &of_node)).collect()
    }
}

struct OfNode<'a> {
    devices: &'a HashMap<(u32, u32), String>,
    file_system: Option<FileSystem>,
}

impl OfNode<'_> {
    fn device(&self, numbers: (u32, u32)) -> &str {
        self.devices.get(&numbers).map_or("", String::as_str)
    }
}

/// The metrics of one object, with the labels that all of them have.
struct Metrics {
    base: [String; 6],
    list: Vec<api::Metric>,
}

impl Metrics {
    fn add(&mut self, descriptor: &Descriptor, value: u64) {
        self.add_labelled(descriptor, &[], value);
    }

    fn add_known(&mut self, descriptor: &Descriptor, value: Option<u64>) {
        if let Some(value) = value {
            self.add(descriptor, value);
        }
    }

    fn add_labelled(&mut self, descriptor: &Descriptor, more: &[&str], value: u64) {
        self.list.push(api::Metric {
            name: descriptor.name.to_owned(),
            timestamp: 0,
            metric_type: descriptor.kind.into(),
            label_values: self
                .base
                .iter()
                .map(String::as_str)
                .chain(more.iter().copied())
                .map(str::to_owned)
                .collect(),
            value: Some(api::UInt64Value { value }),
        });
    }
}

fn pod_metrics(details: &PodDetails, node: &OfNode<'_>) -> api::PodSandboxMetrics {
    api::PodSandboxMetrics {
        pod_sandbox_id: details.pod.facts.id.to_string(),
        metrics: network(details),
        container_metrics: details
            .containers
            .iter()
            .map(|container| container_metrics(&details.pod, container, node))
            .collect(),
    }
}

fn network(details: &PodDetails) -> Vec<api::Metric> {
    let facts = &details.pod.facts;
    let (id, name) = (facts.cgroup.to_string(), facts.id.to_string());
    let (namespace, pod) = (facts.name.namespace.clone(), facts.name.name.clone());
    let base = [id, name, String::new(), namespace, pod, POD.to_owned()];
    let mut metrics = Metrics { base, list: Vec::new() };
    for link in details.links.iter().flatten() {
        for (descriptor, value) in [
            (&descriptors::NETWORK_RECEIVED_BYTES, link.received.bytes),
            (&descriptors::NETWORK_RECEIVED_PACKETS, link.received.packets),
            (&descriptors::NETWORK_RECEIVED_ERRORS, link.received.errors),
            (&descriptors::NETWORK_RECEIVED_DROPPED, link.received.dropped),
            (&descriptors::NETWORK_SENT_BYTES, link.sent.bytes),
            (&descriptors::NETWORK_SENT_PACKETS, link.sent.packets),
            (&descriptors::NETWORK_SENT_ERRORS, link.sent.errors),
            (&descriptors::NETWORK_SENT_DROPPED, link.sent.dropped),
        ] {
            metrics.add_labelled(descriptor, &[&link.name], value);
        }
    }
    metrics.list
}

fn container_metrics(pod: &Pod, details: &ContainerDetails, node: &OfNode<'_>) -> api::ContainerMetrics {
    let (facts, of_pod) = (&details.usage.container.facts, &pod.facts.name);
    let image = facts.config.image.as_ref().map(render::as_the_user_wrote_it).unwrap_or_default().image;
    let (id, name) = (facts.cgroup.to_string(), facts.id.to_string());
    let base = [id, name, image, of_pod.namespace.clone(), of_pod.name.clone(), facts.name.name.clone()];
    let mut metrics = Metrics { base, list: Vec::with_capacity(ALL.len() + 8) };
    metrics.add(&descriptors::LAST_SEEN, seconds(details.usage.measured.as_ref().map_or(0, |it| it.at)));
    metrics.add(&descriptors::START_TIME, seconds(started_at(details)));
    cpu(&mut metrics, details);
    memory(&mut metrics, details);
    pressures(&mut metrics, details);
    processes(&mut metrics, details);
    disks(&mut metrics, details, node);
    specification(&mut metrics, details);
    api::ContainerMetrics { container_id: facts.id.to_string(), metrics: metrics.list }
}

/// A container that waits for its start is as old as it is.
fn started_at(details: &ContainerDetails) -> Nanos {
    match details.usage.container.state() {
        ContainerState::Running { started_at } => started_at,
        ContainerState::Created | ContainerState::Exited(_) => details.usage.container.facts.created_at,
    }
}

fn seconds(at: Nanos) -> u64 {
    u64::try_from(at).unwrap_or(0) / SECOND
}

fn cpu(metrics: &mut Metrics, details: &ContainerDetails) {
    if let Some(nanos) = details.usage.measured.as_ref().and_then(|it| it.usage.cpu) {
        metrics.add_labelled(&descriptors::CPU_USAGE, &["total"], nanos / SECOND);
    }
    let Some(cpu) = &details.cgroup.cpu else { return };
    metrics.add(&descriptors::CPU_USER, cpu.user / SECOND);
    metrics.add(&descriptors::CPU_SYSTEM, cpu.system / SECOND);
    metrics.add(&descriptors::CPU_PERIODS, cpu.periods);
    metrics.add(&descriptors::CPU_THROTTLED_PERIODS, cpu.throttled_periods);
    metrics.add(&descriptors::CPU_THROTTLED, cpu.throttled / SECOND);
}

fn memory(metrics: &mut Metrics, details: &ContainerDetails) {
    let cgroup = &details.cgroup;
    let usage = details.usage.measured.as_ref().map(|it| &it.usage);
    metrics.add_known(&descriptors::MEMORY_MAX, cgroup.memory_peak);
    metrics.add_known(&descriptors::MEMORY_LIMIT_HITS, cgroup.memory_limit_hits);
    metrics.add_known(&descriptors::OOM_KILLS, cgroup.oom_kills);
    metrics.add_known(&descriptors::MEMORY_SWAP, usage.and_then(|usage| usage.swap).map(|swap| swap.usage));
    for pages in &cgroup.huge_pages {
        metrics.add_labelled(&descriptors::HUGETLB_USAGE, &[&pages.size], pages.usage);
        if let Some(peak) = pages.peak {
            metrics.add_labelled(&descriptors::HUGETLB_MAX, &[&pages.size], peak);
        }
    }
    let Some(memory) = usage.and_then(|usage| usage.memory) else { return };
    for (descriptor, value) in [
        (&descriptors::MEMORY_USAGE, memory.usage),
        (&descriptors::MEMORY_WORKING_SET, memory.working_set),
        (&descriptors::MEMORY_RSS, memory.rss),
        (&descriptors::MEMORY_CACHE, memory.cache),
        (&descriptors::MEMORY_MAPPED, memory.mapped_file),
        (&descriptors::MEMORY_ACTIVE_FILE, memory.active_file),
        (&descriptors::MEMORY_INACTIVE_FILE, memory.inactive_file),
        (&descriptors::MEMORY_KERNEL, cgroup.kernel_memory.unwrap_or(memory.kernel)),
    ] {
        metrics.add(descriptor, value);
    }
    for (kind, (own, all)) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
        metrics.add_labelled(&descriptors::MEMORY_FAULTS, &[kind, "container"], own);
        metrics.add_labelled(&descriptors::MEMORY_FAULTS, &[kind, "hierarchy"], all);
    }
}

fn pressures(metrics: &mut Metrics, details: &ContainerDetails) {
    let Some(measured) = &details.usage.measured else { return };
    let mut add = |pressure: Option<Pressure>, some: &Descriptor, full: &Descriptor| {
        let Some(pressure) = pressure else { return };
        metrics.add(some, pressure.some.total / SECOND);
        metrics.add_known(full, pressure.full.map(|stall| stall.total / SECOND));
    };
    let usage = &measured.usage;
    add(usage.cpu_pressure, &descriptors::PRESSURE_CPU_SOME, &descriptors::PRESSURE_CPU_FULL);
    add(usage.memory_pressure, &descriptors::PRESSURE_MEMORY_SOME, &descriptors::PRESSURE_MEMORY_FULL);
    add(usage.io_pressure, &descriptors::PRESSURE_IO_SOME, &descriptors::PRESSURE_IO_FULL);
}

fn processes(metrics: &mut Metrics, details: &ContainerDetails) {
    metrics.add_known(&descriptors::PROCESSES, details.usage.processes);
    if let Some(threads) = details.cgroup.threads {
        metrics.add(&descriptors::THREADS, threads);
        metrics.add(&descriptors::THREADS_MAX, details.cgroup.threads_max.unwrap_or(0));
    }
    metrics.add(&descriptors::FILE_DESCRIPTORS, details.descriptors.files);
    metrics.add(&descriptors::SOCKETS, details.descriptors.sockets);
    if let Some(limit) = details.max_open_files {
        metrics.add_labelled(&descriptors::ULIMITS, &["max_open_files"], limit);
    }
}

fn disks(metrics: &mut Metrics, details: &ContainerDetails, node: &OfNode<'_>) {
    if let Some(at) = node.file_system {
        let device = [node.device(at.device)];
        if let Some(layer) = details.usage.writable_layer {
            metrics.add_labelled(&descriptors::FS_USAGE, &device, layer.bytes);
        }
        metrics.add_labelled(&descriptors::FS_LIMIT, &device, at.bytes);
        metrics.add_labelled(&descriptors::FS_INODES, &device, at.inodes);
        metrics.add_labelled(&descriptors::FS_INODES_FREE, &device, at.inodes_free);
    }
    for Device { major, minor, read_bytes, written_bytes, reads, writes } in &details.cgroup.devices {
        let device = node.device((*major, *minor));
        metrics.add_labelled(&descriptors::FS_READS, &[device], *reads);
        metrics.add_labelled(&descriptors::FS_READ_BYTES, &[device], *read_bytes);
        metrics.add_labelled(&descriptors::FS_WRITES, &[device], *writes);
        metrics.add_labelled(&descriptors::FS_WRITTEN_BYTES, &[device], *written_bytes);
        let (major, minor) = (major.to_string(), minor.to_string());
        metrics.add_labelled(&descriptors::BLKIO, &[device, &major, &minor, "Read"], *read_bytes);
        metrics.add_labelled(&descriptors::BLKIO, &[device, &major, &minor, "Write"], *written_bytes);
    }
}

/// The limits in force.
fn specification(metrics: &mut Metrics, details: &ContainerDetails) {
    let limits = details.usage.container.resources().unwrap_or_default();
    let positive = |value: i64| u64::try_from(value).unwrap_or(0);
    let or = |value: i64, default: i64| positive(if value > 0 { value } else { default });
    metrics.add(&descriptors::SPEC_CPU_PERIOD, or(limits.cpu_period, PERIOD));
    metrics.add(&descriptors::SPEC_CPU_SHARES, or(limits.cpu_shares, SHARES));
    // Without a quota there is none, and 0 would mean that nothing may run.
    metrics
        .add_known(&descriptors::SPEC_CPU_QUOTA, Some(positive(limits.cpu_quota)).filter(|quota| *quota > 0));
    let memory = positive(limits.memory_limit_in_bytes);
    metrics.add(&descriptors::SPEC_MEMORY_LIMIT, memory);
    let reserved = limits.unified.get("memory.min").and_then(|text| text.parse().ok());
    metrics.add(&descriptors::SPEC_MEMORY_RESERVATION, reserved.unwrap_or(0));
    // A limit of memory alone allows no swap.
    let both = if limits.memory_swap_limit_in_bytes == 0 {
        memory
    } else {
        positive(limits.memory_swap_limit_in_bytes)
    };
    metrics.add(&descriptors::SPEC_MEMORY_SWAP, both);
}
