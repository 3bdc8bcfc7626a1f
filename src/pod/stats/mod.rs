//! What pods and containers use.
//!
//! A request measures what it lists, one object after the other, on a thread that may wait; there is no sampler beside it, so
//! nothing is done where nobody asks. Between two requests an object keeps its last sample, for rates (`rate.rs`), and,
//! while requests follow each other closely, its open files (`keep.rs`). What vanishes meanwhile is left without figures and
//! fails nothing (B21). The mutexes here are held for one object's measurement and never over an await.
//!
//! A pod's figures are those of its cgroup where that is its own, which the kubelet sees to. Where several pods share one, or
//! it is a slice of the node's, they are the sums of its containers'.

mod details;
mod keep;
mod rate;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::Pods;
use super::container::Container;
use super::sandbox::Pod;
use super::state::{ContainerState, Nanos, now};
use crate::cgroup::stats::{Buffer, Memory, Meter, Usage};
use crate::cgroup::{CgroupPath, Driver};
use crate::id::{ContainerId, PodId};
use crate::network::{Link, Links};
use crate::sys;
pub use details::{ContainerDetails, FileSystem, NodeDetails, PodDetails};
use keep::Keep;
pub(super) use keep::Requests;
use rate::Rate;

/// What a container uses.
pub struct ContainerUsage {
    /// The container.
    pub container: Arc<Container>,
    /// `None` of a container that has ended, or is gone.
    pub measured: Option<Measured>,
    /// What its writable layer holds, as far as that is known.
    pub writable_layer: Option<LayerUsage>,
    /// Its processes, if they were asked for.
    pub processes: Option<u64>,
}

/// What a pod uses.
pub struct PodUsage {
    /// The pod.
    pub pod: Arc<Pod>,
    /// `None` of a pod that is not ready, or without a running container where the cgroup is not its own.
    pub measured: Option<Measured>,
    /// The processes of its containers.
    pub processes: Option<u64>,
    /// When the counters below were read.
    pub links_at: Nanos,
    /// Its interfaces, the default one first; `None` on the host's network.
    pub links: Option<Vec<Link>>,
    /// Its containers.
    pub containers: Vec<ContainerUsage>,
}

/// The figures of a cgroup.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// When they were read.
    pub at: Nanos,
    /// The figures.
    pub usage: Usage,
    /// Processors in use since an earlier request, in billionths; `None` until there is a rate.
    pub nano_cores: Option<u64>,
}

/// What a writable layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerUsage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and others.
    pub inodes: u64,
    /// When that was so.
    pub at: Nanos,
}

/// What is kept of a cgroup between two requests.
#[derive(Default)]
pub(super) struct Gauge {
    meter: Option<Meter>,
    rate: Rate,
}

/// What is kept of a pod between two requests.
#[derive(Default)]
pub(super) struct PodGauge {
    cgroup: Gauge,
    links: PodLinks,
}

/// The open file of a pod's interfaces, which keeps the pod's network namespace.
#[derive(Default)]
enum PodLinks {
    #[default]
    Unopened,
    Open(Links),
    /// The pod has given its network back: not to be opened any more.
    Released,
}

/// Room that is used again from object to object of one request.
#[derive(Default)]
struct Scratch {
    buffer: Buffer,
    links: Vec<u8>,
}

impl Gauge {
    /// Measures a cgroup; `None` where it is gone.
    fn measure(
        &mut self,
        pods: &Pods,
        path: &CgroupPath,
        keep: &mut Keep,
        buffer: &mut Buffer,
    ) -> Option<Measured> {
        let kept = self.meter.take().and_then(|meter| Some((meter.read(buffer).ok()?, meter)));
        // A slice may have gone and come again since.
        let anew = || {
            let meter = pods.cgroups.meter(path).ok()?;
            Some((meter.read(buffer).ok()?, meter))
        };
        let (usage, meter) = kept.or_else(anew)?;
        if keep.allows(meter.files()) {
            self.meter = Some(meter);
        }
        let nano_cores = usage.cpu.and_then(|nanos| self.rate.update(std::time::Instant::now(), nanos));
        Some(Measured { at: now(), usage, nano_cores })
    }
}

impl Container {
    fn gauge(&self) -> MutexGuard<'_, Gauge> {
        self.gauge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    fn gauge(&self) -> MutexGuard<'_, PodGauge> {
        self.gauge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the network namespace, for good.
    pub(super) fn release_links(&self) {
        self.gauge().links = PodLinks::Released;
    }
}

impl Pods {
    /// What these containers use.
    pub async fn container_usage(self: &Arc<Self>, containers: Vec<Arc<Container>>) -> Vec<ContainerUsage> {
        let (pods, mut keep) = (Arc::clone(self), self.requested());
        sys::blocking(move || {
            let mut scratch = Scratch::default();
            let measure = |it| pods.measure_container(it, &mut keep, &mut scratch.buffer);
            containers.into_iter().map(measure).collect()
        })
        .await
    }

    /// What these pods use, and their containers.
    pub async fn pod_usage(self: &Arc<Self>, asked: Vec<Arc<Pod>>) -> Vec<PodUsage> {
        let (pods, mut keep) = (Arc::clone(self), self.requested());
        sys::blocking(move || {
            let mut scratch = Scratch::default();
            let (mut containers, sharing) = (pods.containers_by_pod(), pods.ready_pods_by_cgroup());
            let measure = |pod: Arc<Pod>| {
                let containers = containers.remove(&pod.facts.id).unwrap_or_default();
                let own = pods.has_own_cgroup(&pod, &sharing);
                pods.measure_pod(pod, own, containers, &mut keep, &mut scratch)
            };
            asked.into_iter().map(measure).collect()
        })
        .await
    }

    /// The directory that holds all writable layers.
    pub fn writable_layers(&self) -> PathBuf {
        self.config.root.join("containers")
    }

    fn containers_by_pod(&self) -> HashMap<PodId, Vec<Arc<Container>>> {
        let mut by_pod = HashMap::<_, Vec<_>>::new();
        for container in self.containers() {
            by_pod.entry(container.facts.name.pod.clone()).or_default().push(container);
        }
        by_pod
    }

    fn ready_pods_by_cgroup(&self) -> HashMap<CgroupPath, usize> {
        let mut by_cgroup = HashMap::new();
        for pod in self.pods().iter().filter(|pod| pod.is_ready()) {
            *by_cgroup.entry(pod.facts.cgroup.clone()).or_default() += 1;
        }
        by_cgroup
    }

    /// Whether a pod's cgroup holds nothing but the pod, so that its figures are the pod's.
    fn has_own_cgroup(&self, pod: &Pod, sharing: &HashMap<CgroupPath, usize>) -> bool {
        let facts = &pod.facts;
        let asked = facts.config.linux.as_ref().is_some_and(|linux| !linux.cgroup_parent.is_empty());
        let nodes_own = facts.cgroup.is_root() || (self.driver == Driver::Systemd && !asked);
        !nodes_own && sharing.get(&facts.cgroup).is_none_or(|pods| *pods == 1)
    }

    fn measure_container(
        &self,
        container: Arc<Container>,
        keep: &mut Keep,
        buffer: &mut Buffer,
    ) -> ContainerUsage {
        let measured = match container.state() {
            ContainerState::Created | ContainerState::Running { .. } => {
                container.gauge().measure(self, &container.facts.cgroup, keep, buffer)
            }
            ContainerState::Exited(_) => {
                container.gauge().meter = None;
                None
            }
        };
        let writable_layer = self.writable_layer(&container.facts.id);
        ContainerUsage { measured, writable_layer, processes: None, container }
    }

    fn measure_pod(
        &self,
        pod: Arc<Pod>,
        own_cgroup: bool,
        containers: Vec<Arc<Container>>,
        keep: &mut Keep,
        scratch: &mut Scratch,
    ) -> PodUsage {
        let mut measure = |it| {
            let mut usage = self.measure_container(it, keep, &mut scratch.buffer);
            let path = usage.measured.as_ref().map(|_| &usage.container.facts.cgroup);
            usage.processes = path.and_then(|path| self.cgroups.process_count(path, &mut scratch.buffer));
            usage
        };
        let containers: Vec<_> = containers.into_iter().map(&mut measure).collect();
        let measured = match (pod.is_ready(), own_cgroup) {
            (false, _) => None,
            (true, true) => pod.gauge().cgroup.measure(self, &pod.facts.cgroup, keep, &mut scratch.buffer),
            (true, false) => sum(containers.iter().filter_map(|container| container.measured.as_ref())),
        };
        let (links_at, links) = (now(), self.links_of(&pod, &mut scratch.links));
        let processes = measured.as_ref().map(|_| containers.iter().filter_map(|it| it.processes).sum());
        PodUsage { pod, measured, processes, links_at, links, containers }
    }

    /// The counters of a pod's interfaces; `None` where it has none of its own, or has given them back.
    fn links_of(&self, pod: &Pod, scratch: &mut Vec<u8>) -> Option<Vec<Link>> {
        if pod.facts.host_network() || !pod.is_ready() {
            return None;
        }
        let mut gauge = pod.gauge();
        if let PodLinks::Unopened = gauge.links {
            match Links::open(&self.paths.pod(&pod.facts.id).network) {
                Ok(links) => gauge.links = PodLinks::Open(links),
                Err(error) => tracing::debug!(pod = %pod.facts.id, "opening the network's counters: {error}"),
            }
        }
        match &gauge.links {
            PodLinks::Open(links) => links.read(scratch).ok(),
            PodLinks::Unopened | PodLinks::Released => None,
        }
    }

    /// Closes the files of all cgroups.
    fn close_meters(&self) {
        self.containers().iter().for_each(|container| container.gauge().meter = None);
        self.pods().iter().for_each(|pod| pod.gauge().cgroup.meter = None);
    }

    /// What a writable layer holds. The one place to ask whoever counts that; nobody does yet.
    #[allow(clippy::unused_self)]
    fn writable_layer(&self, _: &ContainerId) -> Option<LayerUsage> {
        None
    }
}

/// Containers together, for a pod whose cgroup is not its own. How long processes had to wait cannot be added up.
fn sum<'a>(containers: impl Iterator<Item = &'a Measured>) -> Option<Measured> {
    containers.fold(None, |sum: Option<Measured>, more| {
        let Some(mut sum) = sum else {
            let usage = Usage {
                cpu: more.usage.cpu,
                memory: more.usage.memory.map(|memory| Memory { limit: None, ..memory }),
                ..Usage::default()
            };
            return Some(Measured { at: more.at, usage, nano_cores: more.nano_cores });
        };
        sum.usage.cpu = add(sum.usage.cpu, more.usage.cpu);
        sum.nano_cores = add(sum.nano_cores, more.nano_cores);
        if let (Some(memory), Some(more)) = (&mut sum.usage.memory, &more.usage.memory) {
            memory.usage += more.usage;
            memory.working_set += more.working_set;
            memory.rss += more.rss;
            memory.page_faults.1 += more.page_faults.1;
            memory.major_page_faults.1 += more.major_page_faults.1;
        }
        Some(sum)
    })
}

/// The sum of those that are known.
fn add(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (known, None) | (None, known) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_has_no_limit_and_no_pressure() {
        let memory =
            |usage| Memory { usage, working_set: usage / 2, rss: 1, limit: Some(9), ..Memory::default() };
        let measured = |cpu, nano_cores, usage| Measured {
            at: 1,
            nano_cores,
            usage: Usage { cpu: Some(cpu), memory: Some(memory(usage)), ..Usage::default() },
        };
        let containers = [measured(10, None, 100), measured(20, Some(7), 50)];
        let sum = sum(containers.iter()).unwrap();
        assert_eq!((sum.usage.cpu, sum.nano_cores), (Some(30), Some(7)));
        let expected = Memory { usage: 150, working_set: 75, rss: 2, ..Memory::default() };
        assert_eq!(sum.usage.memory, Some(expected));
        assert_eq!(super::sum([].iter()), None);
    }
}
