//! Cold pulls from a registry on the machine: podd, the machine's containerd, and the bare floor (fetch | gunzip | untar), in
//! turns and in one run. `tests/bench/pull.sh` installs and builds what is measured and runs this.
//!
//! `PODD_BENCH_ROUNDS` is how often each takes its turn; `PODD_BENCH_PODD` names the podd as it is released, and
//! `PODD_BENCH_AGAINST` a second one that takes its turns as well.
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
mod pull {
    pub mod bare;
    pub mod containerd;
    pub mod cost;
    pub mod disk;
    pub mod material;
}

use std::path::PathBuf;

use podd::api;

use common::{Node, Registry};
use pull::bare;
use pull::containerd::Containerd;
use pull::cost::{Cost, Meter};
use pull::disk::{Device, Disk};
use pull::material::{self, Material};

/// Who takes turns.
enum Contestant {
    /// Whether its files are flushed to the disk, too.
    Floor(bool),
    /// The binary, and settings of its own.
    Podd(PathBuf, &'static str),
    Containerd,
}

impl Contestant {
    /// A pull by a new daemon onto a new file system.
    async fn pull(&self, registry: &Registry, image: &Material, device: &Device) -> Cost {
        let disk = Disk::new(device);
        match self {
            Self::Floor(flushed) => bare::pull(image, disk.path(), *flushed),
            Self::Podd(binary, settings) => {
                let mut node = Node::start_binary_on(binary.clone(), disk.path(), settings).await;
                let meter = Meter::start(node.daemon_pid());
                node.pull(&image.reference).await.unwrap();
                let cost = meter.stop();
                node.finish().await;
                cost
            }
            Self::Containerd => {
                Containerd::start(registry.host(), disk.path()).await.pull(&image.reference).await
            }
        }
    }
}

#[tokio::main]
async fn main() {
    let rounds = std::env::var("PODD_BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let registry = Registry::open().await;
    println!("making the images (once per machine)");
    let many = material::push(&registry, "many", 8, 128 << 20).await;
    let single = material::push(&registry, "single", 1, 480 << 20).await;
    let device = Device::new();
    let mut contestants =
        vec![("floor", Contestant::Floor(false)), ("floor, flushed", Contestant::Floor(true))];
    let isal = "[images]\ninflate = \"isal\"\n";
    let podds = [
        ("podd", "PODD_BENCH_PODD", ""),
        ("podd, isal", "PODD_BENCH_PODD", isal),
        ("against", "PODD_BENCH_AGAINST", ""),
    ];
    for (name, variable, settings) in podds {
        let binary = std::env::var_os(variable);
        contestants.extend(binary.map(|binary| (name, Contestant::Podd(binary.into(), settings))));
    }
    contestants.push(("containerd", Contestant::Containerd));
    for (name, image) in [("many layers", &many), ("single layer", &single)] {
        println!(
            "\n{name}: {} layers, {} MB packed, {} MB unpacked, {rounds} rounds",
            image.urls.len(),
            image.packed / 1_000_000,
            image.unpacked / 1_000_000,
        );
        report(&in_turns(&contestants, &registry, image, &device, rounds).await);
    }
}

/// The costs of each contestant. The first round finds cold caches and does not count.
async fn in_turns<'a>(
    contestants: &[(&'a str, Contestant)],
    registry: &Registry,
    image: &Material,
    device: &Device,
    rounds: usize,
) -> Vec<(&'a str, Vec<Cost>)> {
    let mut costs: Vec<_> = contestants.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for round in 0..=rounds {
        for turn in 0..contestants.len() {
            // To and fro: what one leaves to the kernel to clean up, the next one feels.
            let who = if round % 2 == 0 { turn } else { contestants.len() - 1 - turn };
            rustix::fs::sync();
            let cost = contestants[who].1.pull(registry, image, device).await;
            if round > 0 {
                costs[who].1.push(cost);
            }
        }
    }
    costs
}

/// A table of medians, and how podd compares.
fn report(costs: &[(&str, Vec<Cost>)]) {
    println!("{:14} {:>8} {:>8} {:>8} {:>16}", "", "time s", "CPU s", "idle s", "peak memory MiB");
    let medians: Vec<_> = costs.iter().map(|(name, costs)| (*name, typical(costs))).collect();
    for (name, cost) in &medians {
        println!("{name:14} {:8.2} {:8.2} {:8.2} {:>16.1}", cost.time, cost.cpu, cost.idle, cost.memory);
    }
    let of = |wanted: &str| medians.iter().find(|(name, _)| *name == wanted).map(|(_, cost)| *cost);
    for name in ["podd", "podd, isal"] {
        let all = (of(name), of("floor"), of("floor, flushed"), of("containerd"));
        let (Some(podd), Some(floor), Some(flushed), Some(peer)) = all else {
            continue;
        };
        println!(
            "{name}: {:.2} of the floor's time, {:.2} of the flushed one's, {:.2} times as fast as containerd at {:.2} of its CPU",
            podd.time / floor.time,
            podd.time / flushed.time,
            peer.time / podd.time,
            podd.cpu / peer.cpu,
        );
    }
}

fn typical(costs: &[Cost]) -> Cost {
    let median = |of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Cost {
        time: median(|c| c.time),
        cpu: median(|c| c.cpu),
        idle: median(|c| c.idle),
        memory: median(|c| c.memory),
    }
}
