//! Bundles, whichever container they are for, a client's or a pod's pause container: what a monitor is told of one, and
//! how its processes are ended by nothing but its ID.

use std::fs;
use std::path::{Path, PathBuf};

use podd_monitor::protocol::{CONSOLE_SOCKET, Overlay, Settings, UserNamespace};

use super::Pods;
use super::error::{PodError, Stage};
use crate::cgroup::{self, CgroupPath};
use crate::monitor;
use crate::runtime::Runtime;

/// The option by which overlayfs does not flush (Linux 5.10): otherwise the end of one container flushes the whole file system
/// that its writable layer is on, and holds the stop meanwhile. The layer ends with the container, and so with a reboot.
const VOLATILE: &str = "volatile";

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
    pub(super) user_namespace: Option<UserNamespace>,
    pub(super) terminal: bool,
}

impl Pods {
    /// The settings of a monitor without a log and without input.
    pub(super) fn settings(&self, runtime: &Runtime, bundle: Bundle<'_>) -> Settings {
        let Bundle { id, dir, exit, cgroup, mut overlay, user_namespace, terminal } = bundle;
        overlay.options.push(VOLATILE.to_owned());
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
            user_namespace,
            create: runtime.create_argv(id, dir, &pid_file, &runtime_log, console),
            delete: runtime.delete_argv(id),
            create_timeout: runtime.create_timeout(),
            terminal,
            exit_file: exit,
            oom_file: self.cgroups.oom_file(cgroup).unwrap_or_default(),
            state_dir: dir.to_owned(),
            pid_file,
            runtime_log,
            ..Settings::default()
        }
    }

    /// Ends the processes of a bundle. What a dead daemon left half created its monitor undoes by itself, and may be in the
    /// way of a delete meanwhile; so one that fails is tried again when the monitor is gone.
    pub(super) async fn end(&self, id: &str, dir: &Path) -> Result<(), PodError> {
        let deleted = self.delete(id).await;
        let stage = Stage::begin("waiting for the monitor to end", &id);
        stage.check(monitor::gone(dir).await)?;
        match deleted {
            Ok(()) => Ok(()),
            Err(_) => self.delete(id).await,
        }
    }

    /// Has whichever runtime knows of the container kill it and forget it; one that none knows of is a success.
    pub(super) async fn delete(&self, id: &str) -> Result<(), PodError> {
        for (name, config) in &self.config.runtimes {
            if config.root.join(id).exists() {
                let stage = Stage::begin("deleting the container with its runtime", &id);
                stage.check(self.runtime(name).await?.delete(id, true).await)?;
            }
        }
        Ok(())
    }
}

/// The cgroup that a bundle's document asks for.
pub(super) fn cgroup_of(dir: &Path) -> Option<CgroupPath> {
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("config.json")).ok()?).ok()?;
    cgroup::path_of_spec(spec.pointer("/linux/cgroupsPath")?.as_str()?).ok()
}
