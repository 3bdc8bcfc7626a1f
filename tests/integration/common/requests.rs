//! Pods and containers in few words: builders that end in the CRI's messages, and the calls that every test makes.

use std::collections::HashMap;
use std::path::PathBuf;

use podd::api;
use tonic::Status;

use super::image::pushed_busybox;
use super::node::Node;
use super::{eventually, oci_runtime, random_tag};

/// A pod sandbox to be; `..` in its fields is the CRI's own message.
#[derive(Debug, Clone)]
pub struct PodSpec(pub api::PodSandboxConfig);

impl PodSpec {
    /// A pod of the node, in the namespace `tests`, with a network of its own.
    pub fn new(node: &Node, name: &str) -> Self {
        let uid = format!("{name}-{}", random_tag());
        Self(api::PodSandboxConfig {
            hostname: name.to_owned(),
            log_directory: node.names.log_dir().join(&uid).display().to_string(),
            metadata: Some(api::PodSandboxMetadata {
                name: name.to_owned(),
                namespace: "tests".to_owned(),
                attempt: 0,
                uid,
            }),
            labels: HashMap::from([("app".to_owned(), name.to_owned())]),
            annotations: HashMap::from([("tests/annotation".to_owned(), "kept".to_owned())]),
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: node.names.cgroup_parent.clone(),
                security_context: Some(api::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pids()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// The same pod, in which privileged containers are allowed.
    pub fn privileged(mut self) -> Self {
        self.0.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
        self
    }

    /// The same pod in the host's network; as with the kubelet, such a pod has no host name of its own.
    pub fn host_network(mut self) -> Self {
        self.0.hostname.clear();
        let linux = self.0.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().network = api::NamespaceMode::Node.into();
        self
    }

    /// The same pod, changed.
    pub fn with(mut self, change: impl FnOnce(&mut api::PodSandboxConfig)) -> Self {
        change(&mut self.0);
        self
    }
}

/// What the kubelet asks for unless a pod says otherwise: each container sees only its own processes.
fn own_pids() -> api::NamespaceOption {
    api::NamespaceOption { pid: api::NamespaceMode::Container.into(), ..Default::default() }
}

/// A container to be.
#[derive(Debug, Clone)]
pub struct ContainerSpec(pub api::ContainerConfig);

impl ContainerSpec {
    /// A container of the busybox image that runs a shell script.
    pub fn script(name: &str, script: &str) -> Self {
        Self(api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            command: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            args: vec![script.to_owned()],
            log_path: format!("{name}.log"),
            linux: Some(api::LinuxContainerConfig::default()),
            ..Default::default()
        })
    }

    /// A container of the busybox image that waits until it is told to end.
    pub fn waiting(name: &str) -> Self {
        Self::script(name, "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    }

    /// The same container, changed.
    pub fn with(mut self, change: impl FnOnce(&mut api::ContainerConfig)) -> Self {
        change(&mut self.0);
        self
    }

    /// The same container with another security context.
    pub fn secured(self, change: impl FnOnce(&mut api::LinuxContainerSecurityContext)) -> Self {
        self.with(|config| {
            change(config.linux.get_or_insert_default().security_context.get_or_insert_default())
        })
    }
}

/// A pod that runs, with what is needed to put containers into it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its ID.
    pub id: String,
    /// What it was made from; the kubelet repeats it with each container.
    pub config: api::PodSandboxConfig,
}

/// The answer of ExecSync as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The exit code.
    pub code: i32,
}

impl Node {
    /// Runs a pod.
    pub async fn run_pod(&mut self, spec: PodSpec) -> Pod {
        self.try_run_pod(&spec).await.unwrap()
    }

    /// Runs a pod, or gives the error.
    pub async fn try_run_pod(&mut self, spec: &PodSpec) -> Result<Pod, Status> {
        let config = spec.0.clone();
        let request =
            api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        self.remember(&id);
        Ok(Pod { id, config })
    }

    /// A pod's status.
    pub async fn pod_status(&mut self, id: &str) -> Result<api::PodSandboxStatus, Status> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        Ok(self.runtime.pod_sandbox_status(request).await?.into_inner().status.unwrap())
    }

    /// Stops a pod.
    pub async fn stop_pod(&mut self, id: &str) {
        let request = api::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.stop_pod_sandbox(request).await.unwrap();
    }

    /// Removes a pod.
    pub async fn remove_pod(&mut self, id: &str) {
        let request = api::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.remove_pod_sandbox(request).await.unwrap();
    }

    /// The IDs of all pods that the filter lets through.
    pub async fn pod_ids(&mut self, filter: Option<api::PodSandboxFilter>) -> Vec<String> {
        let request = api::ListPodSandboxRequest { filter };
        self.runtime
            .list_pod_sandbox(request)
            .await
            .unwrap()
            .into_inner()
            .items
            .into_iter()
            .map(|p| p.id)
            .collect()
    }

    /// Pulls an image without credentials.
    pub async fn pull(&mut self, reference: &str) -> Result<String, Status> {
        self.pull_as(reference, None).await
    }

    /// Pulls an image; gives `image_ref`.
    pub async fn pull_as(
        &mut self,
        reference: &str,
        auth: Option<api::AuthConfig>,
    ) -> Result<String, Status> {
        let image = Some(api::ImageSpec { image: reference.to_owned(), ..Default::default() });
        let request = api::PullImageRequest { image, auth, sandbox_config: None };
        Ok(self.image.pull_image(request).await?.into_inner().image_ref)
    }

    /// An image's status; `None` when it is absent.
    pub async fn image_status(&mut self, reference: &str) -> Option<api::Image> {
        let image = Some(api::ImageSpec { image: reference.to_owned(), ..Default::default() });
        self.image
            .image_status(api::ImageStatusRequest { image, verbose: false })
            .await
            .unwrap()
            .into_inner()
            .image
    }

    /// Creates a container; one that names no image gets busybox, pulled as the kubelet would.
    pub async fn create(&mut self, pod: &Pod, spec: ContainerSpec) -> String {
        self.try_create(pod, spec).await.unwrap()
    }

    /// Creates a container, or gives the error. As with the kubelet, its namespaces are those of its pod.
    pub async fn try_create(&mut self, pod: &Pod, spec: ContainerSpec) -> Result<String, Status> {
        let mut config = spec.0;
        let of_pod = pod.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        if context.namespace_options.is_none() {
            context.namespace_options = of_pod.and_then(|context| context.namespace_options.clone());
        }
        if config.image.is_none() {
            let reference = &pushed_busybox().await.reference;
            let image = self.pull(reference).await?;
            config.image =
                Some(api::ImageSpec { image, user_specified_image: reference.clone(), ..Default::default() });
        }
        let request = api::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    /// Starts a container.
    pub async fn start_container(&mut self, id: &str) -> Result<(), Status> {
        let request = api::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.start_container(request).await.map(drop)
    }

    /// Creates and starts a container, whose first process is then that of the command.
    pub async fn run(&mut self, pod: &Pod, spec: ContainerSpec) -> String {
        let id = self.create(pod, spec).await;
        self.start_container(&id).await.unwrap();
        if oci_runtime() == "runc" {
            self.executed(&id).await;
        }
        id
    }

    /// runc's start returns before its own init has executed the command.
    async fn executed(&mut self, id: &str) {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.runtime.container_status(request).await.unwrap().into_inner();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        let name = format!("/proc/{}/comm", info["pid"]);
        eventually("the command is executed", || async {
            let name = std::fs::read_to_string(&name).unwrap_or_default();
            (!name.trim_end().ends_with(":INIT]")).then_some(())
        })
        .await;
    }

    /// Creates and starts a container, waits for its end, and gives its exit code and standard output.
    pub async fn run_to_end(&mut self, pod: &Pod, spec: ContainerSpec) -> (i32, String) {
        let log = self.log_path(pod, &spec.0.log_path);
        let id = self.run(pod, spec).await;
        let status = self.wait_for_exit(&id).await;
        (status.exit_code, log_text(&log, "stdout"))
    }

    /// Where a container of the pod logs to.
    pub fn log_path(&self, pod: &Pod, log_path: &str) -> PathBuf {
        PathBuf::from(&pod.config.log_directory).join(log_path)
    }

    /// A container's status.
    pub async fn container_status(&mut self, id: &str) -> Result<api::ContainerStatus, Status> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        Ok(self.runtime.container_status(request).await?.into_inner().status.unwrap())
    }

    /// Waits until the container has exited.
    pub async fn wait_for_exit(&mut self, id: &str) -> api::ContainerStatus {
        let client = self.runtime.clone();
        eventually(&format!("the exit of {id}"), || {
            let mut client = client.clone();
            let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
            async move {
                let status = client.container_status(request).await.unwrap().into_inner().status.unwrap();
                (status.state() == api::ContainerState::ContainerExited).then_some(status)
            }
        })
        .await
    }

    /// Stops a container, with so many seconds of grace.
    pub async fn stop_container(&mut self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = api::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.runtime.stop_container(request).await.map(drop)
    }

    /// Removes a container.
    pub async fn remove_container(&mut self, id: &str) -> Result<(), Status> {
        let request = api::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.remove_container(request).await.map(drop)
    }

    /// Runs a shell script in a container by ExecSync; a timeout of 0 is none.
    pub async fn exec(&mut self, id: &str, script: &str, timeout: i64) -> Result<Ran, Status> {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = api::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        let answer = self.runtime.exec_sync(request).await?.into_inner();
        Ok(Ran {
            out: String::from_utf8_lossy(&answer.stdout).into_owned(),
            err: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }

    /// Runs a shell script in a container, which must succeed, and gives its standard output without the line break.
    pub async fn exec_ok(&mut self, id: &str, script: &str) -> String {
        let ran = self.exec(id, script, 30).await.unwrap();
        assert_eq!(ran.code, 0, "{script}: {}{}", ran.out, ran.err);
        ran.out.trim_end().to_owned()
    }
}

/// What a container has written to one of its streams, out of its log in the CRI's format.
pub fn log_text(path: &std::path::Path, stream: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut out = String::new();
    for line in text.lines() {
        let mut parts = line.splitn(4, ' ');
        let (_time, of, kind) = (parts.next(), parts.next(), parts.next());
        if of == Some(stream) {
            out.push_str(parts.next().unwrap_or_default());
            out.push_str(if kind == Some("F") { "\n" } else { "" });
        }
    }
    out
}
