//! The real crictl, as an operator uses it: from a pull to nothing.

use std::fs;

use crate::common::image::pushed_busybox;
use crate::common::{Node, PodSpec, file_text};

/// Writes what crictl reads as a pod's configuration, and gives the path.
fn pod_file(node: &Node, name: &str) -> String {
    let config = PodSpec::new(node, name).0;
    let metadata = config.metadata.unwrap();
    let json = serde_json::json!({
        "metadata": { "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid, "attempt": 1 },
        "hostname": config.hostname,
        "log_directory": config.log_directory,
        "labels": { "app": name },
        "linux": {
            "cgroup_parent": node.names.cgroup_parent,
            "security_context": { "namespace_options": { "pid": 1 } },
        },
    });
    let path = node.names.dir().join(format!("{name}.pod.json"));
    fs::write(&path, json.to_string()).unwrap();
    path.display().to_string()
}

/// The same for a container of the image that runs a shell script.
fn container_file(node: &Node, name: &str, image: &str, script: &str) -> String {
    let json = serde_json::json!({
        "metadata": { "name": name, "attempt": 0 },
        "image": { "image": image },
        "command": ["/bin/sh", "-c", script],
        "log_path": format!("{name}.log"),
        "linux": { "security_context": { "namespace_options": { "pid": 1 } } },
    });
    let path = node.names.dir().join(format!("{name}.container.json"));
    fs::write(&path, json.to_string()).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn from_a_pull_to_nothing() {
    let node = Node::start().await;
    let image = &pushed_busybox().await.reference;
    let said = node.crictl_ok(&["pull", image]).await;
    assert!(said.contains("sha256:"), "{said}");
    let images: serde_json::Value =
        serde_json::from_str(&node.crictl_ok(&["images", "-o", "json"]).await).unwrap();
    assert_eq!(images["images"][0]["repoTags"][0], image.as_str());

    let pod_config = pod_file(&node, "demo");
    let pod = node.crictl_ok(&["runp", &pod_config]).await;
    node.remember(&pod);
    let script = "echo hello from crictl; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let container_config = container_file(&node, "shell", image, script);
    let container = node.crictl_ok(&["create", &pod, &container_config, &pod_config]).await;
    node.crictl_ok(&["start", &container]).await;
    assert_eq!(node.crictl_ok(&["ps", "-q", "--no-trunc"]).await, container);
    assert_eq!(node.crictl_ok(&["pods", "-q", "--no-trunc", "--label", "app=demo"]).await, pod);

    let inspected: serde_json::Value =
        serde_json::from_str(&node.crictl_ok(&["inspect", &container]).await).unwrap();
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    let log = inspected["status"]["logPath"].as_str().unwrap().to_owned();
    let inspected: serde_json::Value =
        serde_json::from_str(&node.crictl_ok(&["inspectp", &pod]).await).unwrap();
    assert!(inspected["status"]["network"]["ip"].as_str().unwrap().starts_with(&node.names.subnet));
    let inspected: serde_json::Value =
        serde_json::from_str(&node.crictl_ok(&["inspecti", image]).await).unwrap();
    assert_eq!(inspected["status"]["repoTags"][0], image.as_str());

    file_text(log.as_ref(), |text| text.contains("hello from crictl")).await;
    assert_eq!(node.crictl_ok(&["logs", &container]).await, "hello from crictl");
    assert_eq!(node.crictl_ok(&["exec", "--sync", &container, "hostname"]).await, "demo");
    let failed = node.crictl(&["exec", "--sync", &container, "false"]).await;
    assert!(!failed.status.success(), "crictl does not see the exit code");

    node.crictl_ok(&["stop", "--timeout", "10", &container]).await;
    node.crictl_ok(&["rm", &container]).await;
    assert_eq!(node.crictl_ok(&["ps", "-a", "-q"]).await, "");
    node.crictl_ok(&["stopp", &pod]).await;
    node.crictl_ok(&["rmp", &pod]).await;
    assert_eq!(node.crictl_ok(&["pods", "-q"]).await, "");
    node.crictl_ok(&["rmi", image]).await;
    assert_eq!(node.crictl_ok(&["images", "-q"]).await, "");
    node.finish().await;
}

#[tokio::test]
async fn info_and_version() {
    let node = Node::start().await;
    let info: serde_json::Value = serde_json::from_str(&node.crictl_ok(&["info"]).await).unwrap();
    let conditions = info["status"]["conditions"].as_array().unwrap();
    for name in ["RuntimeReady", "NetworkReady"] {
        assert!(
            conditions.iter().any(|c| c["type"] == name && c["status"] == true),
            "{name}: {conditions:?}"
        );
    }
    let version = node.crictl_ok(&["version"]).await;
    assert!(version.contains("podd") && version.contains("v1"), "{version}");
    node.finish().await;
}

/// What the project promises first: the log is there although the daemon was killed in between.
#[tokio::test]
async fn logs_after_the_daemon_was_killed_and_started_again() {
    let mut node = Node::start().await;
    let image = &pushed_busybox().await.reference;
    node.crictl_ok(&["pull", image]).await;
    let pod_config = pod_file(&node, "survivor");
    let script = "echo one; sleep 1; echo two; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let container_config = container_file(&node, "c", image, script);
    let container = node.crictl_ok(&["run", &container_config, &pod_config]).await;
    node.restart().await;
    let text = node.crictl_ok(&["inspect", &container]).await;
    let inspected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let log = inspected["status"]["logPath"].as_str().unwrap();
    file_text(log.as_ref(), |text| text.contains("two")).await;
    assert_eq!(node.crictl_ok(&["logs", &container]).await, "one\ntwo");
    node.finish().await;
}

#[tokio::test]
async fn errors_reach_the_operator() {
    let node = Node::start().await;
    let failed = node.crictl(&["pull", "127.0.0.1:9/no/body:1"]).await;
    assert!(!failed.status.success());
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("127.0.0.1:9") && said.contains("no/body"), "{said}");
    let failed = node.crictl(&["inspect", "feedfeedfeed"]).await;
    assert!(!failed.status.success());
    node.finish().await;
}
