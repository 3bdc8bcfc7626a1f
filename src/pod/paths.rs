//! Where everything of a pod and of a container lies. The only place that joins these names.
//!
//! ```text
//! <run_dir>/
//!   pods/<id>/        pod.json  resolv.conf  hostname  pause/
//!   containers/<id>/  container.json  config.json  pid  runtime.log  ctl  monitor.lock ...
//!   exits/<id>        the monitor's exit record
//!   mnt/              a private mount: what is mounted below it stays in this mount namespace
//!     ns/<kind>-<id>  pinned ipc, uts and user namespaces
//!     shm/<id>        a pod's /dev/shm
//!     container/rootfs  where a container's own mount namespace has its root file system
//! <netns_dir>/podd-<id>
//! ```

use std::path::{Path, PathBuf};

use podd_monitor::protocol::{ROOTFS, UserNamespace, VOLUMES};

use super::sandbox::PodFacts;
use crate::id::{ContainerId, PodId};
use crate::spec::Namespaces;

/// The directories of one daemon.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    run_dir: PathBuf,
    netns_dir: PathBuf,
}

impl Paths {
    pub(super) fn new(run_dir: &Path, netns_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), netns_dir: netns_dir.to_owned() }
    }

    pub(super) fn pods(&self) -> PathBuf {
        self.run_dir.join("pods")
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.run_dir.join("containers")
    }

    pub(super) fn exits(&self) -> PathBuf {
        self.run_dir.join("exits")
    }

    /// The private mount.
    pub(super) fn mounts(&self) -> PathBuf {
        self.run_dir.join("mnt")
    }

    pub(super) fn namespaces(&self) -> PathBuf {
        self.mounts().join("ns")
    }

    pub(super) fn shared_memory(&self) -> PathBuf {
        self.mounts().join("shm")
    }

    /// The directory on which each container's mount namespace has a tmpfs of its own.
    pub(super) fn private_mount_point(&self) -> PathBuf {
        self.mounts().join("container")
    }

    /// The container's root file system, on that tmpfs. On the host an empty directory of this name is there too: runc
    /// begins an exec with a change into it, in the host's mount namespace.
    pub(super) fn rootfs(&self) -> PathBuf {
        self.private_mount_point().join(ROOTFS)
    }

    /// A container's image volume by its number, and what is wanted of it, on that tmpfs.
    pub(super) fn volume(&self, number: usize, sub_path: &Path) -> PathBuf {
        self.private_mount_point().join(VOLUMES).join(number.to_string()).join(sub_path)
    }

    pub(super) fn netns_dir(&self) -> &Path {
        &self.netns_dir
    }

    pub(super) fn pod(&self, id: &PodId) -> PodPaths {
        PodPaths {
            dir: self.pods().join(id.as_str()),
            network: self.netns_dir.join(format!("podd-{id}")),
            ipc: self.namespaces().join(format!("ipc-{id}")),
            uts: self.namespaces().join(format!("uts-{id}")),
            user: self.namespaces().join(format!("user-{id}")),
            pid: self.namespaces().join(format!("pid-{id}")),
            shm: self.shared_memory().join(id.as_str()),
        }
    }

    pub(super) fn container(&self, id: &ContainerId) -> ContainerPaths {
        ContainerPaths { dir: self.containers().join(id.as_str()), exit: self.exits().join(id.as_str()) }
    }
}

/// The files, pins and mounts of a pod.
pub(super) struct PodPaths {
    pub(super) dir: PathBuf,
    pub(super) network: PathBuf,
    pub(super) ipc: PathBuf,
    pub(super) uts: PathBuf,
    /// There only where the pod has one of its own.
    pub(super) user: PathBuf,
    /// There only while the pod has a pause container.
    pub(super) pid: PathBuf,
    pub(super) shm: PathBuf,
}

impl PodPaths {
    pub(super) fn record(&self) -> PathBuf {
        self.dir.join("pod.json")
    }

    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    pub(super) fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }

    /// The pause container's state directory and bundle, while there is one.
    pub(super) fn pause(&self) -> PathBuf {
        self.dir.join("pause")
    }

    /// The pod's namespaces for a container of it, but for the PID namespace.
    pub(super) fn namespaces(&self, facts: &PodFacts) -> Namespaces<'_> {
        let (host_network, host_ipc) = (facts.host_network(), facts.host_ipc());
        Namespaces {
            network: (!host_network).then_some(self.network.as_path()),
            ipc: (!host_ipc).then_some(self.ipc.as_path()),
            uts: (!host_network).then_some(self.uts.as_path()),
            user: facts.user_namespace().map(|_| self.user.as_path()),
            pid: None,
        }
    }
}

impl PodPaths {
    /// What a monitor has to know of the pod's user namespace, if it has one of its own.
    pub(super) fn monitor_user_namespace(&self, facts: &PodFacts) -> Option<UserNamespace> {
        let (uid, gid) = facts.root();
        facts.user_namespace().map(|_| UserNamespace { path: self.user.clone(), uid, gid })
    }
}

/// The files of a container.
pub(super) struct ContainerPaths {
    /// The state directory, which is also the OCI bundle.
    pub(super) dir: PathBuf,
    /// The monitor's exit record.
    pub(super) exit: PathBuf,
}

impl ContainerPaths {
    pub(super) fn record(&self) -> PathBuf {
        self.dir.join("container.json")
    }

    pub(super) fn spec(&self) -> PathBuf {
        self.dir.join("config.json")
    }
}
