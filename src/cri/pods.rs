//! The RPCs of pod sandboxes.

use std::collections::HashMap;

use serde_json::json;
use tonic::Status;

use super::{Service, error, render, validate};
use crate::api;
use crate::pod::{Pod, PodResources, PodUpdate};

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
        let containers = self.pods.containers_of(&pod.facts.id);
        Ok(api::PodSandboxStatusResponse {
            status: Some(render::pod_status(&pod)),
            info: if request.verbose { self.pod_info(&pod) } else { HashMap::new() },
            containers_statuses: containers
                .iter()
                .map(|container| render::container_status(container))
                .collect(),
            timestamp: crate::pod::now(),
        })
    }

    pub(super) fn list_pod_sandboxes(&self, filter: Option<api::PodSandboxFilter>) -> Vec<api::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let wanted = |pod: &Pod| {
            pod.facts.id.as_str().starts_with(&filter.id)
                && filter.state.is_none_or(|state| state.state() == render::pod_state(pod))
                && render::selected(&pod.facts.config.labels, &filter.label_selector)
        };
        self.pods.pods().iter().filter(|pod| wanted(pod)).map(|pod| render::pod_item(pod)).collect()
    }

    fn pod_info(&self, pod: &Pod) -> HashMap<String, String> {
        let info = json!({
            "runtimeHandler": pod.facts.handler,
            "cgroup": pod.facts.cgroup,
            "selinuxLevel": pod.facts.selinux_level,
            "resources": pod.resources(),
            "limitedBy": if pod.facts.made_cgroup.is_some() { "podd" } else { "client" },
            "config": pod.facts.config,
            "network": pod.state(),
        });
        let timeline = json!(pod.timeline.entries());
        HashMap::from([("info".to_owned(), info.to_string()), ("timeline".to_owned(), timeline.to_string())])
    }
}
