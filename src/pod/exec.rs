//! ExecSync and ReopenContainerLog.

use std::fs;
use std::time::Duration;

use oci_spec::runtime::Process as SpecProcess;
use serde::Deserialize;

use super::Pods;
use super::container::{Container, StopPhase};
use super::error::{Cause, PodError, Stage};
use super::state::ContainerState;
use crate::runtime::{ExecError, ExecOutput};
use crate::spec;

/// The one part of the runtime's configuration that an exec starts from.
#[derive(Deserialize)]
struct SpecPart {
    process: SpecProcess,
}

impl Pods {
    /// Runs a command in a container and returns its output; it may run during the grace period of a stop, and not once
    /// killing has begun (B13).
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, PodError> {
        let container = self.running(id, "commands need a running one")?;
        if *container.stop.borrow() == StopPhase::Killing {
            let (kind, id) = ("container", container.facts.id.to_string());
            return Err(PodError::State {
                kind,
                id,
                state: "being killed",
                wanted: "commands need a running one",
            });
        }
        let (facts, paths) = (&container.facts, self.paths.container(&container.facts.id));
        let stage = Stage::begin("reading the runtime's configuration", &facts.name);
        let read = fs::read(paths.spec()).map_err(Cause::from);
        let part = stage.check(read.and_then(|text| Ok(serde_json::from_slice::<SpecPart>(&text)?)))?;
        let mut process = spec::exec_process(&part.process, command, false);
        if let Some(score) = self.updated_score(&container) {
            process.set_oom_score_adj(Some(score));
        }
        let runtime = self.runtime(&facts.runtime).await?;
        let stage = Stage::begin("running a command with the runtime", &facts.name);
        match runtime.exec_sync(facts.id.as_str(), &process, &paths.dir, timeout).await {
            Err(ExecError::Timeout { .. }) => Err(PodError::ExecTimeout {
                id: facts.id.to_string(),
                command: command.first().cloned().unwrap_or_default(),
                timeout: timeout.unwrap_or_default(),
            }),
            result => stage.check(result),
        }
    }

    /// Has the monitor open the log anew, after the kubelet has rotated it; only for running containers (B18).
    pub async fn reopen_log(&self, id: &str) -> Result<(), PodError> {
        let container = self.running(id, "only a running one's log can be opened anew")?;
        let stage = Stage::begin("opening the log anew", &container.facts.name);
        match &container.monitor {
            Some(monitor) => stage.check(monitor.reopen_log().await),
            None => stage.check(Err("its monitor has died; its output is lost until it is started anew")),
        }
    }

    fn running(&self, id: &str, wanted: &'static str) -> Result<std::sync::Arc<Container>, PodError> {
        let container = self.container(id)?;
        match container.state() {
            ContainerState::Running { .. } => Ok(container),
            state => {
                let (kind, id) = ("container", container.facts.id.to_string());
                Err(PodError::State { kind, id, state: state.name(), wanted })
            }
        }
    }
}
