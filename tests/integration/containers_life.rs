//! A container's life: states and times, exit codes, logs, exec, stopping, and the end by a signal or for want of memory.

use std::fs;
use std::time::{Duration, Instant};

use podd::api;
use tonic::Code;

use crate::common::requests::{Pod, log_text};
use crate::common::{ContainerSpec, Node, PodSpec, eventually, file_text};

async fn start() -> (Node, Pod) {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    (node, pod)
}

/// B14, B15
#[tokio::test]
async fn states_times_codes_and_reasons() {
    let (mut node, pod) = start().await;
    let id = node.create(&pod, ContainerSpec::script("c", "exit 7")).await;
    let created = node.container_status(&id).await.unwrap();
    assert_eq!(created.state(), api::ContainerState::ContainerCreated);
    assert!(created.created_at > 0);
    assert_eq!((created.started_at, created.finished_at), (0, 0));
    node.start_container(&id).await.unwrap();
    let exited = node.wait_for_exit(&id).await;
    assert_eq!((exited.exit_code, exited.reason.as_str()), (7, "Error"));
    assert!(exited.created_at <= exited.started_at && exited.started_at <= exited.finished_at, "{exited:?}");
    let fine = node.run(&pod, ContainerSpec::script("fine", "true")).await;
    let fine = node.wait_for_exit(&fine).await;
    assert_eq!((fine.exit_code, fine.reason.as_str()), (0, "Completed"));
    let signalled = node.run(&pod, ContainerSpec::script("signalled", "kill -SEGV $$; sleep 9")).await;
    let code = node.wait_for_exit(&signalled).await.exit_code;
    assert!(code == 139 || code == 0, "init ignores a signal without a handler: {code}");
    node.finish().await;
}

/// B14, B15
#[tokio::test]
async fn a_command_that_does_not_exist_is_a_start_error() {
    let (mut node, pod) = start().await;
    let spec = ContainerSpec::script("c", "").with(|config| config.command = vec!["/no/such/program".into()]);
    let error = match node.try_create(&pod, spec).await {
        Err(error) => error,
        Ok(id) => {
            let error = node.start_container(&id).await.unwrap_err();
            let status = node.container_status(&id).await.unwrap();
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
            assert!(status.started_at > 0 && status.finished_at > 0, "{status:?}");
            error
        }
    };
    assert!(error.message().contains("/no/such/program"), "the runtime's own words are not in {error:?}");
    node.finish().await;
}

/// B18
#[tokio::test]
async fn the_log_has_the_format_of_the_cri() {
    let (mut node, pod) = start().await;
    let script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf unfinished";
    let spec = ContainerSpec::script("c", script);
    let path = node.log_path(&pod, "c.log");
    let id = node.run(&pod, spec).await;
    node.wait_for_exit(&id).await;
    assert_eq!(node.container_status(&id).await.unwrap().log_path, path.display().to_string());
    let text = fs::read_to_string(&path).unwrap();
    for line in text.lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        assert_eq!((parts.len(), parts[0].len() >= 20, parts[0].contains('T')), (4, true, true), "{line}");
        assert!(matches!(parts[1], "stdout" | "stderr") && matches!(parts[2], "P" | "F"), "{line}");
        assert!(parts[3].len() <= 16 << 10, "a line of {} bytes", parts[3].len());
    }
    assert_eq!(log_text(&path, "stderr"), "err\n");
    assert_eq!(log_text(&path, "stdout"), format!("out\n{}\nunfinished", "x".repeat(20_000)));
    assert!(text.lines().any(|line| line.contains(" stdout P xxx")), "a long line is not split");
    assert!(text.ends_with(" stdout P unfinished\n"), "the tail is not marked as partial");
    node.finish().await;
}

/// B18
#[tokio::test]
async fn a_rotated_log_goes_on_in_a_new_file() {
    let (mut node, pod) = start().await;
    let path = node.log_path(&pod, "c.log");
    let spec = ContainerSpec::script("c", "n=0; while :; do echo $n; n=$((n+1)); sleep 0.02; done");
    let id = node.run(&pod, spec).await;
    file_text(&path, |text| text.lines().count() > 3).await;
    let rotated = path.with_extension("log.1");
    fs::rename(&path, &rotated).unwrap();
    let reopen = api::ReopenContainerLogRequest { container_id: id.clone() };
    node.runtime.reopen_container_log(reopen.clone()).await.unwrap();
    file_text(&path, |text| text.lines().count() > 3).await;
    let all = log_text(&rotated, "stdout") + &log_text(&path, "stdout");
    let numbers: Vec<usize> = all.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "lines are lost or doubled");
    node.stop_container(&id, 0).await.unwrap();
    node.runtime.reopen_container_log(reopen).await.expect_err("it does not run");
    node.finish().await;
}

/// B12
#[tokio::test]
async fn exec_gives_both_streams_and_the_code() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let ran = node.exec(&id, "echo out; echo err >&2; exit 3", 10).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.err.as_str(), ran.code), ("out\n", "err\n", 3));
    let begun = Instant::now();
    let ran = node.exec(&id, "sleep 30 & echo done", 20).await.unwrap();
    assert_eq!(ran.out, "done\n");
    assert!(begun.elapsed() < Duration::from_secs(15), "a child in the background holds the answer");
    let big = node.exec(&id, "head -c 3000000 /dev/zero", 30).await.unwrap();
    assert_eq!(big.out.len(), 3_000_000);
    let huge = node.exec(&id, "head -c 20000000 /dev/zero", 60).await.unwrap();
    assert!(huge.out.len() <= 16 << 20, "{} bytes", huge.out.len());
    node.finish().await;
}

/// B12
#[tokio::test]
async fn an_exec_that_takes_too_long_is_killed_with_its_children() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let begun = Instant::now();
    let refused = node.exec(&id, "sleep 4321 & sleep 4322", 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let ps = node.exec_ok(&id, "ps").await;
    assert!(!ps.contains("sleep 432"), "{ps}");
    node.finish().await;
}

/// B13
#[tokio::test]
async fn exec_in_a_stopped_container_is_a_clear_error() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::script("c", "true")).await;
    node.wait_for_exit(&id).await;
    let refused = node.exec(&id, "true", 5).await.unwrap_err();
    assert!(refused.message().contains("not running") || refused.message().contains("exited"), "{refused:?}");
    node.finish().await;
}

/// B9, B28
#[tokio::test]
async fn stop_sends_the_signal_waits_and_then_kills() {
    let (mut node, pod) = start().await;
    let polite = ContainerSpec::script(
        "polite",
        "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done",
    );
    let id = node.run(&pod, polite).await;
    file_text(&node.log_path(&pod, "polite.log"), |text| text.contains("ready")).await;
    node.stop_container(&id, 20).await.unwrap();
    let status = node.container_status(&id).await.unwrap();
    assert_eq!((status.state(), status.exit_code), (api::ContainerState::ContainerExited, 5));
    assert_eq!(log_text(&node.log_path(&pod, "polite.log"), "stdout"), "ready\nbye\n");
    node.stop_container(&id, 20).await.expect("stopping what is stopped succeeds");

    let stubborn = ContainerSpec::script("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    let id = node.run(&pod, stubborn).await;
    file_text(&node.log_path(&pod, "stubborn.log"), |text| text.contains("ready")).await;
    let begun = Instant::now();
    node.stop_container(&id, 1).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "no grace");
    assert_eq!(node.container_status(&id).await.unwrap().exit_code, 137);

    let usr1 = ContainerSpec::script(
        "usr1",
        "trap 'exit 9' USR1; trap '' TERM; echo ready; while :; do sleep 0.1; done",
    );
    let id = node.run(&pod, usr1.with(|config| config.set_stop_signal(api::Signal::Sigusr1))).await;
    file_text(&node.log_path(&pod, "usr1.log"), |text| text.contains("ready")).await;
    node.stop_container(&id, 20).await.unwrap();
    assert_eq!(node.container_status(&id).await.unwrap().exit_code, 9);
    node.finish().await;
}

/// B9, B10
#[tokio::test]
async fn a_second_stop_shortens_the_grace_and_nobody_waits_for_it() {
    let (mut node, pod) = start().await;
    let spec = ContainerSpec::script("c", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done");
    let id = node.run(&pod, spec).await;
    let log = node.log_path(&pod, "c.log");
    file_text(&log, |text| text.contains("ready")).await;
    let mut client = node.runtime.clone();
    let request = api::StopContainerRequest { container_id: id.clone(), timeout: 300 };
    let first = tokio::spawn(async move { client.stop_container(request).await });
    file_text(&log, |text| text.contains("asked")).await;
    let begun = Instant::now();
    assert_eq!(node.container_status(&id).await.unwrap().state(), api::ContainerState::ContainerRunning);
    node.runtime.list_containers(api::ListContainersRequest::default()).await.unwrap();
    let reopen = api::ReopenContainerLogRequest { container_id: id.clone() };
    node.runtime.reopen_container_log(reopen).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "a status waits for a stop");
    assert_eq!(node.exec_ok(&id, "echo still here").await, "still here");
    node.stop_container(&id, 1).await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(log_text(&log, "stdout"), "ready\nasked\n", "the signal came twice");
    node.finish().await;
}

/// B14
#[tokio::test]
async fn want_of_memory_is_reported_as_such() {
    let (mut node, pod) = start().await;
    let resources = api::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        ..Default::default()
    };
    let spec = ContainerSpec::script("c", "exec tail -c 200000000 /dev/zero")
        .with(|config| config.linux.as_mut().unwrap().resources = Some(resources));
    let id = node.run(&pod, spec).await;
    let status = node.wait_for_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    node.finish().await;
}

#[tokio::test]
async fn containers_are_listed_with_filters_and_one_image_digest() {
    let (mut node, pod) = start().await;
    let other = node.run_pod(PodSpec::new(&node, "other")).await;
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let a =
        node.run(&pod, ContainerSpec::waiting("a").with(|config| config.labels = label("tier", "x"))).await;
    let b = node.create(&pod, ContainerSpec::waiting("b")).await;
    let c = node.run(&other, ContainerSpec::waiting("c")).await;
    let client = node.runtime.clone();
    let ids = async |filter: api::ContainerFilter| {
        let request = api::ListContainersRequest { filter: Some(filter) };
        let answer = client.clone().list_containers(request).await.unwrap().into_inner().containers;
        let mut ids: Vec<String> = answer.into_iter().map(|container| container.id).collect();
        ids.sort();
        ids
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    let default = api::ContainerFilter::default;
    assert_eq!(ids(default()).await, sorted(&[&a, &b, &c]));
    assert_eq!(
        ids(api::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..default() }).await,
        sorted(&[&a, &b])
    );
    let running = Some(api::ContainerStateValue { state: api::ContainerState::ContainerRunning.into() });
    assert_eq!(ids(api::ContainerFilter { state: running, ..default() }).await, sorted(&[&a, &c]));
    assert_eq!(
        ids(api::ContainerFilter { label_selector: label("tier", "x"), ..default() }).await,
        sorted(&[&a])
    );
    assert_eq!(ids(api::ContainerFilter { id: b[..12].to_owned(), ..default() }).await, sorted(&[&b]));
    let status = node.container_status(&a).await.unwrap();
    assert_eq!(status.image_id, status.image_ref, "one digest in all answers (DESIGN 8)");
    node.finish().await;
}

#[tokio::test]
async fn removing_a_running_container_kills_it_and_frees_its_name() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    node.remove_container(&id).await.unwrap();
    node.remove_container(&id).await.unwrap();
    assert_eq!(node.container_status(&id).await.unwrap_err().code(), Code::NotFound);
    assert_ne!(node.create(&pod, ContainerSpec::waiting("c")).await, id);
    node.finish().await;
}

/// B9
#[tokio::test]
async fn with_the_hosts_pids_what_a_container_leaves_behind_is_killed() {
    let mut node = Node::start().await;
    let options = api::NamespaceOption { pid: api::NamespaceMode::Node.into(), ..Default::default() };
    let spec = PodSpec::new(&node, "hostpid").with(|config| {
        let context = config.linux.as_mut().unwrap().security_context.get_or_insert_default();
        context.namespace_options = Some(options.clone());
    });
    let pod = node.run_pod(spec).await;
    let spec = ContainerSpec::script("c", "sleep 5432 & echo $!; exit 0");
    let id = node.run(&pod, spec.secured(|context| context.namespace_options = Some(options))).await;
    node.wait_for_exit(&id).await;
    let out = log_text(&node.log_path(&pod, "c.log"), "stdout");
    let child = format!("/proc/{}/cmdline", out.trim());
    node.stop_container(&id, 1).await.unwrap();
    eventually("the end of the child", || async {
        let line = fs::read_to_string(&child).unwrap_or_default();
        (!line.contains("5432")).then_some(())
    })
    .await;
    node.finish().await;
}

/// A program that was started a moment ago has no handler yet, and an init without one never sees the signal.
#[tokio::test]
async fn b9_a_stop_right_after_the_start_is_heard() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "stop")).await;
    let script = "sleep 0.5; trap 'exit 3' TERM; while :; do sleep 0.05; done";
    let id = node.create(&pod, ContainerSpec::script("c", script)).await;
    node.start_container(&id).await.unwrap();
    node.stop_container(&id, 60).await.unwrap();
    assert_eq!(node.container_status(&id).await.unwrap().exit_code, 3);
    node.finish().await;
}

/// A zombie in a container's PID namespace keeps it from ending, and whoever waits for it.
#[tokio::test]
async fn b10_what_failed_execs_leave_does_not_hold_a_stop() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    node.exec(&id, "sleep 30 & sleep 30", 1).await.unwrap_err();
    let nothing = vec!["no-such-command".to_owned()];
    let request = api::ExecSyncRequest { container_id: id.clone(), cmd: nothing, timeout: 10 };
    node.runtime.exec_sync(request).await.unwrap_err();
    let begun = Instant::now();
    node.stop_container(&id, 0).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "the stop took {:?}", begun.elapsed());
    node.finish().await;
}

/// Otherwise the end of a container flushes the node's whole file system.
#[tokio::test]
async fn the_root_file_system_is_not_flushed_at_the_end() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let root = node.exec_ok(&id, "grep ' / ' /proc/mounts").await;
    assert!(root.contains("overlay") && root.contains("volatile"), "{root}");
    node.finish().await;
}
