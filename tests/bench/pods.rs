//! What podd adds to a pod's life: each call of the CRI beside the same work by hand ([`floor`]), in turns and in one run,
//! so that a busy machine hits both alike. `tests/bench/run.sh` builds what is measured and runs this.
//!
//! `PODD_TEST_RUNTIME` names the runtime, `PODD_BENCH_ROUNDS` the number of pods one at a time, `PODD_BENCH_PODD` the podd
//! as it is released; `PODD_BENCH_AGAINST` is a second podd that takes its turns as well, for a before and after.
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
mod floor;
mod memory;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use podd::api;
use podd::api::runtime_service_client::RuntimeServiceClient;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, block_in_place, spawn_blocking};
use tonic::transport::Channel;

use common::{ContainerSpec, Node, PodSpec};
use floor::Floor;

/// The calls of a pod's life, in their order.
const CALLS: [&str; 8] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync true",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
/// How many of them start a pod.
const START: usize = 3;
/// How many pods are run where it is many, and how many of them at a time.
const MANY: usize = 50;
const AT_A_TIME: usize = 8;
/// A run of fewer rounds only looks at one pod at a time: for a daemon under strace.
const LONG: usize = 5;

/// What network a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The node's own.
    Host,
    /// A CNI bridge with a port mapper behind it.
    Bridge,
}

/// How long each call of one pod took, in milliseconds.
#[derive(Debug, Clone)]
pub struct Life {
    steps: Vec<f64>,
    last: Instant,
}

impl Life {
    fn begin() -> Self {
        Self { steps: Vec::new(), last: Instant::now() }
    }

    fn restart(&mut self) {
        self.last = Instant::now();
    }

    fn step(&mut self) {
        self.steps.push(self.last.elapsed().as_secs_f64() * 1e3);
        self.last = Instant::now();
    }
}

/// A daemon, and the container that all its pods have.
struct Daemon {
    node: Node,
    container: api::ContainerConfig,
}

impl Daemon {
    async fn start(binary: PathBuf) -> Self {
        let mut node = Node::start_binary(binary).await;
        let reference = common::image::pushed_busybox().await.reference.clone();
        let image = node.pull(&reference).await.unwrap();
        let container = ContainerSpec::script("bench", "").with(|config| {
            config.command = vec!["/bin/sleep".to_owned(), "3600".to_owned()];
            config.args.clear();
            config.image = Some(api::ImageSpec { image, ..Default::default() });
        });
        Self { node, container: container.0 }
    }

    fn pod(&self, network: Network) -> api::PodSandboxConfig {
        let spec = PodSpec::new(&self.node, "bench");
        match network {
            Network::Host => spec.host_network().0,
            Network::Bridge => spec.0,
        }
    }

    /// A pod from its beginning to its end.
    fn live(&self, network: Network) -> impl Future<Output = Life> + Send + use<> {
        let mut client = self.node.runtime.clone();
        let (config, container) = (self.pod(network), self.container.clone());
        async move {
            let mut life = Life::begin();
            let (pod, container) = start(&mut client, config, container, &mut life).await;
            let cmd = vec!["/bin/true".to_owned()];
            let exec = api::ExecSyncRequest { container_id: container.clone(), cmd, timeout: 10 };
            assert_eq!(client.exec_sync(exec).await.unwrap().into_inner().exit_code, 0);
            life.step();
            let stop = api::StopContainerRequest { container_id: container.clone(), timeout: 0 };
            client.stop_container(stop).await.unwrap();
            life.step();
            client.remove_container(api::RemoveContainerRequest { container_id: container }).await.unwrap();
            life.step();
            let stop = api::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
            client.stop_pod_sandbox(stop).await.unwrap();
            life.step();
            let remove = api::RemovePodSandboxRequest { pod_sandbox_id: pod };
            client.remove_pod_sandbox(remove).await.unwrap();
            life.step();
            life
        }
    }
}

async fn start(
    client: &mut RuntimeServiceClient<Channel>,
    config: api::PodSandboxConfig,
    mut container: api::ContainerConfig,
    life: &mut Life,
) -> (String, String) {
    let linux = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = linux.and_then(|context| context.namespace_options.clone());
    container.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options =
        options;
    let run = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    life.restart();
    let pod = client.run_pod_sandbox(run).await.unwrap().into_inner().pod_sandbox_id;
    life.step();
    let create = api::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let id = client.create_container(create).await.unwrap().into_inner().container_id;
    life.step();
    client.start_container(api::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    life.step();
    (pod, id)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let rounds: usize = std::env::var("PODD_BENCH_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let mut daemons = Vec::new();
    for (name, variable) in [("podd", "PODD_BENCH_PODD"), ("against", "PODD_BENCH_AGAINST")] {
        if let Some(binary) = std::env::var_os(variable) {
            daemons.push((name, Daemon::start(binary.into()).await));
        }
    }
    assert!(!daemons.is_empty(), "PODD_BENCH_PODD names no podd: run tests/bench/run.sh");
    println!("runtime {}, medians of {rounds} rounds, in ms", common::oci_runtime());
    for (name, daemon) in &daemons {
        println!("an empty call to {name}: {:.2} ms", empty_call(daemon, rounds).await);
    }
    for network in [Network::Host, Network::Bridge] {
        let floor = Arc::new(floor_like(&daemons[0].1, network).await);
        one_at_a_time(&daemons, &floor, network, rounds).await;
        if rounds >= LONG {
            many(&daemons, &floor, network).await;
        }
    }
    for (name, daemon) in daemons.iter().filter(|_| rounds >= LONG) {
        memory::report(name, daemon).await;
    }
    for (_, daemon) in daemons {
        daemon.node.finish().await;
    }
}

/// A floor with the configuration of a container that podd has made; that one stays, because its files are named there.
async fn floor_like(daemon: &Daemon, network: Network) -> Floor {
    let mut client = daemon.node.runtime.clone();
    let mut life = Life::begin();
    let (_, container) = start(&mut client, daemon.pod(network), daemon.container.clone(), &mut life).await;
    let request = api::ContainerStatusRequest { container_id: container.clone(), verbose: false };
    client.container_status(request).await.unwrap();
    Floor::like(&daemon.node.names, &container)
}

/// What gRPC alone takes, most of it here in the client; it is part of each call.
async fn empty_call(daemon: &Daemon, rounds: usize) -> f64 {
    let (mut client, mut life) = (daemon.node.runtime.clone(), Life::begin());
    for _ in 0..rounds {
        client.version(api::VersionRequest::default()).await.unwrap();
        life.step();
    }
    median(life.steps)
}

/// The contestants in turns, and a table of medians.
async fn one_at_a_time(daemons: &[(&str, Daemon)], floor: &Floor, network: Network, rounds: usize) {
    let mut lives = vec![Vec::new(); daemons.len() + 1];
    for round in 0..=rounds {
        // To and fro: what one leaves to the kernel to clean up, the next one feels.
        for turn in 0..lives.len() {
            let who = if round % 2 == 0 { turn } else { lives.len() - 1 - turn };
            let life = match who.checked_sub(1) {
                None => block_in_place(|| floor.live(network)),
                Some(daemon) => daemons[daemon].1.live(network).await,
            };
            // The first round finds cold caches.
            if round > 0 {
                lives[who].push(life);
            }
        }
    }
    print!("\n{network:?} network, one at a time\n{:18} {:>9}", "", "floor");
    daemons.iter().for_each(|(name, _)| print!(" {name:>9} {:>9}", "added"));
    println!();
    let rows = CALLS.iter().enumerate().map(|(n, call)| (*call, n..n + 1));
    for (call, steps) in rows.chain([("start of a pod", 0..START), ("end of a pod", START + 1..CALLS.len())])
    {
        let medians: Vec<f64> = lives
            .iter()
            .map(|lives| median(lives.iter().map(|life| life.steps[steps.clone()].iter().sum()).collect()))
            .collect();
        print!("{call:18} {:9.2}", medians[0]);
        medians[1..].iter().for_each(|median| print!(" {median:9.2} {:+9.2}", median - medians[0]));
        println!();
    }
}

/// Many pods, some at a time: the time until the last has gone, best of three turns.
async fn many(daemons: &[(&str, Daemon)], floor: &Arc<Floor>, network: Network) {
    let mut best = vec![f64::INFINITY; daemons.len() + 1];
    for _ in 0..3 {
        let began = Instant::now();
        crowd(|| {
            let floor = Arc::clone(floor);
            async move { spawn_blocking(move || floor.live(network)).await.unwrap() }
        })
        .await;
        best[0] = best[0].min(began.elapsed().as_secs_f64());
        for (n, (_, daemon)) in daemons.iter().enumerate() {
            let began = Instant::now();
            crowd(|| daemon.live(network)).await;
            best[n + 1] = best[n + 1].min(began.elapsed().as_secs_f64());
        }
    }
    print!("{network:?} network, {MANY} whole lives, {AT_A_TIME} at a time: floor {:.2} s", best[0]);
    daemons.iter().zip(&best[1..]).for_each(|((name, _), best)| print!(", {name} {best:.2} s"));
    println!();
}

async fn crowd<F: Future<Output = Life> + Send + 'static>(live: impl Fn() -> F) {
    let (turns, mut tasks) = (Arc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
    for _ in 0..MANY {
        let (turns, life) = (Arc::clone(&turns), live());
        tasks.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            life.await
        });
    }
    while let Some(life) = tasks.join_next().await {
        life.unwrap();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
