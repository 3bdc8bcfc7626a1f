//! The client side of the CRI: what `podd top` and `podd pods` see of a node, from podd or any other CRI runtime.
//!
//! Every call has a time limit. What a runtime does not implement is `None`, and no error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use podd::api;
use podd::api::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// A runtime that lives answers within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer that is taken, as the kubelet does (B30).
const LARGEST_ANSWER: usize = 16 << 20;

/// A connection to a runtime's socket, made again by itself when it breaks.
#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: PathBuf,
    runtime: RuntimeServiceClient<Channel>,
}

impl Client {
    /// Connects, so that a socket without a runtime is known at once.
    pub(super) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let connecting = || {
            let shown = socket.display();
            format!(
                "connecting to {shown}; does podd run, and may you use its socket? (--socket names another)"
            )
        };
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).with_context(connecting)?;
        let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
        let channel = endpoint.connect().await.map_err(|error| innermost(&error)).with_context(connecting)?;
        let runtime = RuntimeServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    /// Who answers.
    pub(super) async fn version(&mut self) -> anyhow::Result<api::VersionResponse> {
        let answer = self.runtime.version(api::VersionRequest { version: "0.1.0".to_owned() }).await;
        self.needed("Version", answer)
    }

    /// The conditions of the runtime.
    pub(super) async fn status(&mut self) -> anyhow::Result<api::StatusResponse> {
        let answer = self.runtime.status(api::StatusRequest { verbose: false }).await;
        self.needed("Status", answer)
    }

    /// All pods.
    pub(super) async fn pods(&mut self) -> anyhow::Result<Vec<api::PodSandbox>> {
        let answer = self.runtime.list_pod_sandbox(api::ListPodSandboxRequest::default()).await;
        Ok(self.needed("ListPodSandbox", answer)?.items)
    }

    /// All containers.
    pub(super) async fn containers(&mut self) -> anyhow::Result<Vec<api::Container>> {
        let answer = self.runtime.list_containers(api::ListContainersRequest::default()).await;
        Ok(self.needed("ListContainers", answer)?.containers)
    }

    /// What all containers use.
    pub(super) async fn container_stats(&mut self) -> anyhow::Result<Option<Vec<api::ContainerStats>>> {
        let answer = self.runtime.list_container_stats(api::ListContainerStatsRequest::default()).await;
        Ok(self.optional("ListContainerStats", answer)?.map(|answer| answer.stats))
    }

    /// What all pods use.
    pub(super) async fn pod_stats(&mut self) -> anyhow::Result<Option<Vec<api::PodSandboxStats>>> {
        let answer = self.runtime.list_pod_sandbox_stats(api::ListPodSandboxStatsRequest::default()).await;
        Ok(self.optional("ListPodSandboxStats", answer)?.map(|answer| answer.stats))
    }

    /// One pod; `None` when it has gone meanwhile.
    pub(super) async fn pod_status(
        &mut self,
        id: &str,
        verbose: bool,
    ) -> anyhow::Result<Option<api::PodSandboxStatusResponse>> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose };
        match self.runtime.pod_sandbox_status(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            answer => self.needed("PodSandboxStatus", answer).map(Some),
        }
    }

    /// One container; `None` when it has gone meanwhile.
    pub(super) async fn container_status(
        &mut self,
        id: &str,
    ) -> anyhow::Result<Option<api::ContainerStatus>> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        match self.runtime.container_status(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            answer => Ok(self.needed("ContainerStatus", answer)?.status),
        }
    }

    fn needed<T>(&self, call: &str, answer: Result<Response<T>, Status>) -> anyhow::Result<T> {
        let failed =
            |status: Status| anyhow::anyhow!("{call} at {}: {}", self.socket.display(), explained(&status));
        answer.map(Response::into_inner).map_err(failed)
    }

    fn optional<T>(&self, call: &str, answer: Result<Response<T>, Status>) -> anyhow::Result<Option<T>> {
        match answer {
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            answer => self.needed(call, answer).map(Some),
        }
    }
}

/// A status in one line: its code where there is nothing else.
fn explained(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

/// What lies below the transport's own words, which say only that there was an error.
fn innermost(error: &tonic::transport::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    anyhow::anyhow!("{cause}")
}
