//! Against the real crun and runc, with a root filesystem of busybox-static. Containers have cgroups of their own, stdio on
//! /dev/null and no network, and are removed with the test.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::cgroup::{CgroupPath, Cgroups};

const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// A created container, or the place for one.
struct Fixture {
    runtime: Runtime,
    dir: tempfile::TempDir,
    id: String,
    cgroup: CgroupPath,
}

impl Fixture {
    async fn new(runtime: &str, test: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = RuntimeConfig {
            path: format!("/usr/bin/{runtime}").into(),
            root: dir.path().join("runtime"),
            ..RuntimeConfig::named("crun", Path::new("/run"))
        };
        let id = format!("podd-test-{}-{runtime}-{test}", std::process::id());
        let cgroup = CgroupPath::new(&format!("/{id}")).unwrap();
        Self { runtime: Runtime::probe(runtime, &config, false).await.unwrap(), dir, id, cgroup }
    }

    async fn running(runtime: &str, test: &str) -> Self {
        let fixture = Self::new(runtime, test).await;
        fixture.create();
        fixture.runtime.start(&fixture.id).await.unwrap();
        fixture
    }

    fn create(&self) {
        let bin = self.dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "sleep", "head", "cat", "setsid"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        fs::write(self.dir.path().join("config.json"), self.document().to_string()).unwrap();
        let argv = self.runtime.create_argv(
            &self.id,
            self.dir.path(),
            &self.dir.path().join("pid"),
            &self.dir.path().join("log"),
            None,
        );
        let mut create = Command::new(&argv[0]);
        create.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert!(create.status().unwrap().success(), "{}", log());
    }

    fn document(&self) -> serde_json::Value {
        json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": self.process(&["sleep", "1000"]),
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": self.cgroup.as_str(),
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            },
        })
    }

    fn process(&self, args: &[&str]) -> oci_spec::runtime::Process {
        let process = json!({"args": args, "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        serde_json::from_value(process).unwrap()
    }

    async fn exec(&self, args: &[&str], timeout: Option<Duration>) -> Result<ExecOutput, ExecError> {
        let result = self.runtime.exec_sync(&self.id, &self.process(args), self.dir.path(), timeout).await;
        let left: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("exec-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        result
    }

    /// The lines in `/proc` of the container's processes that live: one, when no command is left. The first process of
    /// these containers does not reap what is orphaned to it, so zombies stay.
    fn processes(&self) -> Vec<String> {
        let processes = Cgroups::detect().unwrap().processes(&self.cgroup).unwrap();
        let lines =
            processes.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
        lines.filter(|line| line.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))).collect()
    }

    async fn eventually_alone(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.processes().len() != 1 {
            assert!(Instant::now() < deadline, "more than the first is left: {:?}", self.processes());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let argv = self.runtime.delete_argv(&self.id);
        let _ = Command::new(&argv[0]).args(&argv[1..]).stderr(Stdio::null()).status();
        let cgroups = Cgroups::detect().unwrap();
        let _ = cgroups.kill_all(&self.cgroup);
        let _ = cgroups.remove_tree(&self.cgroup);
    }
}

#[tokio::test]
async fn a_container_goes_through_its_states() {
    for name in RUNTIMES {
        let fixture = Fixture::new(name, "life").await;
        let (runtime, id) = (&fixture.runtime, fixture.id.as_str());
        assert_ne!(runtime.version(), "unknown");
        assert_eq!(runtime.state(id).await.unwrap(), None);
        fixture.create();
        let created = runtime.state(id).await.unwrap().unwrap();
        assert_eq!(created.status, Status::Created);
        assert_eq!(created.pid.to_string(), fs::read_to_string(fixture.dir.path().join("pid")).unwrap());
        runtime.start(id).await.unwrap();
        assert_eq!(runtime.state(id).await.unwrap().unwrap().status, Status::Running);

        let error = runtime.start(id).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name} start of container {id} failed after ")), "{error}");
        assert!(error.contains("exec.fifo") || error.contains("already running"), "{error}");
        assert!(runtime.delete(id, false).await.is_err(), "{name} deletes a running container");

        runtime.kill(id, 9, true).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while runtime.state(id).await.unwrap().unwrap().status != Status::Stopped {
            assert!(Instant::now() < deadline, "{name} does not see the end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        runtime.delete(id, false).await.unwrap();
        runtime.delete(id, false).await.unwrap();
        runtime.delete(id, true).await.unwrap();
        runtime.kill(id, 9, false).await.unwrap();
        assert_eq!(runtime.state(id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_missing_binary_is_named_with_its_key() {
    let config = RuntimeConfig {
        path: "/nonexistent/crun".into(),
        root: "/run/none".into(),
        ..RuntimeConfig::named("crun", Path::new("/run"))
    };
    let error = Runtime::probe("fast", &config, false).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot run /nonexistent/crun, the value of runtimes.fast.path");
    let config = RuntimeConfig {
        path: "/bin/false".into(),
        root: "/run/none".into(),
        ..RuntimeConfig::named("crun", Path::new("/run"))
    };
    let error = Runtime::probe("fast", &config, false).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 1 and said nothing"), "{error}");
}

#[tokio::test]
async fn a_runtime_that_hangs_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hangs");
    fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = RuntimeConfig {
        path: "/usr/bin/crun".into(),
        root: dir.path().into(),
        ..RuntimeConfig::named("crun", Path::new("/run"))
    };
    let runtime = Runtime { path, ..Runtime::probe("slow", &config, false).await.unwrap() };
    let error = runtime.run("start", "c", &[], Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.to_string(), "slow start of container c was killed after 50ms without an answer");
}

#[tokio::test]
async fn an_exec_gives_output_and_exit_code() {
    for name in RUNTIMES {
        let fixture = Fixture::running(name, "exec").await;
        let output = fixture.exec(&["sh", "-c", "echo out; echo err >&2; exit 7"], None).await.unwrap();
        let expected =
            ExecOutput { exit_code: 7, stdout: b"out\n".into(), stderr: b"err\n".into(), truncated: false };
        assert_eq!(output, expected, "{name}");
        assert_eq!(fixture.exec(&["sh", "-c", "kill -9 $$"], None).await.unwrap().exit_code, 137);
        assert_eq!(fixture.exec(&["sh", "-c", "exit 127"], None).await.unwrap().exit_code, 127);
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_told_from_an_exit_code() {
    for name in RUNTIMES {
        let fixture = Fixture::running(name, "missing").await;
        let error = fixture.exec(&["nope"], Some(Duration::from_secs(30))).await.unwrap_err();
        assert_eq!(error.to_string(), "command \"nope\" could not be started");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("nope") && source.contains("not found in $PATH"), "{source}");
        let elsewhere =
            fixture.runtime.exec_sync("absent", &fixture.process(&["sh"]), fixture.dir.path(), None).await;
        assert!(matches!(elsewhere, Err(ExecError::NotStarted { .. })), "{elsewhere:?}");
    }
}

#[tokio::test]
async fn b12_output_is_capped_and_the_command_is_not_held_up() {
    for name in RUNTIMES {
        let fixture = Fixture::running(name, "cap").await;
        let command = ["sh", "-c", "head -c 17000000 /dev/zero; echo done >&2"];
        let output = fixture.exec(&command, Some(Duration::from_secs(60))).await.unwrap();
        assert_eq!((output.exit_code, output.stdout.len(), output.truncated), (0, 16 << 20, true), "{name}");
        assert_eq!(output.stderr, b"done\n");
    }
}

#[tokio::test]
async fn b12_a_timeout_kills_the_command_and_its_children() {
    for name in RUNTIMES {
        let fixture = Fixture::running(name, "timeout").await;
        let started = Instant::now();
        let limit = Duration::from_millis(300);
        // The third is a daemon: neither its parent nor the leader of its session is there any more.
        let script =
            "sleep 1000 & setsid sleep 1000 & setsid sh -c 'sleep 1000 <&- >&- 2>&- & exit'; sleep 1000";
        let error = fixture.exec(&["sh", "-c", script], Some(limit)).await.unwrap_err();
        assert!(matches!(error, ExecError::Timeout { after, .. } if after == limit), "{name}: {error}");
        assert!(started.elapsed() < Duration::from_secs(5), "{name} took {:?}", started.elapsed());
        fixture.eventually_alone().await;
    }
}

#[tokio::test]
async fn a_dropped_exec_is_killed() {
    for name in RUNTIMES {
        let fixture = Fixture::running(name, "drop").await;
        let exec = fixture.exec(&["sh", "-c", "echo up; sleep 1000"], None);
        let _ = tokio::time::timeout(Duration::from_millis(500), exec).await.unwrap_err();
        fixture.eventually_alone().await;
    }
}

async fn background_child_does_not_hold_the_answer(runtime: &str) {
    let fixture = Fixture::running(runtime, "background").await;
    let started = Instant::now();
    let output = fixture.exec(&["sh", "-c", "sleep 1000 & echo hi; exit 3"], None).await.unwrap();
    assert_eq!((output.exit_code, output.stdout.as_slice()), (3, &b"hi\n"[..]));
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    assert_eq!(fixture.processes().len(), 2, "the background child goes on");
}

#[tokio::test]
async fn b12_a_background_child_does_not_hold_the_answer() {
    background_child_does_not_hold_the_answer("crun").await;
}

/// With runc the daemon must be a subreaper, which a process of parallel tests should not become: a process of its own.
#[test]
fn b12_a_background_child_does_not_hold_the_answer_of_runc() {
    let mut inner = Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", "runtime::tests::as_a_subreaper", "--ignored", "--nocapture"]);
    let output = inner.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn as_a_subreaper() {
    become_subreaper().unwrap();
    background_child_does_not_hold_the_answer("runc").await;
    let fixture = Fixture::running("runc", "detached").await;
    let killed = fixture.exec(&["sh", "-c", "kill -9 $$"], None).await.unwrap();
    assert_eq!(killed.exit_code, 137);
    let limit = Duration::from_millis(300);
    let error = fixture.exec(&["sh", "-c", "sleep 1000 & sleep 1000"], Some(limit)).await.unwrap_err();
    assert!(matches!(error, ExecError::Timeout { .. }), "{error}");
    fixture.eventually_alone().await;
    assert!(matches!(fixture.exec(&["nope"], None).await, Err(ExecError::NotStarted { .. })));
}

/// Orphans two processes, one of which somebody waits for, and sees that only the other one is taken.
#[test]
fn only_an_orphan_that_nobody_waits_for_is_reaped() {
    let mut inner = Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", "runtime::tests::as_a_subreaper_with_orphans", "--ignored", "--nocapture"]);
    let output = inner.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn as_a_subreaper_with_orphans() {
    become_subreaper().unwrap();
    let parent = Command::new("sh").args(["-c", "sleep 0 & echo $!"]).output().unwrap();
    let orphan: i32 = String::from_utf8(parent.stdout).unwrap().trim().parse().unwrap();
    let expected = orphans::Expected::new();
    let mut waited = Command::new("true").spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while orphans::sweep() {
        assert!(Instant::now() < deadline, "the orphan did not come to us");
    }
    let there = || Path::new(&format!("/proc/{orphan}")).exists();
    assert!(there(), "it may be the one that is expected");
    let command = expected.is(rustix::process::Pid::from_raw(orphan).unwrap());
    assert!(!orphans::sweep() && there(), "it is the one that is awaited");
    drop(command);
    assert!(orphans::sweep() && !there());
    assert!(waited.wait().unwrap().success(), "what a thread has started is left to it");
}
