//! All that metrics tell, of every pod that is ready and every container that has not ended. Unlike stats it looks at each
//! process; a bound keeps a container with very many open files from holding the others up.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{ContainerUsage, Scratch};
use crate::cgroup::stats::Details;
use crate::network::Link;
use crate::pod::{Container, Pod, Pods};
use crate::sys;
use crate::sys::descriptors::{self, Descriptors};

/// How many descriptors of one container are looked at, to tell sockets from others.
const MAX_DESCRIPTORS: usize = 16_384;

/// What metrics tell of the node's pods.
pub struct NodeDetails {
    /// The pods.
    pub pods: Vec<PodDetails>,
    /// The file system with the writable layers.
    pub file_system: Option<FileSystem>,
    /// The names of block devices, by their numbers.
    pub devices: HashMap<(u32, u32), String>,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Its device.
    pub device: (u32, u32),
    /// Its size.
    pub bytes: u64,
    /// How many inodes it can have.
    pub inodes: u64,
    /// How many of them are free.
    pub inodes_free: u64,
}

/// What metrics tell of a pod.
pub struct PodDetails {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its interfaces; `None` on the host's network.
    pub links: Option<Vec<Link>>,
    /// Its containers that have not ended.
    pub containers: Vec<ContainerDetails>,
}

/// What metrics tell of a container.
pub struct ContainerDetails {
    /// What stats tell.
    pub usage: ContainerUsage,
    /// More of its cgroup.
    pub cgroup: Details,
    /// What its processes have open.
    pub descriptors: Descriptors,
    /// How many files its init may have open.
    pub max_open_files: Option<u64>,
}

impl Pods {
    /// Measures all that metrics tell.
    pub async fn details(self: &Arc<Self>) -> NodeDetails {
        let (pods, mut keep) = (Arc::clone(self), self.requested());
        sys::blocking(move || {
            let mut scratch = Scratch::default();
            let mut containers = pods.containers_by_pod();
            let mut node = NodeDetails {
                pods: Vec::new(),
                file_system: file_system(&pods.writable_layers()),
                devices: HashMap::new(),
            };
            for pod in pods.pods().into_iter().filter(|pod| pod.is_ready()) {
                let links = pods.links_of(&pod, &mut scratch.links);
                let containers = containers.remove(&pod.facts.id).unwrap_or_default();
                let usage = containers
                    .into_iter()
                    .map(|it| pods.measure_container(it, &mut keep, &mut scratch.buffer));
                let alive: Vec<_> = usage.filter(|usage| usage.measured.is_some()).collect();
                let containers = alive.into_iter().map(|usage| pods.look_into(usage, &mut scratch)).collect();
                node.pods.push(PodDetails { pod, links, containers });
            }
            node.name_devices();
            node
        })
        .await
    }

    fn look_into(&self, usage: ContainerUsage, scratch: &mut Scratch) -> ContainerDetails {
        let container: &Container = &usage.container;
        let cgroup = self.cgroups.details(&container.facts.cgroup, &mut scratch.buffer);
        let processes = self.cgroups.processes(&container.facts.cgroup).unwrap_or_default();
        let (mut left, mut all) = (MAX_DESCRIPTORS, Descriptors::default());
        for own in processes.iter().filter_map(|pid| descriptors::of(*pid, &mut left)) {
            all.files += own.files;
            all.sockets += own.sockets;
        }
        let max_open_files = descriptors::max_open_files(container.process);
        let count = u64::try_from(processes.len()).ok();
        let usage = ContainerUsage { processes: count, ..usage };
        ContainerDetails { usage, cgroup, descriptors: all, max_open_files }
    }
}

impl NodeDetails {
    fn name_devices(&mut self) {
        let containers = self.pods.iter().flat_map(|pod| &pod.containers);
        let used = containers
            .flat_map(|container| &container.cgroup.devices)
            .map(|device| (device.major, device.minor));
        for numbers in used.chain(self.file_system.map(|it| it.device)) {
            self.devices.entry(numbers).or_insert_with(|| device_name(numbers));
        }
    }
}

/// `/dev/vda`, or the numbers of a device that has no name, such as those of file systems without a disk.
fn device_name((major, minor): (u32, u32)) -> String {
    let numbers = format!("{major}:{minor}");
    let link = std::fs::read_link(Path::new("/sys/dev/block").join(&numbers));
    let name = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.replace('!', "/")));
    name.map_or(numbers, |name| format!("/dev/{name}"))
}

fn file_system(path: &Path) -> Option<FileSystem> {
    let (of, at) = (rustix::fs::statvfs(path).ok()?, rustix::fs::stat(path).ok()?);
    let device = (rustix::fs::major(at.st_dev), rustix::fs::minor(at.st_dev));
    let bytes = of.f_blocks.saturating_mul(of.f_frsize);
    Some(FileSystem { device, bytes, inodes: of.f_files, inodes_free: of.f_ffree })
}
