//! PID namespaces that outlive one container: the pod's shared one, held by a pause container, and a target's.
//!
//! A pod gets its shared namespace when the first container asks for it; a pod of which none does has no process of its
//! own. The pause container is made like any other, by a monitor and the pod's runtime, in `pods/<id>/pause`; it is in no
//! list. Its end makes the pod NOTREADY (B8), because all that shared the namespace has ended with it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podd_monitor::protocol::Overlay;

use super::Pods;
use super::bundle::{Bundle, cgroup_of};
use super::confine::mount_options;
use super::error::{Cause, PodError, Stage, chain};
use super::resources::absent_is_fine;
use super::sandbox::{Pod, PodFacts, PodStage};
use super::state::{ContainerState, PodState};
use crate::api::{ContainerConfig, NamespaceMode, NamespaceOption};
use crate::cgroup::{self, Location};
use crate::id::PodId;
use crate::monitor::{self, Launch, Monitor};
use crate::spec::pause::{self, PauseInput};
use crate::sys::{self, namespace};

/// The mode that a container asks for; its own namespace where it says nothing of namespaces.
pub(super) fn pid_mode(config: &ContainerConfig) -> NamespaceMode {
    options(config).map_or(NamespaceMode::Container, NamespaceOption::pid)
}

fn options(config: &ContainerConfig) -> Option<&NamespaceOption> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}

impl Pods {
    /// The PID namespace that a container is to join, if it is not to have its own or the host's. The caller holds the
    /// pod's lock.
    pub(super) async fn pid_namespace(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        config: &ContainerConfig,
    ) -> Result<Option<PathBuf>, PodError> {
        match pid_mode(config) {
            NamespaceMode::Container | NamespaceMode::Node => Ok(None),
            NamespaceMode::Pod => self.shared_pids(pod).await.map(Some),
            NamespaceMode::Target => {
                let id = options(config).map(|options| options.target_id.as_str()).unwrap_or_default();
                self.pids_of(pod, id).map(Some)
            }
        }
    }

    fn pids_of(&self, pod: &Pod, id: &str) -> Result<PathBuf, PodError> {
        const FIELD: &str = "config.linux.security_context.namespace_options.target_id";
        let target = self.container(id).map_err(|e| PodError::invalid(FIELD, e.to_string()))?;
        if target.facts.name.pod != pod.facts.id {
            return Err(PodError::invalid(FIELD, format!("container {id} is of another pod")));
        }
        match target.state() {
            ContainerState::Running { .. } => Ok(format!("/proc/{}/ns/pid", target.pid()).into()),
            state => {
                Err(PodError::invalid(FIELD, format!("container {id} is {}, not running", state.name())))
            }
        }
    }

    async fn shared_pids(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<PathBuf, PodError> {
        let paths = self.paths.pod(&pod.facts.id);
        if paths.pid.exists() {
            return Ok(paths.pid);
        }
        // What an attempt before this one has left.
        self.end_pause(&pod.facts.id).await?;
        match self.start_pause(pod).await {
            Ok(()) => Ok(paths.pid),
            Err(error) => {
                if let Err(undo) = self.end_pause(&pod.facts.id).await {
                    tracing::warn!(pod = %pod.facts.id, "undoing the pause container: {}", chain(&undo));
                }
                Err(error)
            }
        }
    }

    async fn start_pause(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), PodError> {
        let (facts, paths) = (&pod.facts, self.paths.pod(&pod.facts.id));
        let runtime = self.runtime(&facts.handler).await?;
        let stage = Stage::begin("looking at the monitor's binary", &facts.name);
        stage.check(self.monitor_is_static())?;
        let stage = Stage::begin("placing the pause container", &facts.name);
        let (id, dir) = (pause_id(&facts.id), paths.pause());
        let Location { spec, path: cgroup } =
            stage.check(cgroup::location(self.driver, &facts.cgroup, &id))?;
        let stage = Stage::begin("writing the pause container's files", &facts.name);
        stage.check(self.write_pause(facts, &spec))?;
        let overlay = Overlay {
            lower: vec![dir.join("lower")],
            upper: dir.join("upper"),
            work: dir.join("work"),
            options: mount_options(&self.labels_of_pod(facts)?),
            owned: facts.user_namespace().is_some(),
        };
        let exit = dir.join("exit");
        let user_namespace = paths.monitor_user_namespace(facts);
        let bundle =
            Bundle { id: &id, dir: &dir, exit, cgroup: &cgroup, overlay, user_namespace, terminal: false };
        let settings = self.settings(runtime, bundle);
        let launch = Launch { binary: self.monitor.clone(), settings };
        let stage = Stage::begin("creating the pause container", &facts.name);
        let created = stage.launched(monitor::launch(&launch).await)?;
        let stage = Stage::begin("pinning the shared PID namespace", &facts.name);
        stage.check(namespace::pin_of(created.process.pid, "pid", &paths.pid))?;
        let stage = Stage::begin("committing the pause container", &facts.name);
        stage.check(created.monitor.commit().await)?;
        let stage = Stage::begin("starting the pause container", &facts.name);
        stage.check(runtime.start(&id).await)?;
        self.watch_pause(Arc::clone(pod), created.monitor);
        Ok(())
    }

    /// In an otherwise empty root there is no dynamic linker.
    fn monitor_is_static(&self) -> Result<(), Cause> {
        let path = self.monitor.display();
        match needs_linker(&self.monitor).map_err(|e| format!("cannot read {path}: {e}"))? {
            false => Ok(()),
            true => {
                Err(format!("{path} is linked dynamically; contrib/build.sh builds the one to install")
                    .into())
            }
        }
    }

    fn write_pause(&self, facts: &PodFacts, cgroups_path: &str) -> Result<(), Cause> {
        let paths = self.paths.pod(&facts.id);
        let dir = paths.pause();
        let lower = dir.join("lower");
        let inside = pause::DIRECTORIES.map(|name| lower.join(name));
        let binary = lower.join(pause::BINARY);
        let directories = inside.into_iter().chain([dir.join("upper"), dir.join("work")]);
        for directory in directories.clone() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&binary, "")?;
        // They are the pod's alone, so they need not be shown with other owners than they have: a tmpfs before Linux 6.3
        // could not do that.
        let (uid, gid) = facts.root();
        for path in directories.chain([lower, binary]) {
            chown(path, Some(uid), Some(gid))?;
        }
        let spec = pause::build(&PauseInput {
            rootfs: &self.paths.rootfs(),
            binary: &self.monitor,
            cgroups_path,
            namespaces: paths.namespaces(facts),
            ids: facts.user_namespace(),
            host: &self.host,
            label: self.labels_of_pod(facts)?.process,
        });
        Ok(fs::write(dir.join("config.json"), serde_json::to_vec(&spec)?)?)
    }

    /// Takes up the pause container of a pod that an earlier daemon made; whether the pod is whole.
    pub(super) async fn take_up_pause(self: &Arc<Self>, pod: &Arc<Pod>) -> bool {
        let dir = self.paths.pod(&pod.facts.id).pause();
        if !dir.exists() {
            return true;
        }
        match monitor::connect(&dir).await {
            Ok(Some(monitor)) => {
                self.watch_pause(Arc::clone(pod), monitor);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(pod = %pod.facts.id, "connecting to the pause container: {}", chain(&error));
                false
            }
        }
    }

    fn watch_pause(self: &Arc<Self>, pod: Arc<Pod>, monitor: Monitor) {
        let pods = Arc::clone(self);
        tokio::spawn(async move {
            monitor.exited().await;
            if pod.is_ready() {
                tracing::error!(pod = %pod.facts.id, "the pause container has ended, and with it the pod");
                pods.lose(&pod);
            }
        });
    }

    /// A pod that can hold no containers any more, but has resources still to be given back by its stop.
    pub(super) fn lose(&self, pod: &Arc<Pod>) {
        self.end_pod(pod);
        if let Err(error) = self.record_pod(pod, PodStage::Settled(PodState::NotReady)) {
            tracing::error!(pod = %pod.facts.id, "recording the state: {}", chain(&error));
        }
    }

    /// Ends a pod's pause container and removes what it has; none is a success. All it needs to know is the ID.
    pub(super) async fn end_pause(&self, pod: &PodId) -> Result<(), PodError> {
        let paths = self.paths.pod(pod);
        let dir = paths.pause();
        let stage = Stage::begin("unpinning the shared PID namespace", pod);
        stage.check(namespace::unpin(&paths.pid))?;
        if !dir.exists() {
            return Ok(());
        }
        self.end(&pause_id(pod), &dir).await?;
        let stage = Stage::begin("removing the pause container's cgroup", pod);
        if let Some(path) = cgroup_of(&dir) {
            let cgroups = self.cgroups.clone();
            stage.check(sys::blocking(move || cgroups.remove_tree(&path)).await)?;
        }
        let stage = Stage::begin("removing the pause container's files", pod);
        stage.check(absent_is_fine(fs::remove_dir_all(&dir)))
    }
}

/// Whether a program names a dynamic linker: an ELF file of 64 bits with a program header PT_INTERP (elf(5)).
pub fn needs_linker(program: &Path) -> io::Result<bool> {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let mut head = Vec::new();
    File::open(program)?.take(4096).read_to_end(&mut head)?;
    let field = |at: usize| {
        head.get(at..at + 2).map_or(0, |bytes| usize::from(bytes[0]) | usize::from(bytes[1]) << 8)
    };
    // The table's offset, the size of an entry, and their number; each is small in any real program.
    let (table, size, count) = (field(32), field(54), field(56));
    let types = (0..count).filter_map(|n| head.get(table + n * size..)?.first_chunk::<4>());
    Ok(types.into_iter().any(|kind| *kind == PT_INTERP))
}

fn pause_id(pod: &PodId) -> String {
    format!("{pod}-pause")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_needs_a_linker_or_not() {
        assert!(needs_linker(&std::env::current_exe().unwrap()).unwrap());
        assert!(!needs_linker(Path::new("/bin/busybox")).unwrap(), "busybox-static");
        assert!(!needs_linker(Path::new("/dev/null")).unwrap());
        assert!(needs_linker(Path::new("/no/such/program")).is_err());
    }
}
