//! What probes, logs and copies through exec cost, beside Debian's containerd and conmon and beside the bare runtime.
//! `tests/bench/streaming.sh` builds what is measured and runs this; its first lines name the settings.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    unreachable_pub,
    dead_code,
    unused_imports
)]

#[path = "../integration/common/mod.rs"]
mod common;
#[path = "streaming/conmon.rs"]
mod conmon;
#[path = "streaming/copies.rs"]
mod copies;
#[path = "streaming/logs.rs"]
mod logs;
#[path = "streaming/peer.rs"]
mod peer;
#[path = "streaming/probes.rs"]
mod probes;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Node, image, registry};
use peer::Peer;
use serde_json::json;

/// The kernel's clock ticks a second, as everywhere on Linux.
const TICKS: f64 = 100.0;

/// A number from the environment.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// The processor time that a process has used itself, or with the children that it has waited for, in seconds; 0 when it is
/// gone.
fn processor_time(pid: u32, with_children: bool) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0.0 };
    let fields = fields.split_whitespace().skip(11).take(if with_children { 4 } else { 2 });
    fields.map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A directory on the tmpfs, so that no disk is measured.
struct Scratch(PathBuf);

impl Scratch {
    fn new(tag: &str) -> Self {
        let dir = PathBuf::from(format!("/dev/shm/podd-bench-{tag}"));
        fs::create_dir_all(dir.join("logs")).unwrap();
        // In the containers it is mounted, for whoever they run as.
        fs::write(dir.join("text"), format!("{}\n", "x".repeat(79)).repeat((32 << 20) / 80)).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::main]
async fn main() {
    let binary = std::env::var_os("PODD_BENCH_PODD").map_or(env!("CARGO_BIN_EXE_podd").into(), PathBuf::from);
    let mut node = Node::start_binary(binary).await;
    let scratch = Scratch::new(&node.names.tag);
    let busybox = image::pushed_busybox().await.reference.clone();
    let sleeper = image::busybox().config(&json!({ "Entrypoint": ["/bin/sleep"], "Cmd": ["1000000"] }));
    let sleeper = sleeper.push(registry::shared().await, "bench/sleeper", "1").await.reference;

    let mut peers = Vec::new();
    peers.push(Peer::podd(&mut node, &busybox, &scratch.0).await);
    peers.push(Peer::containerd(&node.names.tag, &busybox, &sleeper, &scratch.0).await);
    probes::measure(&mut peers, &node.names).await;
    logs::measure(&mut peers, &scratch.0, &node.names.tag).await;
    copies::measure(&peers).await;
    for peer in peers {
        peer.finish().await;
    }
    node.finish().await;
}
