//! ExecSync of `true`, beside the bare exec of the same runtime in the same container.

use std::process::{Command, Stdio};
use std::time::Instant;

use podd::api;

use crate::common::node::Names;
use crate::common::{oci_runtime, program};
use crate::peer::Peer;
use crate::{median, processor_time, setting};

/// So many probes one after the other are one turn.
const TURN: usize = 20;

/// Prints the median time and the mean processor time of a probe, all taking turns.
pub async fn measure(peers: &mut [Peer], names: &Names) {
    let turns = setting("PODD_BENCH_PROBES", 200).div_ceil(TURN);
    let runtime = program(&oci_runtime());
    let (root, container) = (names.run_dir().join(oci_runtime()), peers[0].container.clone());
    let bare = || {
        let mut exec = Command::new(&runtime);
        exec.arg("--root").arg(&root).args(["exec", &container, "/bin/true"]).stdin(Stdio::null());
        assert!(exec.status().unwrap().success());
    };
    let mut times = vec![Vec::new(); peers.len() + 1];
    let mut used = vec![0.0; peers.len() + 1];
    for turn in 0..=turns {
        // The first one warms up.
        let counts = turn > 0;
        let before = processor_time(std::process::id(), true);
        let own = processor_time(std::process::id(), false);
        for _ in 0..TURN {
            let began = Instant::now();
            bare();
            times[0].extend(counts.then(|| began.elapsed().as_secs_f64() * 1e3));
        }
        if counts {
            used[0] += processor_time(std::process::id(), true)
                - before
                - (processor_time(std::process::id(), false) - own);
        }
        for (index, peer) in peers.iter_mut().enumerate() {
            let before = peer.used(true);
            for _ in 0..TURN {
                let (container_id, cmd) = (peer.container.clone(), vec!["/bin/true".to_owned()]);
                let request = api::ExecSyncRequest { container_id, cmd, timeout: 60 };
                let began = Instant::now();
                let answer = peer.runtime.exec_sync(request).await.unwrap().into_inner();
                times[index + 1].extend(counts.then(|| began.elapsed().as_secs_f64() * 1e3));
                assert_eq!(answer.exit_code, 0);
            }
            used[index + 1] += if counts { peer.used(true) - before } else { 0.0 };
        }
    }
    println!(
        "\n| ExecSync `true`, {}, {} probes | time, median | over the bare exec | processor time |",
        oci_runtime(),
        turns * TURN
    );
    println!("|---|---|---|---|");
    let names = std::iter::once("bare exec").chain(peers.iter().map(|peer| peer.name));
    let medians: Vec<_> = times.into_iter().map(median).collect();
    for (index, name) in names.enumerate() {
        let (time, cpu) = (medians[index], used[index] / (turns * TURN) as f64 * 1e3);
        println!("| {name} | {time:.1} ms | {:+.1} ms | {cpu:.1} ms |", time - medians[0]);
    }
}
