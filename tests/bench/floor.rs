//! The floor: a pod's life by hand. The same CNI plugins, the same overlay, the same runtime with the same `config.json`,
//! one after the other, with nothing around them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use podd::sys::namespace::{NamespaceRequest, create_pinned, unpin};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, WaitOptions};
use serde_json::{Value, json};

use crate::common::node::Names;
use crate::common::{oci_runtime, program};
use crate::{Life, Network};

/// What all pods by hand have in common.
pub struct Floor {
    /// On the tmpfs: bundles, pins, the runtime's state.
    run: PathBuf,
    /// On the disk: writable layers.
    disk: PathBuf,
    runtime: PathBuf,
    cgroup_parent: String,
    layers: String,
    spec: Value,
    conf: Value,
    next: AtomicU32,
}

/// One pod by hand.
struct Bundle {
    id: String,
    dir: PathBuf,
    upper: PathBuf,
    pins: NamespaceRequest,
}

impl Floor {
    /// Takes the layers and the configuration of a container that podd runs.
    pub fn like(names: &Names, container: &str) -> Self {
        let bundle = names.run_dir().join("containers").join(container);
        let spec = fs::read(bundle.join("config.json")).unwrap();
        let init = fs::read_to_string(bundle.join("pid")).unwrap();
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", init.trim())).unwrap();
        let root = mounts.lines().find(|line| line.contains(" - overlay ")).unwrap();
        let layers = root.rsplit(' ').next().unwrap().split(',').filter_map(|option| {
            option.strip_prefix("lowerdir+=").or_else(|| option.strip_prefix("lowerdir="))
        });
        let conf = fs::read(names.cni_conf_dir().join("10-podd-test.conflist")).unwrap();
        let floor = Self {
            run: names.run_dir().join("floor"),
            disk: names.dir().join("floor"),
            runtime: program(&oci_runtime()),
            cgroup_parent: names.cgroup_parent.clone(),
            layers: layers.collect::<Vec<_>>().join(":"),
            spec: serde_json::from_slice(&spec).unwrap(),
            conf: serde_json::from_slice(&conf).unwrap(),
            next: AtomicU32::new(0),
        };
        fs::create_dir_all(&floor.run).unwrap();
        fs::create_dir_all(&floor.disk).unwrap();
        floor
    }

    /// A pod from its beginning to its end.
    pub fn live(&self, network: Network) -> Life {
        let (mut life, bundle) = (Life::begin(), self.prepare(network));
        let init = self.up(&bundle, network, &mut life);
        self.runtime(&["exec", &bundle.id, "/bin/true"]);
        life.step();
        self.runtime(&["kill", &bundle.id, "KILL"]);
        let _ = rustix::process::waitpid(Pid::from_raw(init), WaitOptions::empty());
        life.step();
        self.runtime(&["delete", &bundle.id]);
        rustix::mount::unmount(bundle.rootfs(), UnmountFlags::empty()).unwrap();
        life.step();
        if let Some(net) = &bundle.pins.net {
            let result = fs::read(bundle.dir.join("result")).unwrap();
            let result: Value = serde_json::from_slice(&result).unwrap();
            for plugin in self.plugins().iter().rev() {
                self.plugin("DEL", plugin, Some(&result), &bundle.id, net);
            }
        }
        for pin in [&bundle.pins.net, &bundle.pins.ipc, &bundle.pins.uts].into_iter().flatten() {
            unpin(pin).unwrap();
        }
        life.step();
        fs::remove_dir_all(&bundle.dir).unwrap();
        life.step();
        // podd too leaves this to later.
        fs::remove_dir_all(&bundle.upper).unwrap();
        life
    }

    /// The directories and the configuration, which are not part of the floor.
    fn prepare(&self, network: Network) -> Bundle {
        let id = format!("floor-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let (dir, upper) = (self.run.join(&id), self.disk.join(&id));
        for dir in [dir.join("rootfs"), upper.join("upper"), upper.join("work")] {
            fs::create_dir_all(dir).unwrap();
        }
        let own = |kind: &str| (network == Network::Bridge).then(|| dir.join(kind));
        let pins = NamespaceRequest {
            net: own("net"),
            uts: own("uts"),
            ipc: Some(dir.join("ipc")),
            ..NamespaceRequest::default()
        };
        let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"})];
        for (kind, pin) in [("network", &pins.net), ("uts", &pins.uts), ("ipc", &pins.ipc)] {
            namespaces.extend(pin.as_ref().map(|path| json!({"type": kind, "path": path})));
        }
        let mut spec = self.spec.clone();
        spec["linux"]["namespaces"] = Value::Array(namespaces);
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{id}", self.cgroup_parent));
        spec["root"]["path"] = json!(dir.join("rootfs"));
        spec.as_object_mut().unwrap().remove("hostname");
        fs::write(dir.join("config.json"), spec.to_string()).unwrap();
        Bundle { id, dir, upper, pins }
    }

    fn up(&self, bundle: &Bundle, network: Network, life: &mut Life) -> i32 {
        life.restart();
        create_pinned(&bundle.pins).unwrap();
        if let (Network::Bridge, Some(net)) = (network, &bundle.pins.net) {
            let mut result = None;
            for plugin in &self.plugins() {
                result = Some(self.plugin("ADD", plugin, result.as_ref(), &bundle.id, net));
            }
            fs::write(bundle.dir.join("result"), result.unwrap_or_default().to_string()).unwrap();
        }
        life.step();
        let (upper, work) = (bundle.upper.join("upper"), bundle.upper.join("work"));
        let options =
            format!("lowerdir={},upperdir={},workdir={}", self.layers, upper.display(), work.display());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("overlay", bundle.rootfs(), "overlay", MountFlags::empty(), &*options).unwrap();
        let pid_file = bundle.dir.join("pid");
        let dir = bundle.dir.to_str().unwrap();
        self.runtime(&["create", "--bundle", dir, "--pid-file", pid_file.to_str().unwrap(), &bundle.id]);
        life.step();
        self.runtime(&["start", &bundle.id]);
        life.step();
        fs::read_to_string(pid_file).unwrap().trim().parse().unwrap()
    }

    fn runtime(&self, args: &[&str]) {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.run.join("state")).args(args);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{args:?}: {status}");
    }

    fn plugins(&self) -> Vec<Value> {
        let mut plugins = self.conf["plugins"].as_array().unwrap().clone();
        for plugin in &mut plugins {
            plugin["cniVersion"] = self.conf["cniVersion"].clone();
            plugin["name"] = self.conf["name"].clone();
        }
        plugins
    }

    fn plugin(&self, command: &str, config: &Value, previous: Option<&Value>, id: &str, net: &Path) -> Value {
        let mut config = config.clone();
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let binary = Path::new("/usr/lib/cni").join(config["type"].as_str().unwrap());
        let mut child = Command::new(binary)
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_NETNS", net.as_os_str()), ("CNI_PATH", "/usr/lib/cni".as_ref())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

impl Bundle {
    fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        for dir in [&self.run, &self.disk] {
            let _ = fs::remove_dir_all(dir);
        }
    }
}
