//! ExecSync as probes use it: often, for ever, and with an end when they do not end.

use std::time::Duration;

use podd::api;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Code;

use crate::common::session::Held;
use crate::common::{ContainerSpec, Node, PodSpec, eventually};

/// A rate that a node with a hundred pods has, and for how long it is kept up.
const PROBES_A_SECOND: u32 = 100;
const SECONDS: u32 = 20;
/// How many may be under way at a time, on a machine that is busy with other things.
const AT_ONCE: usize = 40;

async fn start() -> (Node, String) {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "probes")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    (node, id)
}

/// Runs so many probes, at the rate or as fast as the machine can; all must succeed.
async fn probe(node: &Node, id: &str, count: u32) {
    let (mut ticks, mut probes) = (interval(Duration::from_secs(1) / PROBES_A_SECOND), JoinSet::new());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0..count {
        ticks.tick().await;
        let mut client = node.runtime.clone();
        let cmd = ["/bin/sh", "-c", &format!("echo {n}; exit {}", n % 3)].map(str::to_owned).to_vec();
        let request = api::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 60 };
        probes.spawn(async move {
            let answer = client.exec_sync(request).await.unwrap().into_inner();
            let expected = (format!("{n}\n").into_bytes(), i32::try_from(n % 3).unwrap());
            assert_eq!((answer.stdout, answer.exit_code), expected);
        });
        if probes.len() >= AT_ONCE {
            probes.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = probes.join_next().await {
        done.unwrap();
    }
}

/// B12
#[tokio::test]
async fn a_hundred_probes_a_second_leave_nothing_in_the_daemon() {
    let (node, id) = start().await;
    probe(&node, &id, 200).await;
    let before = Held::by(&node, &id);
    let began = Instant::now();
    probe(&node, &id, PROBES_A_SECOND * SECONDS).await;
    let took = began.elapsed();
    println!("{} probes in {took:?}", PROBES_A_SECOND * SECONDS);
    eventually(&format!("no more than {before:?}"), || async {
        Held::by(&node, &id).is_within(&before).then_some(())
    })
    .await;
    node.finish().await;
}

/// B12: a daemon that a probe has started, and that has left parents, group and session behind, goes with it.
#[tokio::test]
async fn a_probe_that_does_not_end_is_killed_with_its_daemons() {
    let (mut node, id) = start().await;
    let alone = node.exec_ok(&id, "ps -o args | grep -c '[s]leep 1234'; true").await;
    assert_eq!(alone, "0");
    let script =
        "sleep 12341 & setsid sleep 12342 & setsid sh -c 'sleep 12343 <&- >&- 2>&- & exit'; sleep 12344";
    let refused = node.exec(&id, script, 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    assert!(refused.message().contains("timed out"), "{refused}");
    let left = node.exec_ok(&id, "ps -o stat,args | grep '[s]leep 1234' | grep -v '^Z'; true").await;
    assert_eq!(left, "", "what the probe started lives on");
    node.finish().await;
}

/// B12: what a probe started and did not wait for stays, where the probe itself ended in time.
#[tokio::test]
async fn a_probe_that_ends_in_time_may_leave_a_daemon() {
    let (mut node, id) = start().await;
    let ran = node.exec(&id, "sleep 12345 & echo started; exit 5", 10).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.code), ("started\n", 5));
    assert_eq!(node.exec_ok(&id, "ps -o args | grep -c '[s]leep 12345'").await, "1");
    node.finish().await;
}
