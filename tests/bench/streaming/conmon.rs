//! A container below Debian's conmon, as CRI-O runs it, with the runtime of the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{eventually, oci_runtime, program};

/// The container is deleted, and conmon ends, with this.
pub struct Conmon {
    pub log: PathBuf,
    pub input: PathBuf,
    pub pid: u32,
    dir: PathBuf,
    id: String,
}

impl Conmon {
    /// Runs the script with the text at /in/text, its log in the Kubernetes format.
    pub fn start(dir: &Path, text: &Path, script: &str) -> Self {
        let (root, input) = (dir.join("rootfs"), dir.join("in"));
        for at in ["bin", "proc", "dev", "in"] {
            fs::create_dir_all(root.join(at)).unwrap();
        }
        fs::create_dir_all(&input).unwrap();
        for at in ["exits", "sockets"] {
            fs::create_dir_all(dir.join(at)).unwrap();
        }
        fs::copy(program("busybox"), root.join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "sleep"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::hard_link(text, input.join("text")).unwrap();
        let id = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let document = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {
                "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/in", "type": "bind", "source": input, "options": ["rbind"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}],
            },
        });
        fs::write(dir.join("config.json"), document.to_string()).unwrap();
        let started = Self { log: dir.join("log"), input, pid: 0, dir: dir.to_owned(), id };
        started.begin()
    }

    fn begin(mut self) -> Self {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut conmon = Command::new(program("conmon"));
        conmon.args(["--api-version", "1", "-c", &self.id, "-u", &self.id, "-n", &self.id]);
        conmon.args(["-b", &self.dir.display().to_string(), "-p", &path("pid")]);
        conmon.args(["--conmon-pidfile", &path("conmon.pid"), "--exit-dir", &path("exits")]);
        conmon.args(["--socket-dir-path", &path("sockets")]);
        conmon.args(["-l", &format!("k8s-file:{}", self.log.display())]);
        conmon.arg("-r").arg(program(&oci_runtime()));
        conmon.args(["--runtime-arg", "--root", "--runtime-arg", &path("runtime")]);
        conmon.stdin(Stdio::null()).stdout(Stdio::null());
        assert!(conmon.status().unwrap().success());
        let number = fs::read_to_string(path("conmon.pid")).unwrap();
        self.pid = number.trim().parse().unwrap();
        // The first conmon ends before the container is created.
        let created = std::time::Instant::now();
        while !self.dir.join("pid").exists() {
            assert!(created.elapsed().as_secs() < 30, "conmon creates no container");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(self.runtime(&["start", &self.id]));
        self
    }

    fn runtime(&self, words: &[&str]) -> bool {
        let mut command = Command::new(program(&oci_runtime()));
        command.arg("--root").arg(self.dir.join("runtime")).args(words);
        command.status().unwrap().success()
    }
}

impl Drop for Conmon {
    fn drop(&mut self) {
        self.runtime(&["delete", "--force", &self.id]);
        let _ = fs::remove_dir_all(&self.dir);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.id));
        }
    }
}
