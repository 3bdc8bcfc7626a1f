//! Exits: one task per living container waits for its monitor's word, publishes the new state, and then has the runtime
//! forget the container. Publishing needs no lock, so a stop that waits under the pod's lock is woken.

use std::sync::Arc;

use tracing::Instrument;

use super::Pods;
use super::container::Container;
use super::error::chain;
use super::events::EventKind;
use super::state::{ContainerState, Reason};
use crate::monitor::{self, Ended, ExitRecord};
use crate::record::RecordError;
use crate::telemetry::metrics;

impl Pods {
    /// Takes a new container into the index, and watches it.
    pub(super) fn adopt(self: &Arc<Self>, container: Container) {
        let container = Arc::new(container);
        self.publish(&container.pod, |teller| {
            self.index.add_container(Arc::clone(&container));
            teller.tell(EventKind::Created, container.facts.id.as_str());
        });
        self.watch(&container);
    }

    /// Watches a container that is in the index, if it lives.
    pub(super) fn watch(self: &Arc<Self>, container: &Arc<Container>) {
        self.attention.notify_one();
        if !matches!(container.state(), ContainerState::Exited(_)) {
            let (pods, container) = (Arc::clone(self), Arc::clone(container));
            // Not within the span of the call that makes it, which must not last as long as the container.
            let (pod, id) = (&container.facts.name.pod, &container.facts.id);
            let span = tracing::info_span!(parent: None, "container", %pod, container = %id);
            tokio::spawn(async move { pods.see_it_end(&container).await }.instrument(span));
        }
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
        self.publish(&container.pod, |teller| {
            let known = matches!(container.state(), ContainerState::Exited(_));
            container.state.send_modify(|state| match exit {
                Ok(Some(exit)) => state.exited(exit.finished_at, exit.exit_code, exit.oom_killed),
                Ok(None) => state.lost("its monitor died before it"),
                Err(error) => state.lost(&format!("its exit record cannot be read: {}", chain(&error))),
            });
            // A start that has not returned yet comes first: it tells of both.
            if !known && !container.is_starting() {
                teller.tell(EventKind::Stopped, id.as_str());
            }
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
