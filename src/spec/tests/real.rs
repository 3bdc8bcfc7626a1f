//! Documents of [`build`] given to the real crun and runc: what a container then sees of itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use super::*;
use crate::cgroup::{CgroupPath, Cgroups};
use crate::config::RuntimeConfig;
use crate::runtime::Runtime;

/// A running container, removed at the end.
struct Running {
    runtime: Runtime,
    dir: tempfile::TempDir,
    id: String,
    cgroup: CgroupPath,
    spec: Spec,
}

impl Running {
    async fn new(runtime: &str, test: &str, case: &Case) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "sleep", "cat", "id", "grep", "unshare", "true"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        fs::create_dir_all(dir.path().join("rootfs/etc")).unwrap();
        for file in ["resolv.conf", "hostname"] {
            fs::write(dir.path().join(file), format!("{file} of the pod\n")).unwrap();
        }
        fs::create_dir(dir.path().join("shm")).unwrap();
        let id = format!("podd-test-{}-{runtime}-{test}", std::process::id());
        let cgroup = CgroupPath::new(&format!("/{id}")).unwrap();
        let spec = Self::document(case, dir.path(), &cgroup);
        spec.save(dir.path().join("config.json")).unwrap();
        let config = RuntimeConfig {
            path: format!("/usr/bin/{runtime}").into(),
            root: dir.path().join("runtime"),
            ..RuntimeConfig::named("crun", Path::new("/run"))
        };
        let runtime = Runtime::probe(runtime, &config, false).await.unwrap();
        let running = Self { runtime, dir, id, cgroup, spec };
        running.create();
        running.runtime.start(&running.id).await.unwrap();
        running
    }

    /// The document of a case on this host, with namespaces of its own in place of a pod's.
    fn document(case: &Case, dir: &Path, cgroup: &CgroupPath) -> Spec {
        let pod_id = POD_ID.parse().unwrap();
        let (resolv_conf, hostname, shm) = (dir.join("resolv.conf"), dir.join("hostname"), dir.join("shm"));
        let host = HostFacts::observe(CgroupMode::detect()).unwrap();
        let profiles = seccomp::Profiles::load(&case.seccomp).unwrap();
        let input = SpecInput {
            capabilities: &DEFAULT_CAPABILITIES,
            seccomp: &profiles.filter(&case.config).unwrap(),
            labels: &case.labels,
            config: &case.config,
            pod: &case.pod,
            pod_id: &pod_id,
            image: &case.image,
            user: &case.user,
            rootfs: &dir.join("rootfs"),
            cgroups_path: cgroup.as_str(),
            pids_limit: 0,
            hostname: "web-1",
            namespaces: Namespaces::default(),
            files: PodFiles {
                resolv_conf: Some(&resolv_conf),
                hostname: Some(&hostname),
                hosts: None,
                shm: Some(&shm),
            },
            mounts: &case.mounts,
            default_mounts: &case.default_mounts,
            devices: &case.devices,
            annotations: &case.annotations,
            features: &case.features,
            base: &case.base,
            privileged_devices: case.privileged_devices,
            host: &host,
        };
        build(&input).unwrap()
    }

    fn create(&self) {
        let at = |name: &str| self.dir.path().join(name);
        let argv = self.runtime.create_argv(&self.id, self.dir.path(), &at("pid"), &at("log"), None);
        let mut create = std::process::Command::new(&argv[0]);
        let null = std::process::Stdio::null;
        create.args(&argv[1..]).stdin(null()).stdout(null()).stderr(null());
        let done = create.status().unwrap().success();
        assert!(done, "{}: {}", self.runtime.name(), fs::read_to_string(at("log")).unwrap_or_default());
    }

    /// The output of a shell command in the container, both streams.
    async fn sh(&self, command: &str) -> String {
        let words = ["sh", "-c", command].map(str::to_owned);
        let process = exec_process(self.spec.process().as_ref().unwrap(), &words, false);
        let limit = Some(Duration::from_secs(30));
        let output = self.runtime.exec_sync(&self.id, &process, self.dir.path(), limit).await.unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let argv = self.runtime.delete_argv(&self.id);
        let _ = std::process::Command::new(&argv[0]).args(&argv[1..]).status();
        let cgroups = Cgroups::detect().unwrap();
        let _ = cgroups.kill_all(&self.cgroup);
        let _ = cgroups.remove_tree(&self.cgroup);
    }
}

#[tokio::test]
async fn a_container_sees_what_was_asked_for() {
    let volume = tempfile::tempdir().unwrap();
    fs::write(volume.path().join("file"), "of the volume").unwrap();
    for name in ["crun", "runc"] {
        let mut case = Case::new(json!({
            "command": ["sleep", "1000"], "working_dir": "/bin", "envs": [{"key": "B", "value": b"x y"}],
            "mounts": [{"container_path": "/data/v", "host_path": volume.path(), "readonly": true}],
            "linux": {
                "resources": {"memory_limit_in_bytes": 67_108_864, "cpu_shares": 512, "oom_score_adj": -998},
                "security_context": {
                    "readonly_rootfs": true, "no_new_privs": true, "seccomp": {"profile_type": 0},
                    "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["chown", "sys_resource"]},
                    "masked_paths": ["/proc/keys"], "readonly_paths": ["/proc/sys"],
                },
            },
        }));
        case.mounts = vec![Sources::default().find(&case.config.mounts[0]).unwrap()];
        let running = Running::new(name, "asked", &case).await;
        assert_eq!(
            running.sh("echo $B $A $PWD $HOSTNAME $HOME").await,
            "x y 1 /bin web-1 /var/www\n",
            "{name}"
        );
        assert_eq!(running.sh("id").await, "uid=33 gid=34 groups=34,35\n");
        assert_eq!(running.sh("cat /data/v/file /etc/hostname").await, "of the volumehostname of the pod\n");
        let status = running.sh("cat /proc/1/status").await;
        let held = HostFacts::observe(CgroupMode::detect()).unwrap().bounding & (1 << 24 | 1);
        assert!(status.contains(&format!("CapBnd:\t{held:016x}\n")), "{name}: {status}");
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{name}: {status}");
        for refused in [
            "echo x > /data/v/file",
            "echo x > /x",
            "echo x > /proc/sys/kernel/domainname",
            "unshare -m true",
        ] {
            let words = running.sh(&format!("{refused} || echo refused")).await;
            assert!(words.starts_with("refused\n"), "{name}: {refused}: {words}");
        }
        assert_eq!(running.sh("cat /proc/keys | cat").await, "");
        let null = fs::metadata("/dev/null").unwrap();
        let owner = (MetadataExt::uid(&null), MetadataExt::gid(&null));
        assert_eq!(owner, (0, 0), "{name} gave the host's /dev/null away");
    }
}

#[tokio::test]
async fn a_privileged_container_sees_the_host() {
    for name in ["crun", "runc"] {
        let mut case = Case::new(json!({
            "command": ["sleep", "1000"],
            "linux": {"security_context": {"privileged": true, "seccomp": {"profile_type": 0}}},
        }));
        case.user = ResolvedUser { uid: 0, gid: 0, additional_gids: vec![0], home: None };
        let running = Running::new(name, "privileged", &case).await;
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let bounding = own.lines().find(|line| line.starts_with("CapBnd:")).unwrap();
        let status = running.sh("cat /proc/1/status").await;
        assert!(status.contains(bounding) && status.contains("Seccomp:\t0\n"), "{name}: {status}");
        assert_eq!(running.sh("grep -c ' /sys sysfs rw' /proc/mounts").await, "1\n", "{name}");
        assert_eq!(running.sh("unshare -m true && echo made").await, "made\n");
    }
}
