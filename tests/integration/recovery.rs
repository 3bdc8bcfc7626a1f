//! The daemon is killed and comes back: containers, logs, exit codes and names are as they were.

use std::fs;
use std::path::PathBuf;

use podd::api;

use crate::common::requests::log_text;
use crate::common::{ContainerSpec, Node, PodSpec, eventually, file_text};

#[tokio::test]
async fn a_killed_daemon_finds_pods_and_containers_again() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "kept")).await;
    let running = node.run(&pod, ContainerSpec::waiting("running")).await;
    let created = node.create(&pod, ContainerSpec::waiting("created")).await;
    let exited = node.run(&pod, ContainerSpec::script("exited", "exit 4")).await;
    node.wait_for_exit(&exited).await;
    let before = (node.pod_status(&pod.id).await.unwrap(), node.container_status(&running).await.unwrap());
    node.restart().await;
    let after = (node.pod_status(&pod.id).await.unwrap(), node.container_status(&running).await.unwrap());
    assert_eq!(after, before);
    assert_eq!(node.exec_ok(&running, "echo alive").await, "alive");
    let exited = node.container_status(&exited).await.unwrap();
    assert_eq!((exited.state(), exited.exit_code), (api::ContainerState::ContainerExited, 4));
    node.start_container(&created).await.expect("a created container can be started after a restart");
    node.stop_container(&running, 10).await.unwrap();
    assert_eq!(node.container_status(&running).await.unwrap().exit_code, 0, "its trap has run");
    node.finish().await;
}

#[tokio::test]
async fn images_survive_a_killed_daemon() {
    let mut node = Node::start().await;
    let reference = &crate::common::image::pushed_busybox().await.reference;
    let id = node.pull(reference).await.unwrap();
    let before = node.image_status(&id).await;
    node.restart().await;
    assert_eq!(node.image_status(reference).await, before);
    let pod = node.run_pod(PodSpec::new(&node, "after")).await;
    assert_eq!(
        node.run_to_end(&pod, ContainerSpec::script("c", "echo fine")).await,
        (0, "fine\n".to_owned())
    );
    node.finish().await;
}

/// B16: and the container's output of that time is in its log, as `crictl logs` shows it.
#[tokio::test]
async fn logs_and_exit_codes_are_kept_while_nobody_looks() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "log")).await;
    let gate = node.names.dir().join("gate");
    fs::create_dir(&gate).unwrap();
    let mount = api::Mount {
        container_path: "/gate".into(),
        host_path: gate.display().to_string(),
        ..Default::default()
    };
    let script = "echo before; until [ -e /gate/open ]; do sleep 0.05; done; echo while down; exit 42";
    let spec = ContainerSpec::script("c", script).with(|config| config.mounts = vec![mount]);
    let id = node.run(&pod, spec).await;
    let log = node.log_path(&pod, "c.log");
    file_text(&log, |text| text.contains("before")).await;
    node.kill9();
    fs::write(gate.join("open"), "").unwrap();
    file_text(&log, |text| text.contains("while down")).await;
    node.start_again().await;
    let status = node.wait_for_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (42, "Error"));
    assert!(status.finished_at >= status.started_at && status.started_at > 0, "{status:?}");
    assert_eq!(node.crictl_ok(&["logs", &id]).await, "before\nwhile down");
    node.finish().await;
}

#[tokio::test]
async fn a_running_container_goes_on_logging_and_can_be_rotated_after_a_restart() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "log")).await;
    let spec = ContainerSpec::script("c", "n=0; while :; do echo $n; n=$((n+1)); sleep 0.02; done");
    let id = node.run(&pod, spec).await;
    let log = node.log_path(&pod, "c.log");
    file_text(&log, |text| text.lines().count() > 2).await;
    node.restart().await;
    fs::rename(&log, log.with_extension("1")).unwrap();
    node.runtime
        .reopen_container_log(api::ReopenContainerLogRequest { container_id: id.clone() })
        .await
        .unwrap();
    file_text(&log, |text| text.lines().count() > 2).await;
    node.stop_container(&id, 0).await.unwrap();
    let all = log_text(&log.with_extension("1"), "stdout") + &log_text(&log, "stdout");
    let numbers: Vec<usize> = all.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "lines are lost or doubled");
    node.finish().await;
}

/// B1, B17
#[tokio::test]
async fn names_are_taken_again_after_a_restart() {
    let mut node = Node::start().await;
    let spec = PodSpec::new(&node, "name");
    let pod = node.run_pod(spec.clone()).await;
    let container = node.create(&pod, ContainerSpec::waiting("c")).await;
    node.restart().await;
    assert_eq!(node.run_pod(spec).await.id, pod.id);
    assert_eq!(node.create(&pod, ContainerSpec::waiting("c")).await, container);
    node.finish().await;
}

/// The files below a directory that hold an ID in their path.
fn records(dir: &std::path::Path, id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(records(&path, id));
        } else if path.to_string_lossy().contains(id) && path.extension().is_some_and(|kind| kind == "json") {
            found.push(path);
        }
    }
    found
}

/// B17
#[tokio::test]
async fn one_broken_record_does_not_stop_the_others() {
    let mut node = Node::start().await;
    let whole = node.run_pod(PodSpec::new(&node, "whole")).await;
    let container = node.run(&whole, ContainerSpec::waiting("c")).await;
    let broken = node.run_pod(PodSpec::new(&node, "broken").host_network()).await;
    node.kill9();
    let files = records(&node.names.run_dir(), &broken.id);
    assert!(!files.is_empty(), "no record of the pod was found");
    for file in &files {
        fs::write(file, "{ \"half of").unwrap();
    }
    node.start_again().await;
    assert_eq!(node.pod_status(&whole.id).await.unwrap().state(), api::PodSandboxState::SandboxReady);
    assert_eq!(node.exec_ok(&container, "echo alive").await, "alive");
    assert!(node.log().contains(&broken.id), "the broken record is not in the log");
    node.stop_pod(&broken.id).await;
    node.remove_pod(&broken.id).await;
    for file in files {
        let _ = fs::remove_file(file);
    }
    node.finish().await;
}

#[tokio::test]
async fn a_kill_in_the_midst_of_starting_pods_leaves_nothing_behind() {
    let mut node = Node::start().await;
    let reference = crate::common::image::pushed_busybox().await.reference.clone();
    node.pull(&reference).await.unwrap();
    for round in 0..6u64 {
        let specs: Vec<_> = (0..3).map(|n| PodSpec::new(&node, &format!("p{round}-{n}"))).collect();
        let runs: Vec<_> = specs
            .into_iter()
            .map(|spec| {
                let mut client = node.runtime.clone();
                let request = api::RunPodSandboxRequest { config: Some(spec.0), ..Default::default() };
                tokio::spawn(async move { client.run_pod_sandbox(request).await })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(5 + round * 15)).await;
        node.kill9();
        for run in runs {
            if let Ok(Ok(answer)) = run.await {
                node.remember(&answer.into_inner().pod_sandbox_id);
            }
        }
        node.start_again().await;
    }
    for id in node.pod_ids(None).await {
        node.remember(&id);
        node.remove_pod(&id).await;
    }
    let leases = node.names.ipam_dir();
    eventually("all addresses are given back", || async {
        let text =
            std::process::Command::new("find").arg(&leases).args(["-name", "10.*"]).output().unwrap().stdout;
        text.is_empty().then_some(())
    })
    .await;
    node.finish().await;
}
