//! What a monitor costs. Run by hand, with the binary that is shipped:
//!
//! `PODD_MONITOR=target/x86_64-unknown-linux-musl/monitor/podd-monitor cargo test -p podd-monitor --test measure -- --ignored
//! --nocapture --test-threads 1`
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Plan, Stage, run};

/// A field of `/proc/<pid>/smaps_rollup` in KiB.
fn memory(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The ticks (of 10 ms) that a process has used.
fn processor_time(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    format!("{} ticks in user mode, {} in the kernel", fields[11], fields[12])
}

#[test]
#[ignore = "a measurement"]
fn memory_of_idle_monitors() {
    let stages: Vec<Stage> =
        (0..20).map(|_| Stage::new("crun", &Plan::script("echo up; sleep 1000"))).collect();
    let monitors: Vec<_> = stages.iter().map(|stage| stage.start().0).collect();
    stages.iter().for_each(|stage| stage.wait_for_log("up"));
    let mean = |field| monitors.iter().map(|m| memory(m.process.id(), field)).sum::<u64>() / 20;
    println!("20 idle monitors: PSS {} KiB, private dirty {} KiB each", mean("Pss:"), mean("Private_Dirty:"));
    assert!(mean("Pss:") < 300);
}

#[test]
#[ignore = "a measurement"]
fn throughput_of_short_lines() {
    const MEGABYTES: usize = 512;
    let stage = Stage::new("crun", &Plan::script("for i in 1 2 3 4 5 6 7 8; do cat /text; done; sleep 1000"));
    let logs = stage.path("logs");
    run("mount", &["-t", "tmpfs", "tmpfs", logs.to_str().unwrap()]);
    let line = format!("{}\n", "x".repeat(79));
    fs::write(stage.path("layer/text"), line.repeat((MEGABYTES << 20) / 8 / 80)).unwrap();
    let lines = ((MEGABYTES << 20) / 8 / 80 * 8) as u64;
    let (monitor, _) = stage.start();
    let begin = Instant::now();
    let size = || fs::metadata(&stage.settings.log_path).map_or(0, |m| m.len());
    common::wait("the whole log", || size() >= lines * 120);
    let seconds = begin.elapsed().as_secs_f64();
    let pid = monitor.process.id();
    let speed = (lines * 80) as f64 / seconds / 1e6;
    println!("{speed:.0} MB/s of 80-byte lines; {}; PSS {} KiB", processor_time(pid), memory(pid, "Pss:"));
    common::wait("the memory's release", || memory(pid, "Private_Dirty:") < 100);
}

/// Creates and deletes the stage's container with the runtime alone, on the plain directory of the layer.
fn create_bare(stage: &Stage) -> Duration {
    let config = stage.path("bundle/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("/mnt/rootfs", "/layer")).unwrap();
    let mut runtime = Command::new("crun");
    runtime.arg("--root").arg(stage.path("runtime")).args(["create", "--bundle"]).arg(stage.path("bundle"));
    let begin = Instant::now();
    assert!(runtime.arg(&stage.id).status().unwrap().success());
    let time = begin.elapsed();
    stage.runtime(&["delete", "--force", &stage.id]);
    fs::write(&config, text).unwrap();
    time
}

/// Creates the stage's container with a monitor, and has it undone.
fn create_monitored(stage: &Stage) -> Duration {
    let begin = Instant::now();
    let (mut monitor, _) = stage.create();
    let time = begin.elapsed();
    monitor.client = stage.connect();
    monitor.wait();
    time
}

/// The first creation in a new directory takes three times as long as the next, so each stage is warmed up by one of each,
/// and the order changes from stage to stage.
#[test]
#[ignore = "a measurement"]
fn creation_over_the_bare_runtime() {
    let (mut bare, mut monitored) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let stage = Stage::new("crun", &Plan::script("true"));
        create_bare(&stage);
        create_monitored(&stage);
        for turn in [round % 2, (round + 1) % 2] {
            match turn {
                0 => bare.push(create_bare(&stage)),
                _ => monitored.push(create_monitored(&stage)),
            }
        }
    }
    bare.sort();
    monitored.sort();
    let quartiles = |times: &[Duration]| [times[5], times[10], times[15]];
    println!("quartiles of creation by the runtime alone: {:?}", quartiles(&bare));
    println!("quartiles of creation by a monitor:         {:?}", quartiles(&monitored));
}
