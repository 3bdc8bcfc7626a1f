//! Exits: one task per living container waits for its monitor's word, publishes the new state, and then has the runtime
//! forget the container. Publishing needs no lock, so a stop that waits under the pod's lock is woken.

use std::sync::Arc;

use tracing::Instrument;

use super::Pods;
use super::container::{Container, ContainerFacts};
use super::error::chain;
use super::sandbox::Pod;
use super::state::{ContainerState, Reason};
use crate::monitor::{self, Ended, ExitRecord, Monitor};
use crate::record::RecordError;
use crate::sys::process::Process;
use crate::telemetry::metrics;

impl Pods {
    /// Takes a container into the index, and watches it if it lives.
    pub(super) fn adopt(
        self: &Arc<Self>,
        facts: ContainerFacts,
        pod: &Arc<Pod>,
        process: Process,
        state: ContainerState,
        monitor: Option<Monitor>,
    ) -> Arc<Container> {
        let alive = !matches!(state, ContainerState::Exited(_));
        let container = Arc::new(Container::new(facts, Arc::clone(pod), process, state, monitor));
        self.index.add_container(Arc::clone(&container));
        self.attention.notify_one();
        if alive {
            let (pods, container) = (Arc::clone(self), Arc::clone(&container));
            let span = container.span();
            tokio::spawn(async move { pods.see_it_end(&container).await }.instrument(span));
        }
        container
    }

    async fn see_it_end(&self, container: &Container) {
        let id = &container.facts.id;
        let told = match &container.monitor {
            Some(monitor) => monitor.exited().await,
            None => Ended::Lost,
        };
        let exit = match told {
            Ended::Exited(exit) => Ok(Some(exit)),
            Ended::Lost => self.end_without_a_word(container).await,
        };
        if !container.facts.own_pid_namespace {
            self.kill_rest(container).await;
        }
        container.state.send_modify(|state| match exit {
            Ok(Some(exit)) => state.exited(exit.finished_at, exit.exit_code, exit.oom_killed),
            Ok(None) => state.lost("its monitor died before it"),
            Err(error) => state.lost(&format!("its exit record cannot be read: {}", chain(&error))),
        });
        self.disk.ended(id);
        if let ContainerState::Exited(exit) = container.state() {
            metrics().exit(exit.reason.as_str(), exit.reason == Reason::OomKilled);
            tracing::info!(container = %id, code = exit.code, reason = exit.reason.as_str(), "container has ended");
        }
        self.forget(container).await;
    }

    /// The exit of a container whose monitor is gone. Without an exit record the monitor was killed, and the container may
    /// well live on.
    async fn end_without_a_word(&self, container: &Container) -> Result<Option<ExitRecord>, RecordError> {
        let (id, path) = (&container.facts.id, self.paths.container(&container.facts.id).exit);
        if let Ok(Some(exit)) = monitor::read_exit(&path) {
            return Ok(Some(exit));
        }
        tracing::error!(container = %id, "the monitor has died; the output is lost from now on");
        container.lose_monitor();
        metrics().monitor_lost();
        if let Err(error) = container.process.ended().await {
            tracing::error!(container = %id, "watching the init: {error}");
        }
        monitor::read_exit(&path)
    }

    /// Frees the runtime's state and the cgroup of a container that has ended. A removal does so as well, if this fails.
    async fn forget(&self, container: &Container) {
        let _transition = container.pod.transition.lock().await;
        if let Err(error) = self.delete(container.facts.id.as_str()).await {
            tracing::warn!(container = %container.facts.id, "{}", chain(&error));
        }
    }
}
