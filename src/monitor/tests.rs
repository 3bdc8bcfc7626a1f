//! The client against the real monitor. The "runtime" is a shell that leaves a process behind as init; what the monitor does
//! with crun and runc is tested in its own crate.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use podd_monitor::protocol::{Overlay, ROOTFS, Settings, Stage};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;
use crate::sys::process::Process;

const PATIENCE: Duration = Duration::from_secs(20);

/// The monitor's binary beside this test's, built if need be.
fn binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let status =
            Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "podd-monitor"]).status().unwrap();
        assert!(status.success());
        let test = env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().join("podd-monitor")
    };
    BUILT.get_or_init(build).clone()
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

/// The directories of one container; its mount point is a mount until the end.
struct Container {
    dir: TempDir,
}

impl Container {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layer", "upper", "work", "state", "mnt"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("layer/file"), "of the layer").unwrap();
        let mnt = dir.path().join("mnt");
        run("mount", &["--bind", mnt.to_str().unwrap(), mnt.to_str().unwrap()]);
        run("mount", &["--make-private", mnt.to_str().unwrap()]);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A launch whose init runs `script`. `deleted` is made when the creation is undone.
    fn launch(&self, script: &str) -> Launch {
        let shell = |script: String| ["/bin/sh".into(), "-c".into(), OsString::from(script)].to_vec();
        let rootfs = self.path("mnt").join(ROOTFS);
        let create = format!(
            "cat {}/file && {{ sh -c '{script}' & echo $! >{}; }}",
            rootfs.display(),
            self.path("state/pid").display()
        );
        let settings = Settings {
            container_id: "c1".to_owned(),
            state_dir: self.path("state"),
            mount_point: self.path("mnt"),
            overlay: Overlay {
                lower: vec![self.path("layer")],
                upper: self.path("upper"),
                work: self.path("work"),
                options: Vec::new(),
                owned: false,
            },
            create: shell(create),
            delete: shell(format!("touch {}", self.path("deleted").display())),
            pid_file: self.path("state/pid"),
            create_timeout: Duration::from_secs(10),
            log_path: self.path("log"),
            exit_file: self.path("exit"),
            ..Settings::default()
        };
        Launch { binary: binary(), settings }
    }

    fn state_dir(&self) -> PathBuf {
        self.path("state")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path("mnt")).status();
    }
}

async fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

async fn wait_for_death(state_dir: &Path) {
    wait("the monitor's end", || !is_alive(state_dir).unwrap()).await;
}

#[tokio::test]
async fn a_container_lives_until_its_exit_is_known() {
    let container = Container::new();
    let go = container.path("go");
    let script = format!("while ! [ -e {} ]; do sleep 0.01; done; exit 5", go.display());
    let created = launch(&container.launch(&script)).await.unwrap();
    let Created { process: Process { pid, start_time }, monitor, warnings, timing } = created;
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(timing.is_some_and(|timing| timing.mount > 0 && timing.create > 0), "{timing:?}");
    assert!(is_alive(&container.state_dir()).unwrap());
    monitor.commit().await.unwrap();
    let state = monitor.state().await.unwrap();
    assert_eq!(state, InitState { pid, start_time, alive: true });
    monitor.reopen_log().await.unwrap();
    let refused = monitor.resize(80, 25).await.unwrap_err();
    assert!(refused.to_string().contains("no terminal"), "{refused}");

    fs::write(go, "").unwrap();
    let Ended::Exited(exit) = timeout(PATIENCE, monitor.exited()).await.unwrap() else { panic!("lost") };
    assert_eq!((exit.pid, exit.exit_code, exit.signal), (pid, 5, 0));
    assert_eq!(read_exit(&container.path("exit")).unwrap(), Some(exit));
    assert_eq!(monitor.exited().await, Ended::Exited(exit));
    wait_for_death(&container.state_dir()).await;
    assert!(matches!(monitor.reopen_log().await, Err(MonitorError::Ended("reopen the log"))));
    assert!(connect(&container.state_dir()).await.unwrap().is_none());
    assert!(fs::read_to_string(container.path("log")).unwrap().ends_with("stdout P of the layer\n"));
    assert!(!container.path("deleted").exists());
}

#[tokio::test]
async fn a_committed_monitor_is_found_again() {
    let container = Container::new();
    let created = launch(&container.launch("exec sleep 1000")).await.unwrap();
    created.monitor.commit().await.unwrap();
    let init = created.process;
    drop(created);
    let monitor = connect(&container.state_dir()).await.unwrap().unwrap();
    assert_eq!(monitor.state().await.unwrap().pid, init.pid);
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let monitor = monitor.clone();
            tokio::spawn(async move { monitor.exited().await })
        })
        .collect();
    assert!(timeout(Duration::from_millis(20), monitor.exited()).await.is_err());
    init.signal(9).unwrap();
    for waiter in waiters {
        let Ended::Exited(exit) = timeout(PATIENCE, waiter).await.unwrap().unwrap() else { panic!("lost") };
        assert_eq!((exit.exit_code, exit.signal), (137, 9));
    }
    wait_for_death(&container.state_dir()).await;
}

#[tokio::test]
async fn what_is_not_committed_goes_with_its_handle() {
    let container = Container::new();
    let created = launch(&container.launch("exec sleep 1000")).await.unwrap();
    let init = created.process;
    drop(created);
    timeout(PATIENCE, init.ended()).await.unwrap().unwrap();
    assert!(connect(&container.state_dir()).await.unwrap().is_none());
    assert!(container.path("deleted").exists());
    assert_eq!(read_exit(&container.path("exit")).unwrap(), None);
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_nothing() {
    let container = Container::new();
    let mut plan = container.launch("");
    let child = container.path("child");
    plan.settings.create[2] = format!("echo $$ >{}; exec sleep 1000", child.display()).into();
    {
        let launching = launch(&plan);
        tokio::pin!(launching);
        while !fs::read_to_string(&child).is_ok_and(|pid| pid.ends_with('\n')) {
            assert!(timeout(Duration::from_millis(5), &mut launching).await.is_err(), "it has ended");
        }
    }
    wait_for_death(&container.state_dir()).await;
    let pid = fs::read_to_string(child).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[tokio::test]
async fn failures_have_stage_and_words() {
    let container = Container::new();
    let mut plan = container.launch("");
    plan.settings.create[2] = "echo no such thing >&2; exit 3".into();
    match launch(&plan).await.unwrap_err() {
        MonitorError::Failed { stage: Stage::Create, text } => {
            assert_eq!(text, "sh create ended with exit code 3: no such thing");
        }
        other => panic!("{other:?}"),
    }
    wait_for_death(&container.state_dir()).await;

    plan.binary = "/no/such/monitor".into();
    let error = launch(&plan).await.unwrap_err();
    assert_eq!(error.to_string(), "start /no/such/monitor");
    // At once, but for a process that another test is starting: until it is one, it holds a copy of the lock.
    wait_for_death(&container.state_dir()).await;

    plan.binary = "/bin/true".into();
    assert!(matches!(launch(&plan).await, Err(MonitorError::Ended(_))));
}

#[tokio::test]
async fn a_second_monitor_for_a_container_is_refused() {
    let container = Container::new();
    let plan = container.launch("exec sleep 1000");
    let first = launch(&plan).await.unwrap();
    assert!(matches!(launch(&plan).await, Err(MonitorError::Busy(_))));
    drop(first);
    wait_for_death(&container.state_dir()).await;
}
