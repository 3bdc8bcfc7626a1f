//! Who is measured: podd, and the machine's containerd with directories of its own, asked over the same CRI.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use podd::api;
use podd::api::image_service_client::ImageServiceClient;
use podd::api::runtime_service_client::RuntimeServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use crate::common::{Node, eventually, oci_runtime, program, random_tag};

/// One runtime with a pod on the host's network and a container in it that waits.
pub struct Peer {
    pub name: &'static str,
    pub runtime: RuntimeServiceClient<Channel>,
    pub socket: PathBuf,
    pub container: String,
    image: String,
    pod: String,
    config: api::PodSandboxConfig,
    /// What the command lines of its other processes have in common.
    helpers: Option<String>,
    daemon: u32,
    process: Option<Child>,
}

impl Peer {
    pub async fn podd(node: &mut Node, reference: &str, scratch: &Path) -> Self {
        let image = node.pull(reference).await.unwrap();
        let (socket, daemon) = (node.names.socket(), node.daemon_pid());
        let peer = Self::bare("podd", node.runtime.clone(), socket, image, scratch, None, daemon);
        peer.with_pod(&node.names.cgroup_parent).await
    }

    /// Starts one that is as it comes, but for its directories, the runtime, and what a machine without CAP_SYS_RESOURCE needs.
    pub async fn containerd(tag: &str, reference: &str, sleeper: &str, scratch: &Path) -> Self {
        let dir = std::env::temp_dir().join(format!("podd-bench-{tag}"));
        fs::create_dir_all(&dir).unwrap();
        let (at, registry) = (dir.display(), reference.split('/').next().unwrap());
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        let binary = program(&oci_runtime());
        let text = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n[grpc]\naddress = \"{at}/sock\"\n\
             [{cri}]\nsandbox_image = \"{sleeper}\"\nrestrict_oom_score_adj = true\n\
             [{cri}.registry.mirrors.\"{registry}\"]\nendpoint = [\"http://{registry}\"]\n\
             [{cri}.containerd]\ndefault_runtime_name = \"bench\"\n\
             [{cri}.containerd.runtimes.bench]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [{cri}.containerd.runtimes.bench.options]\nBinaryName = \"{}\"\n",
            binary.display()
        );
        fs::write(dir.join("config.toml"), text).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(program("containerd"));
        command.arg("--config").arg(dir.join("config.toml")).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().unwrap();
        let socket = dir.join("sock");
        let channel = eventually("containerd's socket", || async {
            Endpoint::try_from(format!("unix://{}", socket.display())).unwrap().connect().await.ok()
        })
        .await;
        let images = ImageServiceClient::new(channel.clone());
        let image = Some(api::ImageSpec { image: reference.to_owned(), ..Default::default() });
        let request = api::PullImageRequest { image, ..Default::default() };
        let image = eventually("containerd's image service", || async {
            images.clone().pull_image(request.clone()).await.ok()
        })
        .await
        .into_inner()
        .image_ref;
        let (client, helpers) = (RuntimeServiceClient::new(channel), Some(format!("-address {at}/sock")));
        let daemon = process.id();
        let mut peer = Self::bare("containerd", client, socket, image, scratch, helpers, daemon);
        peer.process = Some(process);
        peer.with_pod(&format!("/podd-bench-{tag}")).await
    }

    fn bare(
        name: &'static str,
        runtime: RuntimeServiceClient<Channel>,
        socket: PathBuf,
        image: String,
        scratch: &Path,
        helpers: Option<String>,
        daemon: u32,
    ) -> Self {
        let uid = format!("bench-{}", random_tag());
        let metadata =
            api::PodSandboxMetadata { name: name.to_owned(), uid, namespace: "bench".to_owned(), attempt: 0 };
        let config = api::PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: scratch.join("logs").join(name).display().to_string(),
            ..Default::default()
        };
        let (container, pod) = (String::new(), String::new());
        Self { name, runtime, socket, container, image, pod, config, helpers, daemon, process: None }
    }

    async fn with_pod(mut self, cgroup_parent: &str) -> Self {
        let namespaces = api::NamespaceOption {
            network: api::NamespaceMode::Node.into(),
            pid: api::NamespaceMode::Container.into(),
            ..Default::default()
        };
        self.config.linux = Some(api::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(api::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        });
        let request =
            api::RunPodSandboxRequest { config: Some(self.config.clone()), runtime_handler: String::new() };
        self.pod = self.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        self.container = self.run("waiting", "trap 'exit 0' TERM; while :; do sleep 1; done", &[]).await;
        self
    }

    /// Creates and starts a container that runs a script, with those directories or files of the host mounted.
    pub async fn run(&mut self, name: &str, script: &str, mounts: &[(&Path, &str)]) -> String {
        let mounts = mounts.iter().map(|(host, inside)| api::Mount {
            host_path: host.display().to_string(),
            container_path: (*inside).to_owned(),
            readonly: true,
            ..Default::default()
        });
        let of_pod = self.config.linux.as_ref().unwrap().security_context.as_ref().unwrap();
        let config = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(api::ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            mounts: mounts.collect(),
            linux: Some(api::LinuxContainerConfig {
                security_context: Some(api::LinuxContainerSecurityContext {
                    namespace_options: of_pod.namespace_options.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = api::CreateContainerRequest {
            pod_sandbox_id: self.pod.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.runtime.create_container(request).await.unwrap().into_inner().container_id;
        let start = api::StartContainerRequest { container_id: id.clone() };
        self.runtime.start_container(start).await.unwrap();
        id
    }

    pub async fn remove(&mut self, container: String) {
        let stop = api::StopContainerRequest { container_id: container.clone(), timeout: 0 };
        self.runtime.stop_container(stop).await.unwrap();
        let request = api::RemoveContainerRequest { container_id: container };
        self.runtime.remove_container(request).await.unwrap();
    }

    pub fn log(&self, name: &str) -> PathBuf {
        Path::new(&self.config.log_directory).join(format!("{name}.log"))
    }

    /// Its daemon, and the shims between that and the containers where it has such. A monitor of podd's has nothing to do with
    /// an exec.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.daemon];
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if pid != self.daemon && self.helpers.as_ref().is_some_and(|helpers| line.contains(helpers)) {
                found.push(pid);
            }
        }
        found
    }

    /// What they have used of the processors, in seconds.
    pub fn used(&self, with_children: bool) -> f64 {
        self.processes().into_iter().map(|pid| crate::processor_time(pid, with_children)).sum()
    }

    pub async fn finish(mut self) {
        let stop = api::StopPodSandboxRequest { pod_sandbox_id: self.pod.clone() };
        self.runtime.stop_pod_sandbox(stop).await.unwrap();
        let remove = api::RemovePodSandboxRequest { pod_sandbox_id: self.pod.clone() };
        self.runtime.remove_pod_sandbox(remove).await.unwrap();
    }
}

/// A daemon of the benchmark's own ends with it, with its shims where a measurement has failed.
impl Drop for Peer {
    fn drop(&mut self) {
        let pids = self.processes();
        let Some(mut process) = self.process.take() else { return };
        for pid in pids.into_iter().skip(1).filter_map(|pid| i32::try_from(pid).ok().and_then(Pid::from_raw))
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = kill_process(Pid::from_child(&process), Signal::TERM);
        let _ = process.wait();
        let _ = fs::remove_dir_all(self.socket.parent().unwrap());
        // What its runtime has left empty.
        let parent = self.config.linux.take().unwrap_or_default().cgroup_parent;
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(parent.trim_start_matches('/')));
        }
    }
}
