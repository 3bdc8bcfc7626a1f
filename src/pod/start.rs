//! StartContainer.

use std::sync::Arc;

use tracing::Instrument;

use super::Pods;
use super::container::{Container, ContainerStage};
use super::error::{PodError, Stage, chain};
use super::events::EventKind;
use super::state::{ContainerState, now};

impl Pods {
    /// Lets a created container's init go.
    pub async fn start_container(&self, id: &str) -> Result<(), PodError> {
        let container = self.container(id)?;
        Arc::clone(&container.pod.timeline).scope(self.start(&container)).instrument(container.span()).await
    }

    async fn start(&self, container: &Container) -> Result<(), PodError> {
        let _transition = container.pod.transition.lock().await;
        let runtime = self.runtime(&container.facts.runtime).await?;
        let state = self.publish(&container.pod, |_| container.begin_start());
        if state != ContainerState::Created {
            let (kind, id, state) = ("container", container.facts.id.to_string(), state.name());
            return Err(PodError::State { kind, id, state, wanted: "only a created one can be started" });
        }
        let began = now();
        let stage = Stage::begin("starting the container with its runtime", &container.facts.name);
        if let Err(error) = stage.check(runtime.start(container.facts.id.as_str()).await) {
            self.kill(container).await;
            let ended = container.process.ended().await;
            let _ = ended
                .inspect_err(|e| tracing::warn!(container = %container.facts.id, "watching its end: {e}"));
            self.publish(&container.pod, |teller| {
                container.state.send_modify(|state| state.failed_to_start(began, chain(&error)));
                container.end_start();
                teller.tell(EventKind::Stopped, container.facts.id.as_str());
            });
            self.record_state(container);
            return Err(error);
        }
        self.publish(&container.pod, |teller| {
            container.state.send_modify(|state| state.started(began));
            container.end_start();
            teller.tell(EventKind::Started, container.facts.id.as_str());
            if let ContainerState::Exited(_) = container.state() {
                teller.tell(EventKind::Stopped, container.facts.id.as_str());
            }
        });
        self.record_state(container);
        tracing::info!(container = %container.facts.id, name = %container.facts.name, "container is started");
        Ok(())
    }

    /// Writes the state down. A failure is logged and no more: what is written is read only after a restart of the daemon,
    /// which then looks at the process and the exit record as well.
    pub(super) fn record_state(&self, container: &Container) {
        let settled = ContainerStage::Settled { process: container.process, state: container.state() };
        if let Err(error) = self.write_container(&container.facts, container.updated().as_ref(), settled) {
            tracing::error!(container = %container.facts.id, "recording the state: {}", chain(&error));
        }
    }
}
