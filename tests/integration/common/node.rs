//! One daemon under test, with directories, a socket, a bridge and a cgroup parent of its own.
//!
//! A test ends with [`Node::finish`], which removes everything through the CRI, stops the daemon gracefully and fails if
//! anything is left. A node that is dropped without it belongs to a failed test: its log is printed, and what it has
//! left is removed by force.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use podd::api;
use podd::api::image_service_client::ImageServiceClient;
use podd::api::runtime_service_client::RuntimeServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use super::leftovers::{self, Leftovers};
use super::{PATIENCE, cgroup_driver, eventually, oci_runtime, program, random_tag};

/// The names of all that belongs to one node.
#[derive(Debug, Clone)]
pub struct Names {
    /// Part of every name; random.
    pub tag: String,
    /// The CNI bridge.
    pub bridge: String,
    /// The subnet's first three numbers.
    pub subnet: String,
    /// The parent of all cgroups of the node's pods: a path, or with systemd a slice.
    pub cgroup_parent: String,
    /// The daemon's binary.
    pub binary: PathBuf,
    /// Where what is on disk lies.
    pub disk: PathBuf,
}

impl Names {
    fn new() -> Self {
        let tag = random_tag();
        let number = u32::from_str_radix(&tag, 16).unwrap();
        Self {
            bridge: format!("pt{tag}"),
            subnet: format!("10.{}.{}", 128 + number % 120, number >> 8 & 0xff),
            cgroup_parent: match cgroup_driver().as_str() {
                "systemd" => format!("poddtest{tag}.slice"),
                _ => format!("/podd-test-{tag}"),
            },
            binary: env!("CARGO_BIN_EXE_podd").into(),
            disk: std::env::temp_dir(),
            tag,
        }
    }

    /// All that is on disk.
    pub fn dir(&self) -> PathBuf {
        self.disk.join(format!("podd-test-{}", self.tag))
    }

    /// The daemon's `root`.
    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// The daemon's `run_dir`, on the tmpfs where there is one.
    pub fn run_dir(&self) -> PathBuf {
        PathBuf::from(format!("/run/podd-test-{}", self.tag))
    }

    /// The CRI's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("podd.sock")
    }

    /// Where host-local keeps its addresses.
    pub fn ipam_dir(&self) -> PathBuf {
        self.dir().join("ipam")
    }

    /// The directory of the CNI configuration.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dir().join("cni-conf")
    }

    /// Where the pods' logs go.
    pub fn log_dir(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// The daemon's configuration.
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("podd.toml")
    }

    fn daemon_log(&self) -> PathBuf {
        self.dir().join("podd.log")
    }
}

/// A running daemon and the clients that talk to it.
#[derive(Debug)]
pub struct Node {
    /// What it is called and where it lives.
    pub names: Names,
    /// The runtime service.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The image service.
    pub image: ImageServiceClient<Channel>,
    daemon: Child,
    pods: Mutex<Vec<String>>,
    finished: bool,
}

impl Node {
    /// A node with a bridge network, ready for pods.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with more lines at the top of `podd.toml`.
    pub async fn start_with(more: &str) -> Self {
        let names = Names::new();
        names.write_cni_conf();
        Self::start_named(names, more).await
    }

    /// The same with the settings of a drop-in.
    pub async fn start_configured(settings: &str) -> Self {
        let names = Names::new();
        let drop_ins = names.config_file().with_extension("toml.d");
        fs::create_dir_all(&drop_ins).unwrap();
        fs::write(drop_ins.join("settings.toml"), settings).unwrap();
        names.write_cni_conf();
        Self::start_named(names, "").await
    }

    /// The same with another daemon.
    #[allow(dead_code, reason = "only tests/bench measures other builds")]
    pub async fn start_binary(binary: PathBuf) -> Self {
        let names = Names { binary, ..Names::new() };
        names.write_cni_conf();
        Self::start_named(names, "").await
    }

    /// The same with all that is on disk below a directory, and with settings of a drop-in.
    #[allow(dead_code, reason = "only tests/bench measures other builds")]
    pub async fn start_binary_on(binary: PathBuf, disk: &Path, settings: &str) -> Self {
        let names = Names { binary, disk: disk.to_owned(), ..Names::new() };
        let drop_ins = names.config_file().with_extension("toml.d");
        fs::create_dir_all(&drop_ins).unwrap();
        fs::write(drop_ins.join("settings.toml"), settings).unwrap();
        names.write_cni_conf();
        Self::start_named(names, "").await
    }

    /// The same with the daemon's `root` elsewhere, on a disk of its own.
    pub async fn start_rooted_at(root: &Path) -> Self {
        let names = Names::new();
        names.write_cni_conf();
        std::os::unix::fs::symlink(root, names.root()).unwrap();
        Self::start_named(names, "").await
    }

    /// A node without a CNI configuration.
    pub async fn start_without_network() -> Self {
        Self::start_named(Names::new(), "").await
    }

    async fn start_named(names: Names, more: &str) -> Self {
        for dir in [names.dir(), names.run_dir(), names.cni_conf_dir(), names.log_dir()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(names.config_file(), more.to_owned() + &names.config()).unwrap();
        fs::write(names.dir().join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
            .unwrap();
        let mut daemon = names.spawn();
        let channel = connect(&names, &mut daemon).await;
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20),
            image: ImageServiceClient::new(channel).max_decoding_message_size(16 << 20),
            names,
            daemon,
            pods: Mutex::default(),
            finished: false,
        }
    }

    /// Notes a pod's ID for the search of leftovers.
    pub fn remember(&self, pod: &str) {
        self.pods.lock().unwrap().push(pod.to_owned());
    }

    /// The daemon's process.
    #[allow(dead_code, reason = "only tests/bench measures memory")]
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.names.daemon_log()).unwrap_or_default()
    }

    /// Kills the daemon without a warning, as a crash would.
    pub fn kill9(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Asks the daemon to end and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.daemon);
        let _ = kill_process(pid, Signal::TERM);
        let start = Instant::now();
        loop {
            if let Some(status) = self.daemon.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not end at SIGTERM");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Starts the daemon again, after [`Node::kill9`] or [`Node::terminate`].
    pub async fn start_again(&mut self) {
        self.daemon = self.names.spawn();
        let channel = connect(&self.names, &mut self.daemon).await;
        self.runtime = RuntimeServiceClient::new(channel.clone());
        self.image = ImageServiceClient::new(channel);
    }

    /// Kills the daemon and starts it again.
    pub async fn restart(&mut self) {
        self.kill9();
        self.start_again().await;
    }

    /// Starts a second daemon with the same configuration, and gives what it says when it gives up.
    pub async fn start_second(&self) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_podd"));
        command.args(["serve", "--config"]).arg(self.names.config_file()).kill_on_drop(true);
        tokio::time::timeout(PATIENCE, command.output())
            .await
            .expect("a second daemon goes on running")
            .unwrap()
    }

    /// crictl against the node, still to be started; killed with its handle.
    pub fn crictl_command(&self, args: &[&str]) -> tokio::process::Command {
        let socket = format!("unix://{}", self.names.socket().display());
        let config = self.names.dir().join("crictl.yaml");
        fs::write(&config, "timeout: 60\n").unwrap();
        let mut command = tokio::process::Command::new(crictl_path());
        command.arg("--config").arg(config).args([
            "--runtime-endpoint",
            &socket,
            "--image-endpoint",
            &socket,
        ]);
        command.args(args).kill_on_drop(true);
        command
    }

    /// Runs crictl against the node.
    pub async fn crictl(&self, args: &[&str]) -> Output {
        tokio::time::timeout(PATIENCE * 2, self.crictl_command(args).output())
            .await
            .unwrap_or_else(|_| panic!("crictl {args:?} hangs"))
            .unwrap()
    }

    /// Runs crictl, which must succeed, and gives its output without the last line break.
    pub async fn crictl_ok(&self, args: &[&str]) -> String {
        let out = self.crictl(args).await;
        assert!(out.status.success(), "crictl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    /// Ends the test: removes everything through the CRI, stops the daemon, and fails if anything is left.
    pub async fn finish(mut self) {
        self.remove_everything().await;
        eventually("an empty image store", || async {
            let emptied = |dir: &str| leftovers::walk(&self.names.root().join(dir)).is_empty();
            ["images", "layers", "staging", "containers", "trash"].into_iter().all(emptied).then_some(())
        })
        .await;
        let status = self.terminate().await;
        assert!(status.success(), "the daemon ended with {status}");
        let ids = self.pods.lock().unwrap().clone();
        eventually_nothing(&self.names, &ids).await;
        leftovers::remove_links_and_cgroups(&self.names);
        fs::remove_dir_all(self.names.run_dir()).unwrap();
        fs::remove_dir_all(self.names.dir()).unwrap();
        self.finished = true;
    }

    async fn remove_everything(&mut self) {
        let pods = self.runtime.list_pod_sandbox(api::ListPodSandboxRequest::default()).await.unwrap();
        for pod in pods.into_inner().items {
            self.remember(&pod.id);
            let stop = api::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            self.runtime.stop_pod_sandbox(stop).await.unwrap();
            let remove = api::RemovePodSandboxRequest { pod_sandbox_id: pod.id };
            self.runtime.remove_pod_sandbox(remove).await.unwrap();
        }
        let left =
            self.runtime.list_containers(api::ListContainersRequest::default()).await.unwrap().into_inner();
        assert!(left.containers.is_empty(), "containers outlive their pods: {:?}", left.containers);
        let images =
            self.image.list_images(api::ListImagesRequest::default()).await.unwrap().into_inner().images;
        for image in images {
            let spec = api::ImageSpec { image: image.id, ..Default::default() };
            self.image.remove_image(api::RemoveImageRequest { image: Some(spec) }).await.unwrap();
        }
        let left =
            self.image.list_images(api::ListImagesRequest::default()).await.unwrap().into_inner().images;
        assert!(left.is_empty(), "images outlive their removal: {left:?}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        eprintln!("--- log of the daemon {} ---\n{}--- end ---", self.names.tag, self.log());
        leftovers::sweep(&self.names, &self.pods.lock().unwrap());
        let _ = fs::remove_dir_all(self.names.run_dir());
        if std::env::var_os("PODD_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(self.names.dir());
        }
    }
}

/// A monitor ends a moment after its container is removed: a little patience, but no more than that.
async fn eventually_nothing(names: &Names, ids: &[String]) {
    let start = Instant::now();
    loop {
        let left = Leftovers::of(names, ids);
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed().as_secs() < 10, "left behind:\n{left}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn connect(names: &Names, daemon: &mut Child) -> Channel {
    let uri = format!("unix://{}", names.socket().display());
    let daemon = Mutex::new(daemon);
    eventually("an answer of the daemon", || async {
        if let Some(status) = daemon.lock().unwrap().try_wait().unwrap() {
            let log = fs::read_to_string(names.daemon_log()).unwrap_or_default();
            panic!("the daemon ended with {status}:\n{log}");
        }
        let channel = Endpoint::try_from(uri.clone()).unwrap().connect().await.ok()?;
        let version = api::VersionRequest::default();
        RuntimeServiceClient::new(channel.clone()).version(version).await.ok().map(|_| channel)
    })
    .await
}

/// The crictl that `tests/run.sh` has built.
fn crictl_path() -> PathBuf {
    if let Some(path) = std::env::var_os("PODD_CRICTL") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"));
    let path = cache.join("podd/crictl-v1.36.0");
    assert!(path.exists(), "{} is missing: run tests/run.sh, which builds it", path.display());
    path
}

impl Names {
    fn spawn(&self) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.daemon_log()).unwrap();
        Command::new(&self.binary)
            .args(["serve", "--config"])
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn config(&self) -> String {
        let level = std::env::var("PODD_TEST_LOG").unwrap_or_else(|_| "debug".to_owned());
        let (dir, run, runtime) = (self.dir(), self.run_dir(), oci_runtime());
        let (driver, tag) = (cgroup_driver(), &self.tag);
        let (dir, run, path) = (dir.display(), run.display(), program(&runtime));
        // The one for production: it is linked statically, as a pause container needs it.
        let monitor = std::env::var("PODD_TEST_MONITOR").unwrap_or_default();
        format!(
            "root = \"{dir}/root\"\nrun_dir = \"{run}\"\nsocket = \"{run}/podd.sock\"\n\
             default_runtime = \"{runtime}\"\ncgroup_driver = \"{driver}\"\nlog_level = \"{level}\"\n\
             [runtimes.{runtime}]\npath = \"{}\"\nroot = \"{run}/{runtime}\"\n\
             [monitor]\npath = \"{monitor}\"\ncgroup = \"/podd-test-{tag}-monitors\"\n\
             [network]\nconf_dir = \"{dir}/cni-conf\"\nplugin_dirs = [\"/opt/cni/bin\", \"/usr/lib/cni\"]\n\
             cache_dir = \"{dir}/root/cni\"\n\
             [images]\nregistries_conf = \"{dir}/registries.conf\"\npolicy = \"{dir}/policy.json\"\n\
             policy_dir = \"{dir}/policies\"\n\
             certs_dir = \"{dir}/certs.d\"\nhosts_dir = \"{dir}/hosts.d\"\n\
             auth_file = \"{dir}/auth.json\"\nnamespaced_auth_dir = \"{dir}/auth\"\nstall_timeout_seconds = 10\n",
            path.display(),
        )
    }

    /// Gives the node its bridge network. `PODD_TEST_NO_NAT` leaves out what needs a nat table, for a kernel without one.
    pub fn write_cni_conf(&self) {
        fs::create_dir_all(self.cni_conf_dir()).unwrap();
        let nat = std::env::var_os("PODD_TEST_NO_NAT").is_none();
        let mut plugins = vec![serde_json::json!({
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": true,
            "ipMasq": nat,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.ipam_dir(),
                "ranges": [[{ "subnet": format!("{}.0/24", self.subnet) }]],
                "routes": [{ "dst": "0.0.0.0/0" }]
            }
        })];
        if nat {
            plugins.push(serde_json::json!({
                "type": "portmap", "capabilities": { "portMappings": true }, "snat": true
            }));
        }
        let name = format!("podd-test-{}", self.tag);
        let conf = serde_json::json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins });
        fs::write(self.cni_conf_dir().join("10-podd-test.conflist"), conf.to_string()).unwrap();
    }
}
