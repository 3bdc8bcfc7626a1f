//! Whole documents, compared as JSON with the files in `golden/`, and rules that are easier told alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxDeviceType, Spec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api;
use crate::apparmor::AppArmorFacts;
use crate::cgroup::CgroupMode;
use crate::config::SeccompConfig;

mod base;
mod cgroups;
mod properties;
mod real;
mod rules;
mod users;

const POD_ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// What a test varies; the rest of the input is the same for all.
#[derive(Debug, Clone)]
struct Case {
    config: api::ContainerConfig,
    pod: api::PodSandboxConfig,
    image: ImageConfiguration,
    user: ResolvedUser,
    pid: Option<PathBuf>,
    host_network: bool,
    mounts: Vec<MountSource>,
    default_mounts: Vec<HostMount>,
    hosts: Option<PathBuf>,
    devices: Vec<HostDevice>,
    annotations: BTreeMap<String, String>,
    seccomp: SeccompConfig,
    labels: Labels,
    features: Features,
    userns: bool,
    cgroups_path: &'static str,
    pids_limit: u64,
    base: Base,
    privileged_devices: PrivilegedDevices,
    host: HostFacts,
}

impl Case {
    fn new(config: Value) -> Self {
        Self {
            config: serde_json::from_value(config).unwrap(),
            pod: serde_json::from_value(json!({
                "metadata": {"name": "web-1", "uid": "u-1", "namespace": "shop", "attempt": 0},
                "linux": {"security_context": {"privileged": true}},
            }))
            .unwrap(),
            image: image(&json!({
                "Entrypoint": ["/entry"], "Cmd": ["serve"], "WorkingDir": "/srv", "Env": ["PATH=/bin", "A=1", "junk"],
            })),
            user: ResolvedUser {
                uid: 33,
                gid: 34,
                additional_gids: vec![34, 35],
                home: Some("/var/www".into()),
            },
            pid: None,
            host_network: false,
            mounts: Vec::new(),
            default_mounts: Vec::new(),
            hosts: None,
            devices: Vec::new(),
            annotations: BTreeMap::new(),
            seccomp: crate::config::Config::defaults(Path::new("/"), Path::new("/run")).seccomp,
            labels: Labels::default(),
            features: Features { recursive_read_only: Ok(()), id_mapped_mounts: Ok(()) },
            userns: false,
            cgroups_path: "/kubepods/pod1/podd-c1",
            pids_limit: 0,
            base: Base::default(),
            privileged_devices: PrivilegedDevices::All,
            host: host(),
        }
    }

    fn build(&self) -> Result<Spec, SpecError> {
        let pod_id = POD_ID.parse().unwrap();
        let profiles = seccomp::Profiles::load(&self.seccomp).unwrap();
        build(&SpecInput {
            capabilities: &DEFAULT_CAPABILITIES,
            seccomp: &profiles.filter(&self.config)?,
            labels: &self.labels,
            config: &self.config,
            pod: &self.pod,
            pod_id: &pod_id,
            image: &self.image,
            user: &self.user,
            rootfs: Path::new("/run/podd/rootfs"),
            cgroups_path: self.cgroups_path,
            pids_limit: self.pids_limit,
            hostname: "web-1",
            namespaces: Namespaces {
                network: Some(Path::new("/run/netns/podd-1")).filter(|_| !self.host_network),
                ipc: Some(Path::new("/run/podd/ns/ipc")),
                uts: Some(Path::new("/run/podd/ns/uts")),
                user: self.userns.then(|| Path::new("/run/podd/ns/user")),
                pid: self.pid.as_deref(),
            },
            files: PodFiles {
                resolv_conf: Some(Path::new("/pod/resolv.conf")),
                hostname: Some(Path::new("/pod/hostname")),
                hosts: self.hosts.as_deref(),
                shm: Some(Path::new("/pod/shm")),
            },
            mounts: &self.mounts,
            default_mounts: &self.default_mounts,
            devices: &self.devices,
            annotations: &self.annotations,
            features: &self.features,
            base: &self.base,
            privileged_devices: self.privileged_devices,
            host: &self.host,
        })
    }

    fn json(&self) -> Value {
        let mut document = serde_json::to_value(self.build().unwrap()).unwrap();
        sort_capabilities(&mut document);
        document
    }

    fn refusal(&self) -> String {
        self.build().unwrap_err().to_string()
    }

    fn with_sources(mut self, propagation: SourcePropagation) -> Self {
        let source = |mount: &api::Mount| MountSource { path: PathBuf::from(&mount.host_path), propagation };
        self.mounts = self.config.mounts.iter().map(source).collect();
        self
    }
}

fn image(config: &Value) -> ImageConfiguration {
    let document = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": config,
    });
    serde_json::from_value(document).unwrap()
}

fn host() -> HostFacts {
    let null = HostDevice {
        path: "/dev/null".into(),
        kind: LinuxDeviceType::C,
        major: 1,
        minor: 3,
        mode: 0o666,
        uid: 0,
        gid: 0,
        permissions: "rwm".into(),
    };
    HostFacts {
        // All but CAP_SYS_RESOURCE, as on a nested node.
        bounding: 0x1ff_feff_ffff,
        oom_score_adj_floor: Some(0),
        cgroup: CgroupMode::V2,
        nsdelegate: true,
        swap_limit: true,
        hugepage_sizes: vec!["2MB".into()],
        devices: vec![null],
        apparmor: AppArmorFacts::Disabled,
        selinux: false,
        kernel: (6, 1),
    }
}

/// Capabilities are a set and come in any order.
fn sort_capabilities(document: &mut Value) {
    let Some(sets) = document.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) else {
        return;
    };
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
}

/// Compares with a file of `golden/`; with PODD_GOLDEN=write in the environment the file is written instead.
fn golden(name: &str, found: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/tests/golden").join(name);
    let text = serde_json::to_string_pretty(found).unwrap() + "\n";
    if std::env::var("PODD_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(*found, expected, "{name} differs; found:\n{text}");
}

#[test]
fn a_container_that_asks_for_nothing() {
    golden(
        "plain.json",
        &Case::new(json!({"metadata": {"name": "c"}, "image": {"image": "busybox"}})).json(),
    );
}

#[test]
fn a_container_as_the_kubelet_asks_for_it() {
    let case = Case::new(json!({
        "metadata": {"name": "web", "attempt": 1},
        "image": {"image": "sha256:1", "user_specified_image": "docker.io/library/nginx:1"},
        "command": ["/bin/nginx"], "args": ["-g", "daemon off;"], "working_dir": "/work",
        "envs": [{"key": "A", "value": b"2"}, {"key": "B", "value": b"x=y"}],
        "mounts": [
            {"container_path": "/data/deep/er", "host_path": "/v/1", "readonly": true},
            {"container_path": "/etc/hosts", "host_path": "/pods/u-1/etc-hosts"},
            {"container_path": "/data", "host_path": "/v/2", "propagation": 1},
            {"container_path": "/dev/shm", "host_path": "/v/shm"},
            {"container_path": "/ro", "host_path": "/v/3", "readonly": true, "recursive_read_only": true},
        ],
        "linux": {
            "resources": {
                "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 104_857_600,
                "oom_score_adj": -998, "cpuset_cpus": "0-1", "unified": {"memory.high": "1000000"},
                "hugepage_limits": [{"page_size": "2MB", "limit": 4_194_304}, {"page_size": "1GB", "limit": 0}],
            },
            "security_context": {
                "capabilities": {"add_capabilities": ["net_admin", "SYS_RESOURCE"], "drop_capabilities": ["CAP_MKNOD"]},
                "namespace_options": {"pid": 1},
                "readonly_rootfs": true, "no_new_privs": true,
                "masked_paths": ["/proc/kcore"], "readonly_paths": ["/proc/sys"],
                "seccomp": {"profile_type": 1}, "apparmor": {"profile_type": 0},
            },
        },
    }));
    golden("kubelet.json", &case.with_sources(SourcePropagation::Shared).json());
}

#[test]
fn a_privileged_container_on_cgroup_v1_and_the_hosts_network() {
    let mut case = Case::new(json!({
        "metadata": {"name": "agent"}, "image": {"image": "agent"}, "tty": true,
        "mounts": [{"container_path": "/host", "host_path": "/", "propagation": 2}],
        "linux": {"security_context": {
            "privileged": true, "masked_paths": ["/proc/kcore"], "readonly_paths": ["/proc/sys"],
            "seccomp": {"profile_type": 0}, "namespace_options": {"pid": 2, "network": 2},
        }},
    }))
    .with_sources(SourcePropagation::Shared);
    case.host.cgroup = CgroupMode::V1;
    case.host_network = true;
    golden("privileged.json", &case.json());
}
