//! The RPCs of containers.

use std::collections::HashMap;
use std::time::Duration;

use tonic::Status;

use super::{Service, error, render, validate};
use crate::api;
use crate::pod::{Container, ContainerView};

impl Service {
    pub(super) async fn create_container(
        &self,
        request: api::CreateContainerRequest,
    ) -> Result<String, Status> {
        const RPC: &str = "CreateContainer";
        let request = validate::create_container(request).map_err(|e| error::pod(RPC, e))?;
        let pods = self.pods.clone();
        let container = self.operations.run(async move { pods.create_container(request).await }).await?;
        let container = container.map_err(|e| error::pod(RPC, e))?;
        container.claim();
        Ok(container.facts.id.to_string())
    }

    pub(super) async fn start_container(&self, id: String) -> Result<(), Status> {
        let pods = self.pods.clone();
        let result = self.operations.run(async move { pods.start_container(&id).await }).await?;
        result.map_err(|e| error::pod("StartContainer", e))
    }

    pub(super) async fn stop_container(&self, request: api::StopContainerRequest) -> Result<(), Status> {
        let pods = self.pods.clone();
        let grace = Duration::from_secs(request.timeout.max(0).unsigned_abs());
        let stop = async move { pods.stop_container(&request.container_id, grace).await };
        self.operations.run(stop).await?.map_err(|e| error::pod("StopContainer", e))
    }

    pub(super) async fn remove_container(&self, id: String) -> Result<(), Status> {
        let pods = self.pods.clone();
        let result = self.operations.run(async move { pods.remove_container(&id).await }).await?;
        result.map_err(|e| error::pod("RemoveContainer", e))
    }

    pub(super) async fn update_container_resources(
        &self,
        request: api::UpdateContainerResourcesRequest,
    ) -> Result<(), Status> {
        const RPC: &str = "UpdateContainerResources";
        let (id, asked) = validate::update_container(request).map_err(|e| error::pod(RPC, e))?;
        let pods = self.pods.clone();
        let result = self.operations.run(async move { pods.update_container(&id, &asked).await }).await?;
        result.map_err(|e| error::pod(RPC, e))
    }

    pub(super) async fn reopen_container_log(&self, id: String) -> Result<(), Status> {
        let result = self.pods.reopen_log(&id).await;
        result.map_err(|e| error::pod("ReopenContainerLog", e))
    }

    /// Not detached: when nobody waits for the answer any more, the command is killed.
    pub(super) async fn exec_sync(
        &self,
        request: api::ExecSyncRequest,
    ) -> Result<api::ExecSyncResponse, Status> {
        const RPC: &str = "ExecSync";
        validate::command(&request.cmd).map_err(|e| error::pod(RPC, e))?;
        let timeout =
            u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let command = self.pods.exec_sync(&request.container_id, &request.cmd, timeout);
        let output = self.operations.attend(command).await;
        let mut output = output.map_err(|e| error::pod(RPC, e))?;
        cut_to_fit(&mut output.stdout, &mut output.stderr);
        Ok(api::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        })
    }

    pub(super) fn container_status(
        &self,
        request: &api::ContainerStatusRequest,
    ) -> Result<api::ContainerStatusResponse, Status> {
        let found = self.pods.container(&request.container_id);
        let container = found.map_err(|e| error::pod("ContainerStatus", e))?;
        Ok(api::ContainerStatusResponse {
            info: if request.verbose { self.container_info(&container) } else { HashMap::new() },
            status: Some(render::container_status(&ContainerView::of(container))),
        })
    }

    pub(super) fn list_containers(&self, filter: Option<api::ContainerFilter>) -> Vec<api::Container> {
        let filter = filter.unwrap_or_default();
        let wanted = |container: &Container| {
            container.facts.id.as_str().starts_with(&filter.id)
                && container.facts.name.pod.as_str().starts_with(&filter.pod_sandbox_id)
                && filter
                    .state
                    .is_none_or(|state| state.state() == render::container_state(&container.state()))
                && render::selected(&container.facts.config.labels, &filter.label_selector)
        };
        let containers = self.pods.containers();
        containers.iter().filter(|container| wanted(container)).map(|c| render::container_item(c)).collect()
    }

    fn container_info(&self, container: &Container) -> HashMap<String, String> {
        HashMap::from([("info".to_owned(), self.container_json(container).to_string())])
    }
}

/// Cuts the streams so that the answer fits the largest message that clients take: the kubelet would rather have most of
/// the output than none (B12). The shorter stream keeps up to half of the room.
fn cut_to_fit(stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) {
    const ROOM: usize = super::MESSAGE_MAX - 1024;
    let (out, err) = (stdout.len(), stderr.len());
    if out + err > ROOM {
        stdout.truncate(ROOM - err.min(ROOM / 2));
        stderr.truncate(ROOM - stdout.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b12_output_is_cut_to_what_a_message_holds() {
        for (out, err) in
            [(0, 0), (20 << 20, 0), (0, 20 << 20), (16 << 20, 16 << 20), (16 << 20, 9), (5, 16 << 20)]
        {
            let (mut stdout, mut stderr) = (vec![0; out], vec![0; err]);
            cut_to_fit(&mut stdout, &mut stderr);
            assert!(stdout.len() + stderr.len() < super::super::MESSAGE_MAX);
            let kept = stdout.len() + stderr.len();
            assert!(kept == out + err || kept >= super::super::MESSAGE_MAX - 1024, "{out} {err}: {kept}");
            assert!(out > 9 || stdout.len() == out);
            assert!(err > 9 || stderr.len() == err);
        }
    }
}
