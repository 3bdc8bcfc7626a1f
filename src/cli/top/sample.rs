//! What is seen of the node at one moment, and what two moments tell together: rates.

use std::collections::HashMap;

use clap::ValueEnum;
use podd::api;

use crate::cli::client::Client;

/// All pods and containers of the node with what they use.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) pods: Vec<api::PodSandbox>,
    pub(super) containers: Vec<api::Container>,
    /// `None` where the runtime does not tell.
    pub(super) pod_stats: Option<Vec<api::PodSandboxStats>>,
    /// `None` where the runtime does not tell.
    pub(super) container_stats: Option<Vec<api::ContainerStats>>,
    /// When it was taken, in nanoseconds.
    pub(super) now: i64,
}

/// What a pod or container uses; `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// In billionths of a core.
    pub(super) cpu: Option<u64>,
    /// The working set, in bytes.
    pub(super) memory: Option<u64>,
    /// Bytes a second.
    pub(super) received: Option<u64>,
    /// Bytes a second.
    pub(super) sent: Option<u64>,
    /// The writable layer, in bytes.
    pub(super) disk: Option<u64>,
    /// The share of time in which something waited for a disk, in percent, over ten seconds.
    pub(super) io: Option<f64>,
    /// Processes.
    pub(super) pids: Option<u64>,
}

/// A pod with its containers, or a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) state: &'static str,
    /// Whether it is at work.
    pub(super) lives: bool,
    pub(super) created: i64,
    pub(super) usage: Usage,
    pub(super) containers: Vec<Self>,
}

/// By what the pods are sorted, and in each pod its containers; the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    Cpu,
    Memory,
    Io,
    Net,
}

impl Sort {
    /// The one after it, the first again after the last.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Cpu => Self::Memory,
            Self::Memory => Self::Io,
            Self::Io => Self::Net,
            Self::Net => Self::Cpu,
        }
    }

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
            Self::Net => "net",
        }
    }

    fn weight(self, usage: &Usage) -> f64 {
        let number = |value: Option<u64>| value.map_or(-1.0, |value| value as f64);
        match self {
            Self::Cpu => number(usage.cpu),
            Self::Memory => number(usage.memory),
            Self::Io => usage.io.unwrap_or(-1.0),
            Self::Net => number(sum([usage.received, usage.sent].into_iter())),
        }
    }
}

impl Sample {
    /// Asks the runtime.
    pub(super) async fn take(client: &Client) -> anyhow::Result<Self> {
        let [mut one, mut two, mut three, mut four] = [(); 4].map(|()| client.clone());
        let (pods, containers, pod_stats, container_stats) =
            tokio::try_join!(one.pods(), two.containers(), three.pod_stats(), four.container_stats())?;
        Ok(Self { pods, containers, pod_stats, container_stats, now: podd::pod::now() })
    }

    /// Whether the runtime tells what anything uses.
    pub(super) fn has_stats(&self) -> bool {
        self.pod_stats.is_some() || self.container_stats.is_some()
    }

    /// The pods with their containers; rates come from what was seen before.
    pub(super) fn entries(&self, before: Option<&Self>) -> Vec<Entry> {
        let nothing = Self::default();
        let before = before.unwrap_or(&nothing);
        let (stats, stats_before) = (self.by_container(), before.by_container());
        let (of_pods, of_pods_before) = (self.by_pod(), before.by_pod());
        let containers = self.latest();
        let entry = |pod: &api::PodSandbox| {
            let own = containers.iter().filter(|container| container.pod_sandbox_id == pod.id);
            let own = own.map(|container| {
                let id = container.id.as_str();
                container_entry(container, stats.get(id).copied(), stats_before.get(id).copied())
            });
            let own: Vec<_> = own.collect();
            let id = pod.id.as_str();
            pod_entry(pod, of_pods.get(id).copied(), of_pods_before.get(id).copied(), own)
        };
        self.pods.iter().map(entry).collect()
    }

    fn by_container(&self) -> HashMap<&str, &api::ContainerStats> {
        let in_pods = self.pod_stats.iter().flatten().filter_map(|pod| pod.linux.as_ref());
        let in_pods = in_pods.flat_map(|linux| &linux.containers);
        let all = in_pods.chain(self.container_stats.iter().flatten());
        all.filter_map(|stats| Some((stats.attributes.as_ref()?.id.as_str(), stats))).collect()
    }

    fn by_pod(&self) -> HashMap<&str, &api::LinuxPodSandboxStats> {
        let pods = self.pod_stats.iter().flatten();
        pods.filter_map(|pod| Some((pod.attributes.as_ref()?.id.as_str(), pod.linux.as_ref()?))).collect()
    }

    /// The containers without those that another one has taken the place of.
    fn latest(&self) -> Vec<&api::Container> {
        let key = |container: &api::Container| {
            let name = container.metadata.as_ref().map(|metadata| metadata.name.clone());
            (container.pod_sandbox_id.clone(), name)
        };
        let attempt = |container: &api::Container| container.metadata.as_ref().map_or(0, |own| own.attempt);
        let mut latest: HashMap<_, &api::Container> = HashMap::new();
        for container in &self.containers {
            let known = latest.entry(key(container)).or_insert(container);
            if attempt(container) > attempt(known) {
                *known = container;
            }
        }
        latest.into_values().collect()
    }
}

fn container_entry(
    container: &api::Container,
    stats: Option<&api::ContainerStats>,
    before: Option<&api::ContainerStats>,
) -> Entry {
    use api::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    let state = match container.state() {
        ContainerCreated => "created",
        ContainerRunning => "running",
        ContainerExited => "exited",
        api::ContainerState::ContainerUnknown => "unknown",
    };
    let lives = container.state() == ContainerRunning;
    let disk = stats.and_then(|stats| value(&stats.writable_layer.as_ref()?.used_bytes));
    let usage = match (stats, lives) {
        (Some(stats), true) => Usage {
            cpu: cpu(stats.cpu.as_ref(), before.and_then(|before| before.cpu.as_ref())),
            memory: stats.memory.as_ref().and_then(|memory| value(&memory.working_set_bytes)),
            io: pressure(stats.io.as_ref()),
            disk,
            ..Usage::default()
        },
        _ => Usage { disk, ..Usage::default() },
    };
    let name = container.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    Entry { name, state, lives, created: container.created_at, usage, containers: Vec::new() }
}

fn pod_entry(
    pod: &api::PodSandbox,
    stats: Option<&api::LinuxPodSandboxStats>,
    before: Option<&api::LinuxPodSandboxStats>,
    containers: Vec<Entry>,
) -> Entry {
    let lives = pod.state() == api::PodSandboxState::SandboxReady;
    let of_all = |part: fn(&Usage) -> Option<u64>| sum(containers.iter().map(|own| part(&own.usage)));
    let traffic = traffic(
        stats.and_then(|stats| stats.network.as_ref()),
        before.and_then(|before| before.network.as_ref()),
    );
    let own = stats.filter(|_| lives);
    let usage = Usage {
        cpu: own
            .and_then(|own| cpu(own.cpu.as_ref(), before.and_then(|before| before.cpu.as_ref())))
            .or_else(|| of_all(|usage| usage.cpu)),
        memory: own
            .and_then(|own| value(&own.memory.as_ref()?.working_set_bytes))
            .or_else(|| of_all(|usage| usage.memory)),
        received: traffic.map(|(received, _)| received),
        sent: traffic.map(|(_, sent)| sent),
        disk: of_all(|usage| usage.disk),
        io: own.and_then(|own| pressure(own.io.as_ref())),
        pids: own.and_then(|own| value(&own.process.as_ref()?.process_count)),
    };
    let metadata = pod.metadata.clone().unwrap_or_default();
    Entry {
        name: format!("{}/{}", metadata.namespace, metadata.name),
        state: if lives { "ready" } else { "not ready" },
        lives,
        created: pod.created_at,
        usage,
        containers,
    }
}

/// Sorts pods, and containers in each pod. What is equal is in the order of the names.
pub(super) fn sort(entries: &mut [Entry], by: Sort) {
    entries.sort_by(|a, b| {
        let weights = by.weight(&b.usage).total_cmp(&by.weight(&a.usage));
        weights.then_with(|| a.name.cmp(&b.name)).then_with(|| b.created.cmp(&a.created))
    });
    entries.iter_mut().for_each(|entry| sort(&mut entry.containers, by));
}

/// The sum of what is known; `None` when nothing is.
pub(super) fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().fold(None, |sum: Option<u64>, value| Some(sum.unwrap_or(0).saturating_add(value)))
}

fn value(number: &Option<api::UInt64Value>) -> Option<u64> {
    number.as_ref().map(|number| number.value)
}

/// Billionths of a core, from the counter, else in the runtime's own words.
fn cpu(now: Option<&api::CpuUsage>, before: Option<&api::CpuUsage>) -> Option<u64> {
    let now = now?;
    let counted = before.and_then(|before| {
        let used =
            value(&now.usage_core_nano_seconds)?.checked_sub(value(&before.usage_core_nano_seconds)?)?;
        per_second(used, now.timestamp, before.timestamp)
    });
    counted.or_else(|| value(&now.usage_nano_cores))
}

/// Bytes a second in and out, over all interfaces; a counter that went back is one that began anew.
fn traffic(now: Option<&api::NetworkUsage>, before: Option<&api::NetworkUsage>) -> Option<(u64, u64)> {
    let (now, before) = (now?, before?);
    let total = |usage: &api::NetworkUsage, part: fn(&api::NetworkInterfaceUsage) -> Option<u64>| {
        let default = usage.default_interface.as_ref();
        let others = usage.interfaces.iter().filter(|one| Some(&one.name) != default.map(|own| &own.name));
        sum(default.into_iter().chain(others).map(part))
    };
    let rate = |part| {
        let bytes = total(now, part)?.checked_sub(total(before, part)?)?;
        per_second(bytes, now.timestamp, before.timestamp)
    };
    Some((rate(|one| value(&one.rx_bytes))?, rate(|one| value(&one.tx_bytes))?))
}

fn pressure(io: Option<&api::IoUsage>) -> Option<f64> {
    Some(io?.psi.as_ref()?.some.as_ref()?.avg10).filter(|percent| percent.is_finite())
}

/// An increase between two times in nanoseconds; `None` when no time went by.
fn per_second(increase: u64, now: i64, before: i64) -> Option<u64> {
    let nanos = u128::try_from(now.checked_sub(before)?).ok().filter(|nanos| *nanos > 0)?;
    u64::try_from(u128::from(increase) * 1_000_000_000 / nanos).ok()
}

#[cfg(test)]
mod tests;
