//! What a daemon and its monitors hold of the machine while pods run and nothing happens: memory and wake-ups.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::time::Duration;

use crate::{Daemon, Life, MANY, Network, start};

/// How long nothing happens before what is held counts, and then while wake-ups are counted.
const SETTLING: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(25);

/// Runs many pods, and tells what they cost to have.
pub async fn report(name: &str, daemon: &Daemon) {
    let pid = daemon.node.daemon_pid();
    let before = pss(pid);
    let mut client = daemon.node.runtime.clone();
    for _ in 0..MANY {
        let (pod, container) = (daemon.pod(Network::Host), daemon.container.clone());
        start(&mut client, pod, container, &mut Life::begin()).await;
    }
    // What a burst has taken is given back, and what it has woken sleeps again, when all has been quiet for a while.
    tokio::time::sleep(SETTLING).await;
    let monitors = monitors(&daemon.node.names.tag);
    let (with, of_monitors) = (pss(pid), monitors.iter().map(|pid| pss(*pid)).sum::<u64>());
    let before_idle = wakeups(pid);
    tokio::time::sleep(IDLE).await;
    let woken = wakeups(pid).into_iter().map(|(thread, now)| now - before_idle.get(&thread).unwrap_or(&0));
    let woken = woken.sum::<u64>() as f64 / IDLE.as_secs_f64();
    let each = of_monitors as f64 / monitors.len() as f64;
    println!(
        "\n{name}: {before} kB PSS before, {with} kB with {} containers, {} threads; a monitor {each:.0} kB; \
         all at 100 pods: {:.1} MB; idle: {woken:.2} wake-ups a second",
        monitors.len(),
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(),
        (with as f64 + (with.saturating_sub(before)) as f64 + 100.0 * each) / 1e3,
    );
}

/// The proportional set size of a process, in kB.
fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How often each of its threads has given up the processor of its own will.
fn wakeups(pid: u32) -> HashMap<OsString, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |thread: DirEntry| {
        let text = fs::read_to_string(thread.path().join("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((thread.file_name(), line.trim().parse().ok()?))
    };
    threads.filter_map(of).collect()
}

/// The monitors of one node: they hold its directory open.
fn monitors(tag: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let binary = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let lock = fs::read_link(format!("/proc/{pid}/fd/1")).unwrap_or_default();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut files = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        binary.ends_with("podd-monitor")
            && (lock.to_string_lossy().contains(tag)
                || files.any(|file| file.to_string_lossy().contains(tag)))
    })
    .collect()
}
