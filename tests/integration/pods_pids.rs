//! PID namespaces of a pod: shared by its containers, or one container's by another.

use std::fs;

use podd::api;
use podd::api::NamespaceMode;
use tonic::Code;

use crate::common::{ContainerSpec, Node, PodSpec, eventually};

fn with_pids(name: &str, mode: NamespaceMode, target: &str) -> ContainerSpec {
    ContainerSpec::waiting(name).secured(|context| {
        let options = context.namespace_options.get_or_insert_default();
        options.set_pid(mode);
        target.clone_into(&mut options.target_id);
    })
}

/// The host's number of the process that a container sees as 1.
async fn first_process(node: &mut Node, container: &str) -> i32 {
    let inside = node.exec_ok(container, "readlink /proc/self/ns/pid").await;
    let same = |pid: &i32| {
        let link = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        link.to_str() == Some(inside.as_str())
            && status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(same).unwrap()
}

/// B8
#[tokio::test]
async fn containers_share_the_pods_pids_until_its_pause_container_ends() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "shared")).await;
    let one = node.run(&pod, with_pids("one", NamespaceMode::Pod, "")).await;
    let two = node.run(&pod, with_pids("two", NamespaceMode::Pod, "")).await;
    let pids = "readlink /proc/self/ns/pid";
    assert_eq!(node.exec_ok(&one, pids).await, node.exec_ok(&two, pids).await);
    let own = node.run(&pod, with_pids("own", NamespaceMode::Container, "")).await;
    assert_ne!(node.exec_ok(&one, pids).await, node.exec_ok(&own, pids).await);
    assert_eq!(node.exec_ok(&one, "cat /proc/1/cmdline | tr '\\0' ' '").await, "/pause pause");
    assert_eq!(node.exec_ok(&one, "grep CapBnd /proc/1/status").await, "CapBnd:\t0000000000000000");
    node.exec_ok(&one, "ls /proc/1/root/etc && exit 1 || exit 0").await;

    node.kill9();
    node.start_again().await;
    let status = node.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.state(), api::PodSandboxState::SandboxReady);
    let three = node.run(&pod, with_pids("three", NamespaceMode::Pod, "")).await;
    assert_eq!(node.exec_ok(&one, pids).await, node.exec_ok(&three, pids).await);

    let pause = first_process(&mut node, &one).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pause).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    eventually("a pod that is not ready", || {
        let (mut client, id) = (node.runtime.clone(), pod.id.clone());
        async move {
            let request = api::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
            let status = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
            (status.state() == api::PodSandboxState::SandboxNotready).then_some(())
        }
    })
    .await;
    assert_eq!(node.wait_for_exit(&one).await.exit_code, 137);
    assert_eq!(node.container_status(&own).await.unwrap().state(), api::ContainerState::ContainerRunning);
    node.stop_pod(&pod.id).await;
    node.finish().await;
}

#[tokio::test]
async fn a_container_joins_the_pids_of_its_target() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "target")).await;
    let target = node.run(&pod, with_pids("app", NamespaceMode::Container, "")).await;
    let debug = node.run(&pod, with_pids("debug", NamespaceMode::Target, &target)).await;
    let pids = "readlink /proc/self/ns/pid";
    assert_eq!(node.exec_ok(&target, pids).await, node.exec_ok(&debug, pids).await);
    let other = node.run_pod(PodSpec::new(&node, "other")).await;
    for (pod, target) in [(&other, target.as_str()), (&pod, "0123"), (&pod, "")] {
        let refused = node.try_create(pod, with_pids("no", NamespaceMode::Target, target)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("target_id"), "{refused:?}");
    }
    node.finish().await;
}
