//! Bulk copies through exec with the real crictl, in and out, over both transports.

use std::process::Stdio;
use std::time::Instant;

use tokio::process::Command;

use crate::peer::Peer;
use crate::{median, setting};

/// How much the command in the container writes at once, in bytes: what goes into a megabyte evenly and is near to the 10 KiB
/// of tar, by which `kubectl cp` copies. Inwards it is busybox's `wc` that reads, which looks at each byte and ends at
/// 480 MB/s; its `dd` does not count bytes. (Its `head -c` writes 240 MB/s at most, and so is not what is measured with.)
const BLOCK: usize = 10_000;

/// Prints throughput and processor time of each, all taking turns.
pub async fn measure(peers: &[Peer]) {
    let (rounds, megabytes) = (setting("PODD_BENCH_ROUNDS", 3), setting("PODD_BENCH_COPY_MB", 1000));
    let ways = [("in", "spdy"), ("in", "websocket"), ("out", "spdy"), ("out", "websocket")];
    println!(
        "\n| {megabytes} MB by crictl exec, median of {rounds} | | MB/s | processor time a GB, of the daemon and its helpers |"
    );
    println!("|---|---|---|---|");
    for (way, transport) in ways {
        let (mut turns, mut refusals) = (vec![Vec::new(); peers.len()], vec![String::new(); peers.len()]);
        for _ in 0..rounds {
            for (index, (peer, turns)) in peers.iter().zip(&mut turns).enumerate() {
                let before = peer.used(false);
                let began = Instant::now();
                match copy(peer, way, transport, megabytes).await {
                    Ok(()) => turns.push((began.elapsed().as_secs_f64(), peer.used(false) - before)),
                    Err(why) => refusals[index] = why,
                }
            }
        }
        for (index, (peer, turns)) in peers.iter().zip(turns).enumerate() {
            let what = format!("{way}, {transport}");
            if turns.is_empty() {
                println!("| {what} | {} | none: {} | |", peer.name, refusals[index]);
                continue;
            }
            let seconds = median(turns.iter().map(|turn| turn.0).collect());
            let cpu = median(turns.iter().map(|turn| turn.1).collect());
            println!(
                "| {what} | {} | {:.0} | {:.2} s |",
                peer.name,
                megabytes as f64 / seconds,
                cpu / megabytes as f64 * 1e3
            );
        }
    }
}

async fn copy(peer: &Peer, way: &str, transport: &str, megabytes: usize) -> Result<(), String> {
    let crictl = std::env::var("PODD_CRICTL").expect("tests/bench/streaming.sh sets it");
    let socket = format!("unix://{}", peer.socket.display());
    let exec = format!("'{crictl}' -r '{socket}' -i '{socket}' -t 60s exec --transport {transport}");
    let id = &peer.container;
    let blocks = megabytes * 1_000_000 / BLOCK;
    let script = match way {
        "in" => format!("head -c {megabytes}MB /dev/zero | {exec} -i {id} wc -c"),
        _ => format!("{exec} {id} dd if=/dev/zero bs={BLOCK} count={blocks} status=none | wc -c"),
    };
    let mut bash = Command::new("bash");
    bash.args(["-o", "pipefail", "-c", &script]).stdin(Stdio::null());
    let output = bash.output().await.unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.success() && said.trim() == format!("{megabytes}000000") {
        true => Ok(()),
        false => {
            let last = errors.lines().last().and_then(|line| line.rsplit(": ").next()).unwrap_or_default();
            Err(format!("{:?} {last}", said.trim()).replace('|', " "))
        }
    }
}
