//! What a monitor is told of a bundle, whichever container it is for: a client's or a pod's pause container.

use std::path::{Path, PathBuf};
use std::time::Duration;

use podd_monitor::protocol::{CONSOLE_SOCKET, Overlay, Settings};

use super::Pods;
use crate::cgroup::CgroupPath;
use crate::runtime::Runtime;

/// How long the runtime may take for a create; the kubelet gives up after two minutes.
const CREATE_TIMEOUT: Duration = Duration::from_secs(110);

/// A directory with a `config.json`, and what surrounds it.
pub(super) struct Bundle<'a> {
    /// The container's ID for the runtime.
    pub(super) id: &'a str,
    /// The bundle, which is also the monitor's state directory.
    pub(super) dir: &'a Path,
    /// Where the monitor is to write how the container ended.
    pub(super) exit: PathBuf,
    pub(super) cgroup: &'a CgroupPath,
    pub(super) overlay: Overlay,
    pub(super) terminal: bool,
}

impl Pods {
    /// The settings of a monitor without a log and without input.
    pub(super) fn settings(&self, runtime: &Runtime, bundle: Bundle<'_>) -> Settings {
        let Bundle { id, dir, exit, cgroup, overlay, terminal } = bundle;
        let (pid_file, runtime_log) = (dir.join("pid"), dir.join("runtime.log"));
        let console = terminal.then(|| Path::new(CONSOLE_SOCKET));
        Settings {
            container_id: id.to_owned(),
            cgroup_procs: self
                .monitor_cgroup
                .iter()
                .flat_map(|path| self.cgroups.procs_files(path))
                .collect(),
            mount_point: self.paths.private_mount_point(),
            overlay,
            create: runtime.create_argv(id, dir, &pid_file, &runtime_log, console),
            delete: runtime.delete_argv(id),
            create_timeout: CREATE_TIMEOUT,
            terminal,
            exit_file: exit,
            oom_file: self.cgroups.oom_file(cgroup).unwrap_or_default(),
            state_dir: dir.to_owned(),
            pid_file,
            runtime_log,
            ..Settings::default()
        }
    }
}
