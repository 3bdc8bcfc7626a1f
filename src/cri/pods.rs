//! The RPCs of pod sandboxes.

use std::collections::HashMap;

use serde_json::json;
use tonic::Status;

use super::{Service, error, render, validate};
use crate::api;
use crate::pod::{ContainerView, Pod, PodResources, PodUpdate, PodView};

impl Service {
    pub(super) async fn run_pod_sandbox(&self, request: api::RunPodSandboxRequest) -> Result<String, Status> {
        const RPC: &str = "RunPodSandbox";
        let request = validate::run_pod(request).map_err(|e| error::pod(RPC, e))?;
        let pods = self.pods.clone();
        let pod = self.operations.run(async move { pods.run_pod(request).await }).await?;
        let pod = pod.map_err(|e| error::pod(RPC, e))?;
        pod.claim();
        Ok(pod.facts.id.to_string())
    }

    pub(super) async fn stop_pod_sandbox(&self, id: String) -> Result<(), Status> {
        let pods = self.pods.clone();
        let result = self.operations.run(async move { pods.stop_pod(&id).await }).await?;
        result.map_err(|e| error::pod("StopPodSandbox", e))
    }

    pub(super) async fn remove_pod_sandbox(&self, id: String) -> Result<(), Status> {
        let pods = self.pods.clone();
        let result = self.operations.run(async move { pods.remove_pod(&id).await }).await?;
        result.map_err(|e| error::pod("RemovePodSandbox", e))
    }

    pub(super) async fn update_pod_sandbox_resources(
        &self,
        request: api::UpdatePodSandboxResourcesRequest,
    ) -> Result<(), Status> {
        let told = PodResources { overhead: request.overhead, resources: request.resources };
        let update = PodUpdate { id: request.pod_sandbox_id, told };
        let pods = self.pods.clone();
        let result = self.operations.run(async move { pods.update_pod(update).await }).await?;
        result.map_err(|e| error::pod("UpdatePodSandboxResources", e))
    }

    pub(super) fn pod_sandbox_status(
        &self,
        request: &api::PodSandboxStatusRequest,
    ) -> Result<api::PodSandboxStatusResponse, Status> {
        let pod = self.pods.pod(&request.pod_sandbox_id).map_err(|e| error::pod("PodSandboxStatus", e))?;
        // Before the states are looked at: whoever orders them by this time must not take them for newer than they are.
        let timestamp = self.pods.events().tick();
        let containers = self.pods.containers_of(&pod.facts.id).into_iter().map(ContainerView::of);
        Ok(api::PodSandboxStatusResponse {
            info: if request.verbose { self.pod_info(&pod) } else { HashMap::new() },
            containers_statuses: containers.map(|view| render::container_status(&view)).collect(),
            status: Some(render::pod_status(&PodView::of(pod))),
            timestamp,
        })
    }

    pub(super) fn list_pod_sandboxes(&self, filter: Option<api::PodSandboxFilter>) -> Vec<api::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let wanted = |pod: &Pod| {
            pod.facts.id.as_str().starts_with(&filter.id)
                && filter.state.is_none_or(|state| state.state() == render::pod_state(&pod.state()))
                && render::selected(&pod.facts.config.labels, &filter.label_selector)
        };
        self.pods.pods().iter().filter(|pod| wanted(pod)).map(|pod| render::pod_item(pod)).collect()
    }

    fn pod_info(&self, pod: &Pod) -> HashMap<String, String> {
        let timeline = json!(pod.timeline.entries());
        HashMap::from([
            ("info".to_owned(), self.pod_json(pod).to_string()),
            ("timeline".to_owned(), timeline.to_string()),
        ])
    }
}
