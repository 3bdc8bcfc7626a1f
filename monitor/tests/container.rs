//! The life of containers below a monitor, with both runtimes: output, ends, control, terminals.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::PathBuf;

use podd_monitor::protocol::{Report, Request};

use common::{Plan, RUNTIMES, Stage, run, wait};

/// Kills a process by the number that the container's report gave.
fn kill(signal: &str, pid: u32) {
    run("kill", &[signal, &pid.to_string()]);
}

#[test]
fn output_and_exit_code_are_recorded() {
    for runtime in RUNTIMES {
        let stage = Stage::new(runtime, &Plan::script("echo out; echo err >&2; printf tail; exit 7"));
        let (mut monitor, pid) = stage.start();
        let Report::Exited(exit) = monitor.client.report() else { panic!("no exit") };
        assert_eq!((exit.pid, exit.exit_code, exit.signal, exit.oom_killed), (pid, 7, 0, false));
        let record = stage.exit_record().unwrap();
        assert!(record.contains(r#""exit_code":7,"signal":0,"oom_killed":false"#), "{record}");
        monitor.wait();
        assert!(!stage.monitor_lives());
        let mut lines = stage.log_lines();
        lines.sort();
        assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P tail"], "{runtime}");
        assert!(!stage.path("state/ctl").exists());
    }
}

#[test]
fn a_signal_ends_a_container_that_runs_and_one_that_was_never_started() {
    for runtime in RUNTIMES {
        for started in [true, false] {
            let stage = Stage::new(runtime, &Plan::script("sleep 1000"));
            let (mut monitor, pid) = stage.create();
            monitor.client.send(&Request::Commit);
            if started {
                stage.start_init();
            }
            kill("-KILL", pid);
            let Report::Exited(exit) = monitor.client.report() else { panic!("no exit") };
            assert_eq!((exit.exit_code, exit.signal), (137, 9));
            monitor.wait();
        }
    }
}

#[test]
fn the_monitor_outlives_its_daemon_and_signals() {
    for runtime in RUNTIMES {
        let script = "trap 'echo bye; exit 3' USR1; echo up; while :; do sleep 0.05; done";
        let stage = Stage::new(runtime, &Plan::script(script));
        let (mut monitor, pid) = stage.start();
        assert_eq!(
            monitor.client.ask(&Request::Unknown(999)),
            Report::Refused("not supported by this monitor".into())
        );
        let process = monitor.process.id();
        // The first connection ends here, as if the daemon had died.
        monitor.client = stage.connect();
        ["-TERM", "-HUP", "-INT", "-PIPE", "-USR1"].iter().for_each(|signal| kill(signal, process));
        stage.wait_for_log("up");
        assert!(stage.monitor_lives());
        let state = monitor.client.ask(&Request::State);
        assert!(matches!(state, Report::State { pid: p, alive: true, .. } if p == pid), "{state:?}");
        kill("-USR1", pid);
        let Report::Exited(exit) = monitor.client.report() else { panic!("no exit") };
        assert_eq!(exit.exit_code, 3);
        assert_eq!(monitor.client.try_report(), None);
        assert_eq!(stage.log_lines(), ["stdout F up", "stdout F bye"]);
    }
}

#[test]
fn a_rotated_log_is_reopened() {
    let script = "trap 'echo two' USR1; echo one; while :; do sleep 0.05; done";
    let stage = Stage::new("crun", &Plan::script(script));
    let (mut monitor, pid) = stage.start();
    stage.wait_for_log("one");
    fs::rename(&stage.settings.log_path, stage.path("logs/rotated")).unwrap();
    assert_eq!(monitor.client.ask(&Request::ReopenLog), Report::Done);
    kill("-USR1", pid);
    stage.wait_for_log("two");
    assert_eq!(stage.log_lines(), ["stdout F two"]);
    assert!(fs::read_to_string(stage.path("logs/rotated")).unwrap().ends_with("stdout F one\n"));

    fs::rename(stage.path("logs"), stage.path("logs.away")).unwrap();
    let Report::Refused(text) = monitor.client.ask(&Request::ReopenLog) else { panic!("not refused") };
    assert!(text.contains("No such file"), "{text}");
    kill("-USR1", pid);
    let moved = stage.path("logs.away/0.log");
    wait("a line in the old file", || fs::read_to_string(&moved).unwrap().matches("two").count() == 2);
    fs::rename(stage.path("logs.away"), stage.path("logs")).unwrap();
}

#[test]
fn a_full_disk_drops_whole_lines_and_says_how_much() {
    let text = "x".repeat(999);
    let script = format!(
        "trap 'echo again; exit 0' USR1; for i in $(seq 300); do echo {text}; done; echo done >/tmp/done
         while :; do sleep 0.05; done"
    );
    let stage = Stage::new("crun", &Plan::script(&script));
    let logs = stage.path("logs");
    run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", logs.to_str().unwrap()]);
    let (mut monitor, pid) = stage.start();
    wait("the container's last write", || stage.path("upper/tmp/done").exists());
    // The monitor answers in its loop, so after an answer all that was in the pipe before has been read.
    (0..4).for_each(|_| drop(monitor.client.ask(&Request::State)));
    let full = stage.log();
    assert!(full.lines().all(|line| line.ends_with(&text)), "a torn line");
    let written = full.lines().count() * 1000;
    assert!(written > 30_000 && written < 65_536, "{written}");

    fs::File::options().write(true).open(&stage.settings.log_path).unwrap().set_len(0).unwrap();
    kill("-USR1", pid);
    monitor.wait();
    let lost = 300_000 - written;
    let notice =
        format!("stderr F podd-monitor: {lost} bytes of output were dropped (No space left on device)");
    assert_eq!(stage.log_lines(), [notice.as_str(), "stdout F again"]);
}

#[test]
fn a_terminal_gives_one_stream_and_can_be_resized() {
    for runtime in RUNTIMES {
        let script = "trap 'stty size; exit 0' USR1; echo out; echo err >&2; while :; do sleep 0.05; done";
        let stage = Stage::new(runtime, &Plan { terminal: true, ..Plan::script(script) });
        let (mut monitor, pid) = stage.start();
        assert_eq!(monitor.client.ask(&Request::Resize { width: 91, height: 17 }), Report::Done);
        stage.wait_for_log("err");
        kill("-USR1", pid);
        monitor.wait();
        assert_eq!(stage.log_lines(), ["stdout F out", "stdout F err", "stdout F 17 91"]);
        assert!(!stage.path("state/console").exists());
    }
}

#[test]
fn standard_input_stays_open_until_it_is_closed() {
    let mut stage = Stage::new("crun", &Plan::script("echo up; cat; echo eof"));
    stage.settings.stdin = true;
    let (mut monitor, _) = stage.start();
    stage.wait_for_log("up");
    let refused = monitor.client.ask(&Request::Resize { width: 1, height: 1 });
    assert_eq!(refused, Report::Refused("the container has no terminal".to_owned()));
    assert!(!stage.log().contains("eof"));
    assert_eq!(monitor.client.ask(&Request::CloseStdin), Report::Done);
    monitor.wait();
    assert_eq!(stage.log_lines(), ["stdout F up", "stdout F eof"]);
}

#[test]
fn two_hundred_layers_are_one_root() {
    for runtime in RUNTIMES {
        let mut stage = Stage::new(runtime, &Plan::script("ls / | wc -l; echo x >/new; cat /layer"));
        for index in 0..199 {
            let layer = stage.path(&format!("a-rather-long-name-of-a-layer-{index}"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(format!("f{index}")), "").unwrap();
            fs::write(layer.join("layer"), index.to_string()).unwrap();
            stage.settings.overlay.lower.insert(0, layer);
        }
        let (mut monitor, _) = stage.start();
        monitor.wait();
        assert_eq!(stage.log_lines(), ["stdout F 205", "stdout P 198"], "{runtime}");
        assert!(stage.path("upper/new").exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = stage.dir.path().to_str().unwrap();
        let shown = mounts.lines().find(|line| line.contains(own) && line.contains("overlay"));
        assert_eq!(shown, None, "the root filesystem shows outside the container");
    }
}

#[test]
fn a_process_that_holds_the_pipes_does_not_hold_the_end() {
    let plan = Plan { pid_namespace: false, ..Plan::script("sleep 1000 & echo started; exit 4") };
    let stage = Stage::new("runc", &plan);
    let (mut monitor, _) = stage.start();
    let Report::Exited(exit) = monitor.client.report() else { panic!("no exit") };
    assert_eq!(exit.exit_code, 4);
    monitor.wait();
    assert_eq!(stage.log_lines(), ["stdout F started"]);
}

#[test]
fn an_out_of_memory_kill_is_seen() {
    for runtime in RUNTIMES {
        let script = "x=x; while :; do x=$x$x; done";
        let plan = Plan { memory_limit: Some(24 << 20), ..Plan::script(script) };
        let stage = Stage::new(runtime, &plan);
        let (mut monitor, _) = stage.start();
        let Report::Exited(exit) = monitor.client.report() else { panic!("no exit") };
        assert_eq!((exit.exit_code, exit.oom_killed), (137, true), "{runtime}");
        assert!(stage.exit_record().unwrap().contains(r#""oom_killed":true"#));
    }
}

#[test]
fn without_a_log_output_is_thrown_away() {
    let mut stage = Stage::new("crun", &Plan::script("yes | head -c 1000000; exit 1"));
    stage.settings.log_path = PathBuf::new();
    let (mut monitor, _) = stage.start();
    let Report::Exited(exit) = monitor.client.report() else { panic!("no exit") };
    assert_eq!(exit.exit_code, 1);
    assert_eq!(fs::read_dir(stage.path("logs")).unwrap().count(), 0);
}
