//! Logs: lines of 80 bytes, as fast as they are taken, to a file on a tmpfs.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::conmon::Conmon;
use crate::peer::Peer;
use crate::{median, processor_time, setting};

/// The last line.
const MARK: &str = "that was all";

/// What one turn took.
struct Turn {
    seconds: f64,
    cpu: f64,
}

/// Prints the throughput of each, all taking turns.
pub async fn measure(peers: &mut [Peer], scratch: &Path, tag: &str) {
    let rounds = setting("PODD_BENCH_ROUNDS", 3);
    let pieces = setting("PODD_BENCH_LOG_MB", 256).div_ceil(32);
    let megabytes = (pieces * fs::metadata(scratch.join("text")).unwrap().len() as usize) as f64 / 1e6;
    let script = |text: &str| {
        format!(
            "until [ -e {text}.go ]; do sleep 0.01; done; n={pieces}; while [ $n -gt 0 ]; do cat {text}; n=$((n-1)); done; echo {MARK}; sleep 1000"
        )
    };
    let mut results: Vec<(&str, Vec<Turn>)> = [("cat to a file", Vec::new())]
        .into_iter()
        .chain(peers.iter().map(|p| (p.name, Vec::new())))
        .collect();
    results.push(("conmon", Vec::new()));
    for round in 0..=rounds {
        let mut turns = vec![cat(scratch, pieces)];
        for peer in peers.iter_mut() {
            let dir = scratch.join(format!("in-{}-{round}", peer.name));
            fs::create_dir_all(&dir).unwrap();
            fs::hard_link(scratch.join("text"), dir.join("text")).unwrap();
            let name = format!("log-{round}");
            let id = peer.run(&name, &script("/in/text"), &[(&dir, "/in")]).await;
            // The monitor of this container, or the shim of the pod.
            let log = peer.log(&name);
            turns.push(timed(&log, &dir, || used_by(peer, &id)));
            peer.remove(id).await;
            let _ = fs::remove_file(log);
        }
        let conmon = Conmon::start(
            &scratch.join(format!("conmon-{tag}-{round}")),
            &scratch.join("text"),
            &script("/in/text"),
        );
        turns.push(timed(&conmon.log, &conmon.input, || processor_time(conmon.pid, false)));
        drop(conmon);
        if round > 0 {
            turns.into_iter().zip(&mut results).for_each(|(turn, (_, all))| all.push(turn));
        }
    }
    println!(
        "\n| log of {megabytes:.0} MB in lines of 80 bytes, median of {rounds} | MB/s | processor time a GB |"
    );
    println!("|---|---|---|");
    for (name, turns) in results {
        let seconds = median(turns.iter().map(|turn| turn.seconds).collect());
        let cpu = median(turns.iter().map(|turn| turn.cpu).collect());
        println!("| {name} | {:.0} | {:.2} s |", megabytes / seconds, cpu / megabytes * 1e3);
    }
}

/// Of all that stand between a container's output and its log.
fn used_by(peer: &Peer, container: &str) -> f64 {
    let of_container = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(container)
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let monitors = pids.filter(of_container).map(|pid| processor_time(pid, false)).sum::<f64>();
    monitors + peer.used(false)
}

/// Lets the container go, and waits for its last line.
fn timed(log: &Path, input: &Path, used: impl Fn() -> f64) -> Turn {
    while !log.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = used();
    fs::write(input.join("text.go"), "").unwrap();
    let began = Instant::now();
    while !ends_with_mark(log) {
        assert!(began.elapsed() < Duration::from_secs(300), "{} does not end", log.display());
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = began.elapsed().as_secs_f64();
    Turn { seconds, cpu: used() - before }
}

fn ends_with_mark(log: &Path) -> bool {
    let Ok(mut file) = File::open(log) else { return false };
    let mut tail = Vec::new();
    let length = file.metadata().map_or(0, |file| file.len());
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(64)));
    let _ = file.read_to_end(&mut tail);
    String::from_utf8_lossy(&tail).contains(MARK)
}

/// The floor: the same text to a file, through one pipe as in a container, and without a format.
fn cat(scratch: &Path, pieces: usize) -> Turn {
    let text = scratch.join("text").display().to_string();
    let out = scratch.join("plain").display().to_string();
    let all = vec![text; pieces].join(" ");
    let began = Instant::now();
    let before = processor_time(std::process::id(), true);
    let status =
        Command::new("sh").args(["-c", &format!("cat {all} | cat >{out}")]).stdin(Stdio::null()).status();
    assert!(status.unwrap().success());
    let seconds = began.elapsed().as_secs_f64();
    let cpu = processor_time(std::process::id(), true) - before;
    fs::remove_file(out).unwrap();
    Turn { seconds, cpu }
}
