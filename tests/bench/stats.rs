//! What it costs to ask what everything uses: a hundred pods with a container each, and the lists that a kubelet or an
//! operator asks for. `tests/bench/stats.sh` builds what is measured and runs this.
//!
//! Answers are not decoded, so that the figures are the daemon's. `PODD_TEST_RUNTIME` names the runtime, `PODD_BENCH_PODD`
//! the podd as it is released, `PODD_BENCH_PODS` the number of pods, `PODD_BENCH_SECONDS` how long each list is polled.
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

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use podd::api;
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

use common::{ContainerSpec, Node, PodSpec};

/// The lists, and how often they are polled.
const LISTS: [&str; 3] = ["ListContainerStats", "ListPodSandboxStats", "ListPodSandboxMetrics"];
const PERIOD: Duration = Duration::from_secs(1);
/// Calls over which system calls are counted.
const TRACED: usize = 20;

/// Messages as bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

struct Client(tonic::client::Grpc<Channel>);

impl Client {
    /// Calls an RPC with an empty message; gives its time in milliseconds and the size of its answer.
    async fn call(&mut self, rpc: &str) -> (f64, usize) {
        let path = format!("/runtime.v1.RuntimeService/{rpc}").parse().unwrap();
        self.0.ready().await.unwrap();
        let began = Instant::now();
        let answer = self.0.unary(tonic::Request::new(Vec::new()), path, Raw).await.unwrap().into_inner();
        (began.elapsed().as_secs_f64() * 1e3, answer.len())
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (pods, seconds) = (number("PODD_BENCH_PODS", 100), number("PODD_BENCH_SECONDS", 20));
    let binary =
        std::env::var_os("PODD_BENCH_PODD").expect("PODD_BENCH_PODD names no podd: run tests/bench/stats.sh");
    let mut node = Node::start_binary(binary.into()).await;
    for n in 0..pods {
        let parent = format!("{}/pod{n}", node.names.cgroup_parent);
        let spec =
            PodSpec::new(&node, "bench").with(|config| config.linux.as_mut().unwrap().cgroup_parent = parent);
        let pod = node.run_pod(spec).await;
        let container = ContainerSpec::script("bench", "exec sleep 36000").with(as_the_kubelet);
        node.run(&pod, container).await;
    }
    let socket = format!("unix://{}", node.names.socket().display());
    let channel = Endpoint::try_from(socket).unwrap().connect().await.unwrap();
    let mut client = Client(tonic::client::Grpc::new(channel).max_decoding_message_size(64 << 20));
    println!(
        "{pods} pods with a container each, {}, polled every second for {seconds} s",
        common::oci_runtime()
    );
    println!(
        "{:22} {:>9} {:>9} {:>9} {:>9} {:>12} {:>9}",
        "", "first ms", "median ms", "worst ms", "of a core", "system calls", "answer kB"
    );
    let mut lists = vec!["Version"];
    lists.extend(LISTS);
    for rpc in lists {
        report(&node, &mut client, rpc, seconds).await;
    }
    drop(client);
    node.finish().await;
}

/// Labels and annotations of the length that the kubelet gives.
fn as_the_kubelet(config: &mut api::ContainerConfig) {
    for n in 0..5 {
        config.labels.insert(format!("io.kubernetes.container.label{n}"), "x".repeat(24));
        config.annotations.insert(format!("io.kubernetes.container.annotation{n}"), "y".repeat(24));
    }
}

async fn report(node: &Node, client: &mut Client, rpc: &str, seconds: u64) {
    // What is kept open for others is closed.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let (first, size) = client.call(rpc).await;
    for _ in 0..3 {
        tokio::time::sleep(PERIOD).await;
        client.call(rpc).await;
    }
    let (mut times, before, began) = (Vec::new(), processor_time(node.daemon_pid()), Instant::now());
    for _ in 0..seconds {
        times.push(client.call(rpc).await.0);
        tokio::time::sleep(
            PERIOD.saturating_sub(Duration::from_micros((times[times.len() - 1] * 1e3) as u64)),
        )
        .await;
    }
    let used = processor_time(node.daemon_pid()) - before;
    let share = used * 100.0 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let calls = system_calls(node, client, rpc).await;
    let calls = calls.map_or("-".to_owned(), |calls| format!("{:.0}", calls as f64 / TRACED as f64));
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{rpc:22} {first:9.2} {median:9.2} {worst:9.2} {share:7.2} % {calls:>12} {:9.1}",
        size as f64 / 1e3
    );
}

/// The processor time of all threads of a process, in seconds.
fn processor_time(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |thread: fs::DirEntry| -> Option<f64> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    threads.filter_map(of).sum::<f64>() / 1e9
}

/// The daemon's system calls in so many calls, counted by strace; `None` where there is none.
async fn system_calls(node: &Node, client: &mut Client, rpc: &str) -> Option<u64> {
    let summary = node.names.dir().join("strace");
    let (pid, out) = (node.daemon_pid().to_string(), summary.display().to_string());
    let strace =
        Command::new("strace").args(["-f", "-c", "-o", &out, "-p", &pid]).stderr(Stdio::null()).spawn();
    let mut strace = strace.ok()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..TRACED {
        client.call(rpc).await;
    }
    kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
    strace.wait().unwrap();
    let text = fs::read_to_string(summary).unwrap();
    let total = text.lines().find(|line| line.ends_with(" total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}
