//! Creations that fail, time out or are abandoned: the right words, and nothing left.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use podd_monitor::protocol::{Report, Request, Stage as Step, VERSION, Version};

use common::{Monitor, Plan, RUNTIMES, Stage, monitor_binary, wait};

fn assert_nothing_left(stage: &Stage, monitor: &mut Monitor) {
    monitor.wait();
    assert!(!stage.monitor_lives());
    assert_eq!(stage.exit_record(), None);
    let state = stage.runtime(&["state", &stage.id]);
    assert!(!state.status.success(), "{} still knows the container", stage.runtime);
    let cgroup = format!("/sys/fs/cgroup/memory/{}", stage.id);
    assert!(!fs::exists(&cgroup).unwrap(), "{cgroup} is left");
    assert_eq!(fs::read_dir(stage.path("mnt")).unwrap().count(), 0);
}

fn failure(monitor: &mut Monitor) -> (Step, String) {
    loop {
        match monitor.client.report() {
            Report::Failed { stage, text } => return (stage, text),
            Report::Warning(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn without_commit_the_daemons_death_undoes_everything() {
    for runtime in RUNTIMES {
        let stage = Stage::new(runtime, &Plan::script("sleep 1000"));
        let (mut monitor, pid) = stage.create();
        assert!(fs::exists(format!("/proc/{pid}")).unwrap());
        monitor.client = stage.connect();
        wait("the init's end", || !fs::exists(format!("/proc/{pid}")).unwrap());
        assert_nothing_left(&stage, &mut monitor);
    }
}

#[test]
fn a_runtime_that_refuses_is_quoted() {
    for runtime in RUNTIMES {
        let stage = Stage::new(runtime, &Plan::script("true"));
        let config = stage.path("bundle/config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace(r#""type":"devpts""#, r#""type":"no-such-fs""#)).unwrap();
        let mut monitor = stage.launch();
        let (step, text) = failure(&mut monitor);
        assert_eq!(step, Step::Create);
        assert!(text.starts_with(&format!("{runtime} create ended with exit code 1: ")), "{text}");
        assert!(text.contains("dev/pts") && text.contains("such device"), "{text}");
        println!("{text}");
        assert_nothing_left(&stage, &mut monitor);
    }
}

#[test]
fn a_runtime_that_hangs_is_killed_with_its_children() {
    let mut stage = Stage::new("crun", &Plan::script("true"));
    let script = format!("echo words >&2; sleep 1000 & echo $! >{}; wait", stage.path("child").display());
    stage.settings.create = ["/bin/sh", "-c", &script].map(Into::into).to_vec();
    stage.settings.create_timeout = Duration::from_millis(300);
    let begin = Instant::now();
    let mut monitor = stage.launch();
    let (step, text) = failure(&mut monitor);
    assert_eq!(step, Step::Timeout);
    assert_eq!(text, "sh create did not end within 300ms and was killed: words");
    assert!(begin.elapsed() < Duration::from_secs(8));
    let child = fs::read_to_string(stage.path("child")).unwrap();
    assert!(!fs::exists(format!("/proc/{}", child.trim())).unwrap());
    assert_nothing_left(&stage, &mut monitor);
}

#[test]
fn what_fails_before_the_runtime_is_named() {
    let mut stage = Stage::new("crun", &Plan::script("true"));
    stage.settings.cgroup_procs = vec!["/sys/fs/cgroup/none/cgroup.procs".into()];
    stage.settings.overlay.lower = vec![stage.path("no-layer")];
    let mut monitor = stage.launch();
    let Report::Warning(text) = monitor.client.report() else { panic!("no warning") };
    assert!(text.contains("none/cgroup.procs"), "{text}");
    let (step, text) = failure(&mut monitor);
    assert_eq!(step, Step::Overlay);
    assert!(text.contains("no-layer") && text.contains("No such file"), "{text}");
    assert_nothing_left(&stage, &mut monitor);

    stage.settings.overlay.lower = vec![stage.path("layer")];
    stage.settings.create[0] = "/no/such/runtime".into();
    let mut monitor = stage.launch();
    let _ = monitor.client.report();
    let (step, text) = failure(&mut monitor);
    assert_eq!(step, Step::Exec);
    assert!(text.starts_with("execute /no/such/runtime: No such file"), "{text}");

    stage.settings.log_path = stage.path("no-directory/log");
    let mut monitor = stage.launch();
    assert_eq!(failure(&mut monitor).0, Step::Log);
}

#[test]
fn another_major_version_is_refused() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut process = Command::new(monitor_binary())
        .args(["run", "x"])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    ours.write_all(&Request::Hello(Version { major: 99, minor: 0 }).encode()).unwrap();
    let mut text = String::new();
    let _ = std::io::Read::read_to_string(&mut ours, &mut text);
    assert!(text.contains(&format!("speaks protocol {VERSION}, not 99.0")), "{text:?}");
    assert!(process.wait().unwrap().success());
}

#[test]
fn pause_takes_orphans_and_ends_when_told() {
    let script = format!("(sleep 0.2 & sleep 0.01 &); exec {} pause", monitor_binary());
    let mut unshare =
        Command::new("unshare").args(["--pid", "--fork", "/bin/sh", "-c", &script]).spawn().unwrap();
    let children =
        |pid: &str| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut pause = String::new();
    wait("the pause process", || {
        pause = children(&unshare.id().to_string()).trim().to_owned();
        fs::read_to_string(format!("/proc/{pause}/comm")).is_ok_and(|name| name == "podd-monitor\n")
    });
    wait("the orphans' end", || children(&pause).is_empty());
    common::run("kill", &["-TERM", &pause]);
    wait("the end of pause", || unshare.try_wait().unwrap().is_some());
}
