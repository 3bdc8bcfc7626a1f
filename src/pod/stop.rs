//! StopContainer and StopPodSandbox.
//!
//! The stop signal is sent once and opens a grace period; a second stop can only shorten it (B9). After it SIGKILL is sent,
//! and nothing is reported stopped while a process of it lives (B10). Neither holds the pod's lock while it waits.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::Instrument;

use super::Pods;
use super::container::{Container, StopPhase};
use super::error::{PodError, Stage, chain};
use super::events::EventKind;
use super::sandbox::{Pod, PodStage};
use super::state::{ContainerState, PodState};
use crate::sys;

const SIGKILL: i32 = 9;
/// How long a killed process may take to be gone before the stop gives an error: longer than a slow disk's writes.
const KILL_LIMIT: Duration = Duration::from_secs(100);
/// How often what survived SIGKILL is looked for again.
const KILL_PERIOD: Duration = Duration::from_millis(500);
/// The first and the longest pause before an init is looked at again that cannot receive its stop signal yet.
const DEAF_PERIODS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Far enough in the future for a grace without end, near enough to be added to an instant.
const GRACE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Pods {
    /// Stops a container; one that is unknown or has ended is a success (B3).
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), PodError> {
        let container = match self.container(id) {
            Err(PodError::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        self.stop(&container, grace).instrument(container.span()).await
    }

    async fn stop(&self, container: &Container, grace: Duration) -> Result<(), PodError> {
        let deadline = Instant::now() + grace.min(GRACE_MAX);
        let mut first = false;
        container.stop.send_modify(|phase| match phase {
            StopPhase::None => {
                first = true;
                *phase = StopPhase::Grace { deadline };
            }
            StopPhase::Grace { deadline: set } => *set = deadline.min(*set),
            StopPhase::Killing => {}
        });
        match container.state() {
            ContainerState::Exited(_) => return Ok(()),
            ContainerState::Running { .. } if first && !grace.is_zero() => tokio::select! {
                () = self.ask_to_stop(container) => {}
                () = self.grace(container) => {}
            },
            ContainerState::Running { .. } => {}
            // It has not run, so there is nothing to ask.
            ContainerState::Created => container.stop.send_modify(|phase| *phase = StopPhase::Killing),
        }
        self.grace(container).await;
        self.kill_and_wait(container).await
    }

    /// Stops a pod and what runs in it; one that is unknown or stopped is a success (B3).
    pub async fn stop_pod(&self, id: &str) -> Result<(), PodError> {
        let pod = match self.pod(id) {
            Err(PodError::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        let stop = async {
            let _transition = pod.transition.lock().await;
            self.stop_locked(&pod).await
        };
        stop.instrument(pod.facts.span()).await
    }

    /// Stops a pod whose lock the caller holds.
    pub(super) async fn stop_locked(&self, pod: &Arc<Pod>) -> Result<(), PodError> {
        let containers = self.containers_of(&pod.facts.id);
        let stops = containers.iter().map(|container| self.kill_and_wait(container));
        join_all(stops).await.into_iter().collect::<Result<(), _>>()?;
        if pod.is_ready() {
            let stage = Stage::begin("recording the stop", &pod.facts.name);
            stage.check(self.record_pod(pod, PodStage::Settled(PodState::NotReady)))?;
            self.end_pod(pod);
        }
        if !pod.is_released() {
            self.release(&pod.facts.id).await.into_iter().next().map_or(Ok(()), Err)?;
            pod.released();
            tracing::info!(pod = %pod.facts.id, "pod is stopped");
        }
        Ok(())
    }

    /// Publishes that a pod can hold no containers any more.
    pub(super) fn end_pod(&self, pod: &Arc<Pod>) {
        self.publish(pod, |teller| {
            if pod.is_ready() {
                pod.state.send_replace(PodState::NotReady);
                teller.tell(EventKind::Stopped, pod.facts.id.as_str());
            }
        });
    }

    /// Sends SIGKILL, and does not wait.
    pub(super) async fn kill(&self, container: &Container) {
        container.stop.send_replace(StopPhase::Killing);
        if let Err(error) = container.process.signal(SIGKILL) {
            tracing::warn!(container = %container.facts.id, "killing the init: {error}");
        }
        if !container.facts.own_pid_namespace {
            self.kill_rest(container).await;
        }
    }

    /// Kills what an init has left behind where no PID namespace of its own ends with it.
    pub(super) async fn kill_rest(&self, container: &Container) {
        let (cgroups, path) = (self.cgroups.clone(), container.facts.cgroup.clone());
        if let Err(error) = sys::blocking(move || cgroups.kill_all(&path)).await {
            tracing::warn!(container = %container.facts.id, "killing what the init has left: {}", chain(&error));
        }
    }

    /// Kills what is left of a container and returns when it is gone.
    pub(super) async fn kill_and_wait(&self, container: &Container) -> Result<(), PodError> {
        let began = Instant::now();
        while !matches!(container.state(), ContainerState::Exited(_)) {
            self.kill(container).await;
            if tokio::time::timeout(KILL_PERIOD, container.ended()).await.is_ok() {
                break;
            }
            if began.elapsed() > KILL_LIMIT {
                let stage = Stage::begin("waiting for a killed process to end", &container.facts.name);
                let text =
                    format!("process {} is still there; look at its state in /proc", container.process.pid);
                return stage.check(Err(text));
            }
        }
        Ok(())
    }

    /// Sends the stop signal, once. The kernel keeps from the init of a PID namespace what it has no handler for
    /// (pid_namespaces(7)), and a program that was started a moment ago has none yet: the signal waits until it has.
    async fn ask_to_stop(&self, container: &Container) {
        let (mut pause, longest) = DEAF_PERIODS;
        while container.facts.own_pid_namespace && container.process.is_deaf_to(container.facts.stop_signal) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        tracing::info!(container = %container.facts.id, signal = container.facts.stop_signal, "stopping");
        if let Err(error) = container.process.signal(container.facts.stop_signal) {
            tracing::warn!(container = %container.facts.id, "sending the stop signal: {error}");
        }
    }

    /// Waits until the container has ended or its grace period has; the deadline may come nearer meanwhile.
    async fn grace(&self, container: &Container) {
        let mut phase = container.stop.subscribe();
        loop {
            let deadline = match *phase.borrow_and_update() {
                StopPhase::Grace { deadline } => deadline,
                StopPhase::None | StopPhase::Killing => return,
            };
            tokio::select! {
                () = container.ended() => return,
                () = tokio::time::sleep_until(deadline) => return,
                _ = phase.changed() => {}
            }
        }
    }
}
