//! Limits of logs, from the configuration to the file.

use std::fs;

use podd::api;

use crate::common::{ContainerSpec, Node, PodSpec, eventually, file_text};

const MAX: u64 = 100_000;

/// A container that runs wild fills its log and no more, whoever is the daemon; the kubelet's rotation lets it go on.
#[tokio::test]
async fn a_log_stays_within_its_limit_until_the_kubelet_rotates_it() {
    let mut node = Node::start_configured(&format!("[monitor]\nlog_size_max = {MAX}\n")).await;
    let pod = node.run_pod(PodSpec::new(&node, "logs")).await;
    let script =
        "seq 100000; echo >/tmp/said; until [ -e /tmp/go ]; do sleep 0.1; done; echo more; sleep 1000";
    let id = node.run(&pod, ContainerSpec::script("c", script)).await;
    let path = node.log_path(&pod, "c.log");
    let full = file_text(&path, |text| text.contains("the log has reached its limit of 100000 bytes")).await;
    node.exec_ok(&id, "until [ -e /tmp/said ]; do sleep 0.1; done").await;
    assert!(fs::metadata(&path).unwrap().len() <= MAX);

    node.restart().await;
    fs::rename(&path, path.with_extension("1")).unwrap();
    node.runtime
        .reopen_container_log(api::ReopenContainerLogRequest { container_id: id.clone() })
        .await
        .unwrap();
    node.exec_ok(&id, "touch /tmp/go").await;
    let lines = full.lines().filter(|line| line.contains(" stdout F ")).count();
    let kept: usize = (1..=lines).map(|n| format!("{n}\n").len()).sum();
    let said: usize = (1..=100_000).map(|n| format!("{n}\n").len()).sum();
    let told = format!("podd-monitor: {} bytes of output were dropped", said - kept);
    file_text(&path, |text| text.contains(&told) && text.ends_with("stdout F more\n")).await;
    node.finish().await;
}

/// Each container has its own measure; one that says little is not touched by one that says much.
#[tokio::test]
async fn a_log_has_its_rate() {
    let mut node = Node::start_configured("[monitor]\nlog_rate = 50000\nlog_rate_burst = 40000\n").await;
    let pod = node.run_pod(PodSpec::new(&node, "logs")).await;
    let loud = node.run(&pod, ContainerSpec::script("loud", "while :; do seq 1000; done")).await;
    let quiet = ContainerSpec::script("quiet", "for n in 1 2 3 4 5 6; do echo $n; sleep 0.5; done");
    let quiet = node.run(&pod, quiet).await;
    let (log, other) = (node.log_path(&pod, "loud.log"), node.log_path(&pod, "quiet.log"));
    file_text(&log, |text| text.matches("(more came than 50000 bytes a second)").count() > 2).await;
    node.wait_for_exit(&quiet).await;
    let quiet = fs::read_to_string(&other).unwrap();
    assert_eq!(quiet.lines().filter(|line| line.contains(" stdout F ")).count(), 6, "{quiet}");
    assert!(!quiet.contains("dropped"), "{quiet}");
    node.stop_container(&loud, 0).await.unwrap();
    eventually("the last report", || async {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().last().unwrap().contains("bytes of output were dropped").then_some(())
    })
    .await;
    node.finish().await;
}
