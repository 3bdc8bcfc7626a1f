//! The RPCs of stats: what pods and containers use, as the messages of the CRI.

use std::sync::Arc;

use tonic::Status;

use super::{Service, error, render};
use crate::api;
use crate::cgroup::stats::{Memory, Pressure, Stall, Swap, Usage};
use crate::network::{Link, Traffic};
use crate::pod::{Container, ContainerUsage, LayerUsage, Measured, Pod, PodUsage};

impl Service {
    pub(super) async fn container_stats(&self, id: &str) -> Result<api::ContainerStats, Status> {
        let container = self.pods.container(id).map_err(|e| error::pod("ContainerStats", e))?;
        let usage = self.pods.container_usage(vec![container]).await;
        let stats = usage.iter().map(|usage| self.container_usage(usage)).next();
        stats.ok_or_else(|| Status::internal("ContainerStats: nothing was measured"))
    }

    pub(super) async fn list_container_stats(
        &self,
        filter: Option<api::ContainerStatsFilter>,
    ) -> Vec<api::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let wanted = |container: &Arc<Container>| {
            let facts = &container.facts;
            facts.id.as_str().starts_with(&filter.id)
                && facts.name.pod.as_str().starts_with(&filter.pod_sandbox_id)
                && render::selected(&facts.config.labels, &filter.label_selector)
        };
        let containers = self.pods.containers().into_iter().filter(wanted).collect();
        let usage = self.pods.container_usage(containers).await;
        usage.iter().map(|usage| self.container_usage(usage)).collect()
    }

    pub(super) async fn pod_sandbox_stats(&self, id: &str) -> Result<api::PodSandboxStats, Status> {
        let pod = self.pods.pod(id).map_err(|e| error::pod("PodSandboxStats", e))?;
        let usage = self.pods.pod_usage(vec![pod]).await;
        let stats = usage.iter().map(|usage| self.pod_usage(usage)).next();
        stats.ok_or_else(|| Status::internal("PodSandboxStats: nothing was measured"))
    }

    pub(super) async fn list_pod_sandbox_stats(
        &self,
        filter: Option<api::PodSandboxStatsFilter>,
    ) -> Vec<api::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let wanted = |pod: &Arc<Pod>| {
            pod.facts.id.as_str().starts_with(&filter.id)
                && render::selected(&pod.facts.config.labels, &filter.label_selector)
        };
        let pods = self.pods.pods().into_iter().filter(wanted).collect();
        let usage = self.pods.pod_usage(pods).await;
        usage.iter().map(|usage| self.pod_usage(usage)).collect()
    }

    fn container_usage(&self, usage: &ContainerUsage) -> api::ContainerStats {
        let facts = &usage.container.facts;
        let attributes = api::ContainerAttributes {
            id: facts.id.to_string(),
            metadata: render::container_metadata(&usage.container),
            labels: facts.config.labels.clone(),
            annotations: facts.config.annotations.clone(),
        };
        let measured = usage.measured.as_ref();
        api::ContainerStats {
            attributes: Some(attributes),
            cpu: measured.and_then(cpu),
            memory: measured.and_then(memory),
            writable_layer: usage.writable_layer.map(|layer| self.layer(layer)),
            swap: measured.and_then(|it| it.usage.swap.map(|usage| swap(it, usage))),
            io: measured.and_then(io),
        }
    }

    fn pod_usage(&self, usage: &PodUsage) -> api::PodSandboxStats {
        let facts = &usage.pod.facts;
        let attributes = api::PodSandboxAttributes {
            id: facts.id.to_string(),
            metadata: render::pod_metadata(&usage.pod),
            labels: facts.config.labels.clone(),
            annotations: facts.config.annotations.clone(),
        };
        let measured = usage.measured.as_ref();
        let linux = api::LinuxPodSandboxStats {
            cpu: measured.and_then(cpu),
            memory: measured.and_then(memory),
            network: usage.links.as_ref().map(|links| network(usage, links)),
            process: measured.zip(usage.processes).map(|(at, processes)| api::ProcessUsage {
                timestamp: at.at,
                process_count: known(processes),
            }),
            containers: usage.containers.iter().map(|container| self.container_usage(container)).collect(),
            io: measured.and_then(io),
        };
        api::PodSandboxStats { attributes: Some(attributes), linux: Some(linux), windows: None }
    }

    fn layer(&self, layer: LayerUsage) -> api::FilesystemUsage {
        let mountpoint = self.pods.writable_layers().to_string_lossy().into_owned();
        api::FilesystemUsage {
            timestamp: layer.at,
            fs_id: Some(api::FilesystemIdentifier { mountpoint }),
            used_bytes: known(layer.bytes),
            inodes_used: known(layer.inodes),
        }
    }
}

fn known(value: u64) -> Option<api::UInt64Value> {
    Some(api::UInt64Value { value })
}

fn cpu(measured: &Measured) -> Option<api::CpuUsage> {
    Some(api::CpuUsage {
        timestamp: measured.at,
        usage_core_nano_seconds: known(measured.usage.cpu?),
        usage_nano_cores: measured.nano_cores.and_then(known),
        psi: measured.usage.cpu_pressure.map(pressure),
    })
}

fn memory(measured: &Measured) -> Option<api::MemoryUsage> {
    let Usage { memory: Some(memory), memory_pressure, .. } = &measured.usage else { return None };
    let Memory { usage, working_set, rss, page_faults, major_page_faults, .. } = *memory;
    Some(api::MemoryUsage {
        timestamp: measured.at,
        working_set_bytes: known(working_set),
        available_bytes: memory.available().and_then(known),
        usage_bytes: known(usage),
        rss_bytes: known(rss),
        page_faults: known(page_faults.1),
        major_page_faults: known(major_page_faults.1),
        psi: memory_pressure.map(pressure),
    })
}

fn swap(measured: &Measured, swap: Swap) -> api::SwapUsage {
    api::SwapUsage {
        timestamp: measured.at,
        swap_available_bytes: swap.limit.and_then(|limit| known(limit.saturating_sub(swap.usage))),
        swap_usage_bytes: known(swap.usage),
    }
}

fn io(measured: &Measured) -> Option<api::IoUsage> {
    Some(api::IoUsage { timestamp: measured.at, psi: Some(pressure(measured.usage.io_pressure?)) })
}

fn pressure(pressure: Pressure) -> api::PsiStats {
    let data = |stall: Stall| {
        let [avg10, avg60, avg300] = stall.averages;
        api::PsiData { total: stall.total, avg10, avg60, avg300 }
    };
    api::PsiStats { full: pressure.full.map(data), some: Some(data(pressure.some)) }
}

/// The CRI has the default interface beside the others, and not among them.
fn network(usage: &PodUsage, links: &[Link]) -> api::NetworkUsage {
    let interface = |Link { name, received, sent }: &Link| {
        let Traffic { bytes, errors, .. } = *received;
        api::NetworkInterfaceUsage {
            name: name.clone(),
            rx_bytes: known(bytes),
            rx_errors: known(errors),
            tx_bytes: known(sent.bytes),
            tx_errors: known(sent.errors),
        }
    };
    let mut interfaces = links.iter().map(interface);
    api::NetworkUsage {
        timestamp: usage.links_at,
        default_interface: interfaces.next(),
        interfaces: interfaces.collect(),
    }
}
