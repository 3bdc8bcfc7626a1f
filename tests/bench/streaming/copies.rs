//! Bulk copies through exec with the real crictl, in and out, over both transports.

use std::process::Stdio;
use std::time::Instant;

use tokio::process::Command;

use crate::peer::Peer;
use crate::{median, setting};

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
    let script = match way {
        "in" => format!("test $(head -c {megabytes}MB /dev/zero | {exec} -i {id} wc -c) = {megabytes}000000"),
        _ => format!("test $({exec} {id} head -c {megabytes}000000 /dev/zero | wc -c) = {megabytes}000000"),
    };
    let mut bash = Command::new("bash");
    bash.args(["-o", "pipefail", "-c", &script]).stdin(Stdio::null());
    let said = bash.output().await.unwrap();
    let errors = String::from_utf8_lossy(&said.stderr).into_owned();
    match said.status.success() {
        true => Ok(()),
        false => {
            let last = errors.lines().last().and_then(|line| line.rsplit(": ").next());
            Err(last.unwrap_or("not all bytes came").replace('|', " "))
        }
    }
}
