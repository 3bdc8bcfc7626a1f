//! Pods: run, stop, remove, list, status, names, retries and IDs.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use podd::api;
use tonic::Code;

use crate::common::{ContainerSpec, Node, PodSpec, eventually, leftovers};

/// B7
#[tokio::test]
async fn a_pod_goes_from_ready_to_stopped_to_gone() {
    let mut node = Node::start().await;
    let spec = PodSpec::new(&node, "life").with(|config| config.metadata.as_mut().unwrap().attempt = 3);
    let pod = node.run_pod(spec).await;
    let status = node.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.state(), api::PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, pod.config.metadata);
    assert_eq!((&status.labels, &status.annotations), (&pod.config.labels, &pod.config.annotations));
    assert!(status.created_at > 0);
    assert!(status.network.unwrap().ip.starts_with(&node.names.subnet));
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.network(), api::NamespaceMode::Pod, "the kubelet compares it with what it asked for");
    node.stop_pod(&pod.id).await;
    let status = node.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.state(), api::PodSandboxState::SandboxNotready);
    assert_eq!(node.pod_ids(None).await, [pod.id.clone()]);
    node.remove_pod(&pod.id).await;
    assert_eq!(node.pod_status(&pod.id).await.unwrap_err().code(), Code::NotFound);
    assert!(node.pod_ids(None).await.is_empty());
    node.finish().await;
}

/// B1
#[tokio::test]
async fn a_retry_with_the_same_name_gets_the_same_pod_and_container() {
    let mut node = Node::start().await;
    let spec = PodSpec::new(&node, "retry");
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let (mut client, config) = (node.runtime.clone(), Some(spec.0.clone()));
            let request = api::RunPodSandboxRequest { config, ..Default::default() };
            tokio::spawn(async move { client.run_pod_sandbox(request).await })
        })
        .collect();
    let pod = node.run_pod(spec.clone()).await;
    for run in runs {
        assert_eq!(run.await.unwrap().unwrap().into_inner().pod_sandbox_id, pod.id);
    }
    assert_eq!(node.run_pod(spec).await.id, pod.id, "long after the first has ended");
    let first = node.create(&pod, ContainerSpec::waiting("c")).await;
    assert_eq!(node.create(&pod, ContainerSpec::waiting("c")).await, first);
    let again = ContainerSpec::waiting("c").with(|config| config.metadata.as_mut().unwrap().attempt = 1);
    assert_ne!(node.create(&pod, again).await, first, "another attempt is another container");
    node.finish().await;
}

/// B3
#[tokio::test]
async fn stopping_and_removing_what_is_unknown_succeeds_and_all_else_is_not_found() {
    let mut node = Node::start().await;
    let unknown = "f".repeat(64);
    node.stop_pod(&unknown).await;
    node.remove_pod(&unknown).await;
    node.stop_container(&unknown, 1).await.unwrap();
    node.remove_container(&unknown).await.unwrap();
    let pod = node.pod_status(&unknown).await.unwrap_err();
    let container = node.container_status(&unknown).await.unwrap_err();
    let start = node.start_container(&unknown).await.unwrap_err();
    let exec = node.exec(&unknown, "true", 1).await.unwrap_err();
    for error in [pod, container, start, exec] {
        assert_eq!(error.code(), Code::NotFound, "{error:?}");
        assert!(error.message().contains(&unknown), "{error:?}");
    }
    node.finish().await;
}

/// B3
#[tokio::test]
async fn stop_is_idempotent_and_remove_takes_running_containers_along() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "stop")).await;
    let stopped = node.run(&pod, ContainerSpec::waiting("stopped")).await;
    node.stop_pod(&pod.id).await;
    node.stop_pod(&pod.id).await;
    assert_eq!(node.container_status(&stopped).await.unwrap().state(), api::ContainerState::ContainerExited);
    let late = node.try_create(&pod, ContainerSpec::waiting("late")).await;
    assert!(late.is_err(), "a stopped pod takes no more containers");
    let running = node.run_pod(PodSpec::new(&node, "running")).await;
    let container = node.run(&running, ContainerSpec::waiting("c")).await;
    node.remove_pod(&running.id).await;
    assert_eq!(node.container_status(&container).await.unwrap_err().code(), Code::NotFound);
    node.finish().await;
}

/// B4
#[tokio::test]
async fn ids_may_be_shortened_while_they_are_unique() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "prefix")).await;
    assert_eq!(node.pod_status(&pod.id[..12]).await.unwrap().id, pod.id);
    // Seventeen IDs begin with sixteen digits: two of them share one.
    let mut ids = vec![pod.id.clone()];
    for n in 0..16 {
        ids.push(node.run_pod(PodSpec::new(&node, &format!("p{n}")).host_network()).await.id);
    }
    let shared =
        ids.iter().map(|id| &id[..1]).find(|digit| ids.iter().filter(|id| id.starts_with(digit)).count() > 1);
    let ambiguous = node.pod_status(shared.unwrap()).await.unwrap_err();
    let unknown = node.pod_status(&"0".repeat(63)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(ambiguous.code(), Code::InvalidArgument, "{ambiguous:?}");
    assert_ne!(ambiguous.message(), unknown.message());
    node.finish().await;
}

#[tokio::test]
async fn lists_are_filtered_by_id_state_and_labels() {
    let mut node = Node::start().await;
    let a = node.run_pod(PodSpec::new(&node, "a")).await.id;
    let b = node.run_pod(PodSpec::new(&node, "b")).await.id;
    node.stop_pod(&b).await;
    let ready = api::PodSandboxStateValue { state: api::PodSandboxState::SandboxReady.into() };
    let by_state = api::PodSandboxFilter { state: Some(ready), ..Default::default() };
    assert_eq!(node.pod_ids(Some(by_state)).await, [a.clone()]);
    let labels = HashMap::from([("app".to_owned(), "b".to_owned())]);
    let by_label = api::PodSandboxFilter { label_selector: labels.clone(), ..Default::default() };
    assert_eq!(node.pod_ids(Some(by_label)).await, [b.clone()]);
    let neither = api::PodSandboxFilter { id: a.clone(), label_selector: labels, ..Default::default() };
    assert!(node.pod_ids(Some(neither)).await.is_empty());
    let by_prefix = api::PodSandboxFilter { id: a[..13].to_owned(), ..Default::default() };
    assert_eq!(node.pod_ids(Some(by_prefix)).await, [a]);
    let unknown = api::PodSandboxFilter { id: "f".repeat(64), ..Default::default() };
    assert!(node.pod_ids(Some(unknown)).await.is_empty());
    node.finish().await;
}

#[tokio::test]
async fn containers_of_a_pod_share_its_namespaces_host_name_and_sysctls() {
    let mut node = Node::start().await;
    let spec = PodSpec::new(&node, "shared-host").with(|config| {
        let sysctls = [("net.ipv4.ip_unprivileged_port_start", "77"), ("kernel.shm_rmid_forced", "1")];
        config.linux.as_mut().unwrap().sysctls =
            sysctls.map(|(key, value)| (key.into(), value.into())).into();
    });
    let pod = node.run_pod(spec).await;
    let one = node.run(&pod, ContainerSpec::waiting("one")).await;
    let two = node.run(&pod, ContainerSpec::waiting("two")).await;
    assert_eq!(node.exec_ok(&one, "hostname").await, "shared-host");
    assert_eq!(node.exec_ok(&one, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await, "77");
    assert_eq!(node.exec_ok(&one, "cat /proc/sys/kernel/shm_rmid_forced").await, "1");
    for namespace in ["net", "ipc", "uts"] {
        let link = format!("readlink /proc/self/ns/{namespace}");
        let inside = node.exec_ok(&one, &link).await;
        assert_eq!(node.exec_ok(&two, &link).await, inside);
        let host = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(host.to_str(), Some(inside.as_str()), "{namespace} is the host's");
    }
    assert_ne!(
        node.exec_ok(&one, "readlink /proc/self/ns/pid").await,
        node.exec_ok(&two, "readlink /proc/self/ns/pid").await
    );
    node.exec_ok(&one, "echo seen > /dev/shm/file").await;
    assert_eq!(node.exec_ok(&two, "cat /dev/shm/file").await, "seen");
    node.finish().await;
}

#[tokio::test]
async fn host_namespaces_are_the_hosts() {
    let mut node = Node::start().await;
    let spec = PodSpec::new(&node, "host").host_network().with(|config| {
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        let options = context.namespace_options.as_mut().unwrap();
        options.set_pid(api::NamespaceMode::Node);
        options.set_ipc(api::NamespaceMode::Node);
    });
    let options = spec.0.linux.clone().unwrap().security_context.unwrap().namespace_options;
    let pod = node.run_pod(spec).await;
    let echoed = node.pod_status(&pod.id).await.unwrap().linux.unwrap().namespaces.unwrap().options;
    assert_eq!(echoed, options);
    let container =
        ContainerSpec::waiting("c").secured(|context| context.namespace_options = options.clone());
    let container = node.run(&pod, container).await;
    for namespace in ["net", "ipc", "pid"] {
        let inside = node.exec_ok(&container, &format!("readlink /proc/self/ns/{namespace}")).await;
        assert_eq!(
            fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap().to_str(),
            Some(inside.as_str())
        );
    }
    node.finish().await;
}

#[tokio::test]
async fn a_wrong_sysctl_is_an_error_that_names_it_and_leaves_nothing() {
    let mut node = Node::start().await;
    let spec = PodSpec::new(&node, "sysctl").with(|config| {
        config.linux.as_mut().unwrap().sysctls = [("net.ipv4.no_such_key".to_owned(), "1".to_owned())].into();
    });
    let refused = node.try_run_pod(&spec).await.unwrap_err();
    assert!(refused.message().contains("net.ipv4.no_such_key"), "{refused:?}");
    assert!(node.pod_ids(None).await.is_empty());
    node.finish().await;
}

#[tokio::test]
async fn an_unknown_runtime_handler_is_named() {
    let mut node = Node::start().await;
    let config = Some(PodSpec::new(&node, "handler").0);
    let request = api::RunPodSandboxRequest { config, runtime_handler: "kata".into() };
    let refused = node.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(refused.message().contains("kata"), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn verbose_status_is_json() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "verbose")).await;
    let request = api::PodSandboxStatusRequest { pod_sandbox_id: pod.id, verbose: true };
    let info = node.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    assert!(!info.is_empty());
    for value in info.values() {
        let _: serde_json::Value = serde_json::from_str(value).unwrap();
    }
    node.finish().await;
}

/// B2
#[tokio::test]
async fn what_no_client_comes_back_for_is_removed() {
    let node = Node::start_with("abandoned_after_seconds = 1\n").await;
    let config = PodSpec::new(&node, "left").0;
    let uid = config.metadata.clone().unwrap().uid;
    let mut client = node.runtime.clone();
    let request = api::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let call = tokio::spawn(async move { client.run_pod_sandbox(request).await.map(drop) });
    let recorded = || leftovers::walk(&node.names.run_dir()).into_iter().any(|path| holds(&path, &uid));
    eventually("the pod's record", || async { recorded().then_some(()) }).await;
    call.abort();
    assert!(call.await.is_err(), "the answer was faster than the abort");
    eventually("the end of the abandoned pod", || async {
        let pods =
            node.runtime.clone().list_pod_sandbox(api::ListPodSandboxRequest::default()).await.unwrap();
        (pods.into_inner().items.is_empty() && !recorded()).then_some(())
    })
    .await;
    node.finish().await;
}

fn holds(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|content| content.contains(text))
}

/// A file system that is mounted over a directory and full until it is dropped.
struct FullDisk(PathBuf);

impl FullDisk {
    fn over(directory: PathBuf) -> Self {
        let mount = ["-t", "tmpfs", "-o", "size=64k", "podd-test-full"];
        assert!(Command::new("mount").args(mount).arg(&directory).status().unwrap().success());
        let full = fs::write(directory.join("filler"), [0; 65 << 10]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        Self(directory)
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }

    fn entries(&self) -> usize {
        fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_run_directory_is_a_clear_error_and_leaves_nothing() {
    let mut node = Node::start().await;
    let disk = FullDisk::over(node.names.run_dir().join("pods"));
    let spec = PodSpec::new(&node, "full");
    let error = node.try_run_pod(&spec).await.unwrap_err();
    assert!(error.message().contains("No space left on device"), "{error}");
    assert_eq!(disk.entries(), 1, "only the filler is there");
    disk.free();
    let pod = node.run_pod(spec).await;
    node.remove_pod(&pod.id).await;
    assert_eq!(disk.entries(), 0);
    drop(disk);
    node.finish().await;
}
