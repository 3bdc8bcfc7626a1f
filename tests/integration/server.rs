//! The server: version, status, health, the socket, bad input, and a graceful end.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::Duration;

use podd::api;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{ContainerSpec, Node, PATIENCE, PodSpec, eventually};

fn condition(status: &api::StatusResponse, name: &str) -> api::RuntimeCondition {
    let conditions = &status.status.as_ref().unwrap().conditions;
    conditions.iter().find(|condition| condition.r#type == name).unwrap().clone()
}

async fn status(node: &Node) -> api::StatusResponse {
    node.runtime.clone().status(api::StatusRequest { verbose: true }).await.unwrap().into_inner()
}

#[tokio::test]
async fn version_names_podd_and_the_api() {
    let mut node = Node::start().await;
    let version = node.runtime.version(api::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!(version.version, "0.1.0", "the kubelet wants the version of its own runtime API here");
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("podd", "v1"));
    assert_eq!(version.runtime_version, env!("CARGO_PKG_VERSION"));
    node.finish().await;
}

#[tokio::test]
async fn a_ready_node_says_so_and_shows_its_insides_as_json() {
    let mut node = Node::start().await;
    let status = status(&node).await;
    assert!(condition(&status, "RuntimeReady").status);
    assert!(condition(&status, "NetworkReady").status, "{:?}", condition(&status, "NetworkReady"));
    assert!(!status.info.is_empty());
    for (key, value) in &status.info {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(value);
        assert!(parsed.is_ok(), "info {key} is not JSON: {value}");
    }
    assert!(status.runtime_handlers.iter().any(|handler| handler.name == crate::common::oci_runtime()));
    let config = node.runtime.runtime_config(api::RuntimeConfigRequest {}).await.unwrap().into_inner();
    let driver = match crate::common::cgroup_driver().as_str() {
        "systemd" => api::CgroupDriver::Systemd,
        _ => api::CgroupDriver::Cgroupfs,
    };
    assert_eq!(config.linux.unwrap().cgroup_driver(), driver);
    node.finish().await;
}

/// B23
#[tokio::test]
async fn without_a_cni_configuration_the_network_is_not_ready_until_one_comes() {
    let mut node = Node::start_without_network().await;
    let network = condition(&status(&node).await, "NetworkReady");
    assert!(!network.status);
    let conf_dir = node.names.cni_conf_dir().display().to_string();
    assert!(network.message.contains(&conf_dir), "where to put one is not in {:?}", network.message);
    assert!(condition(&status(&node).await, "RuntimeReady").status);
    let host = node.run_pod(PodSpec::new(&node, "host").host_network()).await;
    assert_eq!(node.pod_status(&host.id).await.unwrap().state(), api::PodSandboxState::SandboxReady);
    let refused = node.try_run_pod(&PodSpec::new(&node, "bridged")).await.unwrap_err();
    assert!(refused.message().contains(&conf_dir), "{refused:?}");
    node.names.write_cni_conf();
    eventually("NetworkReady", || async {
        condition(&status(&node).await, "NetworkReady").status.then_some(())
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn the_health_service_serves() {
    let node = Node::start().await;
    let uri = format!("unix://{}", node.names.socket().display());
    let channel = tonic::transport::Endpoint::try_from(uri).unwrap().connect().await.unwrap();
    let answer =
        HealthClient::new(channel).check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    node.finish().await;
}

#[tokio::test]
async fn the_socket_is_for_root_and_its_group() {
    let node = Node::start().await;
    let socket = fs::metadata(node.names.socket()).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o7777, 0o660);
    let mode = |dir| fs::metadata(node.names.run_dir().join(dir)).unwrap().permissions().mode() & 0o7777;
    for dir in ["pods", "containers", "exits", "mnt/ns", "mnt/shm"] {
        assert_eq!(mode(dir), 0o700, "secrets of containers are in {dir}");
    }
    assert_eq!(mode("mnt"), 0o711, "a way through for the roots of user namespaces, and no more");
    node.finish().await;
}

#[tokio::test]
async fn a_live_socket_is_refused_and_a_stale_one_is_replaced() {
    let mut node = Node::start().await;
    let second = node.start_second().await;
    let said =
        String::from_utf8_lossy(&second.stderr).into_owned() + &String::from_utf8_lossy(&second.stdout);
    assert!(!second.status.success());
    assert!(said.contains(&node.names.run_dir().display().to_string()), "what is taken is not in {said:?}");
    node.runtime.version(api::VersionRequest::default()).await.expect("the first goes on");
    node.kill9();
    assert!(node.names.socket().exists(), "a killed daemon leaves its socket");
    node.start_again().await;
    node.runtime.version(api::VersionRequest::default()).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn what_a_later_version_brings_is_unimplemented_and_names_itself() {
    let mut node = Node::start().await;
    let request = api::CheckpointContainerRequest { container_id: "none".into(), ..Default::default() };
    let refused = node.runtime.checkpoint_container(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("CheckpointContainer"), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_missing_field_is_an_invalid_argument_that_names_it() {
    let mut node = Node::start().await;
    let refused = node.runtime.run_pod_sandbox(api::RunPodSandboxRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("config"), "{refused:?}");
    let nameless = PodSpec::new(&node, "x").with(|config| config.metadata = None);
    let refused = node.try_run_pod(&nameless).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("metadata"), "{refused:?}");
    let refused = node.runtime.container_status(api::ContainerStatusRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("container_id"), "{refused:?}");
    let refused = node.image.pull_image(api::PullImageRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("image"), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn an_operation_under_way_is_finished_before_the_daemon_ends() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "drain")).await;
    let container = node.run(&pod, ContainerSpec::waiting("c")).await;
    let mut runtime = node.runtime.clone();
    let script = "touch /tmp/begun; sleep 1; echo done".to_owned();
    let request = api::ExecSyncRequest {
        container_id: container.clone(),
        cmd: vec!["/bin/sh".into(), "-c".into(), script],
        timeout: 30,
    };
    let exec = tokio::spawn(async move { runtime.exec_sync(request).await });
    while node.exec(&container, "test -e /tmp/begun", 10).await.unwrap().code != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(node.terminate().await.success());
    let answer = tokio::time::timeout(PATIENCE, exec).await.unwrap().unwrap().unwrap().into_inner();
    assert_eq!(answer.stdout, b"done\n");
    assert!(!node.names.socket().exists(), "a graceful end removes the socket");
    node.start_again().await;
    node.finish().await;
}

#[tokio::test]
async fn two_daemons_live_side_by_side() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let pod_a = a.run_pod(PodSpec::new(&a, "same")).await;
    let pod_b = b.run_pod(PodSpec::new(&b, "same")).await;
    assert_eq!(a.pod_ids(None).await, [pod_a.id.clone()]);
    assert_eq!(b.pod_ids(None).await, [pod_b.id.clone()]);
    a.finish().await;
    assert_eq!(b.pod_status(&pod_b.id).await.unwrap().state(), api::PodSandboxState::SandboxReady);
    b.finish().await;
}
