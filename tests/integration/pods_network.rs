//! The pod network through real CNI plugins: addresses, ports, resolv.conf, and what happens when a plugin fails.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use podd::api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::leftovers;
use crate::common::{ContainerSpec, Node, PodSpec, eventually, free_port, nginx, registry};

/// Fetches `/` and gives the whole answer; `None` while nobody answers.
async fn fetch(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    (!answer.is_empty()).then_some(answer)
}

#[tokio::test]
async fn nginx_answers_at_the_pods_address_and_at_its_host_port() {
    let mut node = Node::start().await;
    let port = free_port();
    let mapping = api::PortMapping { container_port: 80, host_port: i32::from(port), ..Default::default() };
    let spec = PodSpec::new(&node, "nginx").with(|config| config.port_mappings = vec![mapping]);
    let pod = node.run_pod(spec).await;
    let pushed = nginx().push(registry::shared().await, "test/nginx", "1").await;
    let image = node.pull(&pushed.reference).await.unwrap();
    let container = ContainerSpec::script("nginx", "").with(|config| {
        config.image = Some(api::ImageSpec { image, ..Default::default() });
        (config.command, config.args) = (vec![], vec![]);
    });
    let container = node.run(&pod, container).await;
    let ip = node.pod_status(&pod.id).await.unwrap().network.unwrap().ip;
    let pod_address: SocketAddr = format!("{ip}:80").parse().unwrap();
    let answer = eventually("nginx at the pod's address", || fetch(pod_address)).await;
    assert!(answer.contains("hello from nginx"), "{answer}");
    let host_address: SocketAddr = format!("{}.1:{port}", node.names.subnet).parse().unwrap();
    let answer = eventually("nginx at the host port", || fetch(host_address)).await;
    assert!(answer.contains("hello from nginx"), "{answer}");
    node.stop_container(&container, 10).await.unwrap();
    node.stop_pod(&pod.id).await;
    assert_eq!(fetch(host_address).await, None, "the host port outlives its pod");
    node.finish().await;
}

#[tokio::test]
async fn pods_reach_each_other_and_have_a_loopback() {
    let mut node = Node::start().await;
    let server = node.run_pod(PodSpec::new(&node, "server")).await;
    let client = node.run_pod(PodSpec::new(&node, "client")).await;
    let script = "mkdir /www; echo here > /www/index.html; exec httpd -f -p 8080 -h /www";
    let in_server = node.run(&server, ContainerSpec::script("httpd", script)).await;
    let in_client = node.run(&client, ContainerSpec::waiting("c")).await;
    let ip = node.pod_status(&server.id).await.unwrap().network.unwrap().ip;
    let ask = "for i in $(seq 100); do wget -q -O - http://ADDRESS:8080/ && exit 0; sleep 0.1; done; exit 1";
    assert_eq!(node.exec_ok(&in_client, &ask.replace("ADDRESS", &ip)).await, "here");
    assert_eq!(node.exec_ok(&in_server, &ask.replace("ADDRESS", "127.0.0.1")).await, "here");
    node.finish().await;
}

#[tokio::test]
async fn resolv_conf_is_what_the_pod_asks_for() {
    let mut node = Node::start().await;
    let dns = api::DnsConfig {
        servers: vec!["10.96.0.10".into(), "10.96.0.11".into()],
        searches: vec!["tests.svc.cluster.local".into(), "svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    };
    let pod = node.run_pod(PodSpec::new(&node, "dns").with(|config| config.dns_config = Some(dns))).await;
    let container = node.run(&pod, ContainerSpec::waiting("c")).await;
    let text = node.exec_ok(&container, "cat /etc/resolv.conf").await;
    let lines: Vec<&str> = text.lines().collect();
    let wanted = [
        "search tests.svc.cluster.local svc.cluster.local",
        "nameserver 10.96.0.10",
        "nameserver 10.96.0.11",
        "options ndots:5",
    ];
    assert!(wanted.iter().all(|line| lines.contains(line)), "{text}");
    assert_eq!(lines.len(), wanted.len(), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn without_a_wish_resolv_conf_is_the_hosts() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "hostdns").host_network()).await;
    let container = node.run(&pod, ContainerSpec::waiting("c")).await;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(node.exec_ok(&container, "cat /etc/resolv.conf").await, host.trim_end());
    node.finish().await;
}

#[tokio::test]
async fn a_host_network_pod_has_no_address_of_its_own() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "hostnet").host_network()).await;
    let status = node.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.network.unwrap_or_default().ip, "");
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.network(), api::NamespaceMode::Node);
    assert!(leftovers::netns(std::slice::from_ref(&pod.id)).is_empty(), "it has pinned a network namespace");
    node.finish().await;
}

#[tokio::test]
async fn the_network_namespace_is_pinned_where_agents_look() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pin")).await;
    let pins = leftovers::netns(std::slice::from_ref(&pod.id));
    assert_eq!(pins.len(), 1, "{pins:?}");
    node.stop_pod(&pod.id).await;
    assert!(leftovers::netns(std::slice::from_ref(&pod.id)).is_empty());
    node.finish().await;
}

/// B5
#[tokio::test]
async fn a_failed_add_names_the_plugin_and_gives_everything_back() {
    let mut node = Node::start().await;
    let good = fs::read_to_string(node.names.cni_conf_dir().join("10-podd-test.conflist")).unwrap();
    let mut conf: serde_json::Value = serde_json::from_str(&good).unwrap();
    let broken = serde_json::json!({ "type": "tuning", "sysctl": { "net.ipv4.no_such_key": "1" } });
    conf["plugins"].as_array_mut().unwrap().push(broken);
    fs::write(node.names.cni_conf_dir().join("10-podd-test.conflist"), conf.to_string()).unwrap();
    let refused = eventually("the failing configuration is in use", || {
        let (mut client, spec) = (node.runtime.clone(), PodSpec::new(&node, "broken"));
        let request = api::RunPodSandboxRequest { config: Some(spec.0), ..Default::default() };
        async move {
            match client.run_pod_sandbox(request).await {
                Err(status) => Some(status),
                Ok(pod) => {
                    let pod_sandbox_id = pod.into_inner().pod_sandbox_id;
                    client.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
                    None
                }
            }
        }
    })
    .await;
    assert!(refused.message().contains("tuning"), "the plugin is not in {refused:?}");
    assert!(refused.message().contains("no_such_key"), "what it said is not in {refused:?}");
    assert!(node.pod_ids(None).await.is_empty());
    node.finish().await;
}

#[tokio::test]
async fn a_missing_plugin_is_named_with_the_places_that_were_searched() {
    let node = Node::start_without_network().await;
    let conf = r#"{ "cniVersion": "1.0.0", "name": "none", "plugins": [{ "type": "no-such-plugin" }] }"#;
    fs::write(node.names.cni_conf_dir().join("10-none.conflist"), conf).unwrap();
    let refused = eventually("an error that is about the plugin", || {
        let (mut client, spec) = (node.runtime.clone(), PodSpec::new(&node, "missing"));
        let request = api::RunPodSandboxRequest { config: Some(spec.0), ..Default::default() };
        async move {
            let refused = client.run_pod_sandbox(request).await.unwrap_err();
            refused.message().contains("no-such-plugin").then_some(refused)
        }
    })
    .await;
    assert!(refused.message().contains("/opt/cni/bin"), "{refused:?}");
    node.finish().await;
}

/// A mapping that no plugin can undo would keep the address for ever.
#[tokio::test]
async fn a_port_mapping_to_nowhere_is_refused_by_name() {
    let mut node = Node::start().await;
    let mut spec = PodSpec::new(&node, "nowhere");
    spec.0.port_mappings = vec![api::PortMapping { host_port: 18080, ..Default::default() }];
    spec.0.linux.get_or_insert_default().sysctls.insert("vm.swappiness".to_owned(), "1".to_owned());
    let mut request = api::RunPodSandboxRequest { config: Some(spec.0), ..Default::default() };
    let error = node.runtime.run_pod_sandbox(request.clone()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().starts_with("config.port_mappings[0].container_port: "), "{error}");
    request.config.as_mut().unwrap().port_mappings.clear();
    let error = node.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().starts_with("config.linux.sysctls: "), "{error}");
    node.finish().await;
}

/// A plugin of CNI 1.1 that writes down what it is told at GC.
const COLLECTOR: &str = r#"#!/bin/sh
input=$(cat)
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],
    "ips":[{"address":"10.99.0.2/24","interface":0}]}' ;;
GC) echo "$input" >"$0.told" ;;
esac
"#;

/// B6
#[tokio::test]
async fn b6_a_starting_daemon_has_plugins_drop_what_they_hold_for_no_pod() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("collector");
    fs::write(&plugin, COLLECTOR).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = format!("[network]\nplugin_dirs = [{:?}]\n", dir.path());
    let mut node = Node::start_configured(&settings).await;
    let conf = r#"{ "cniVersion": "1.1.0", "name": "collected", "plugins": [{ "type": "collector" }] }"#;
    fs::write(node.names.cni_conf_dir().join("10-podd-test.conflist"), conf).unwrap();
    node.restart().await;
    let told = dir.path().join("collector.told");
    let attachments = || {
        let told: serde_json::Value = serde_json::from_slice(&fs::read(&told).ok()?).ok()?;
        Some(told["cni.dev/valid-attachments"].clone())
    };
    let none = eventually("a collection at the start", || async { attachments() }).await;
    assert!(none.as_array().is_none_or(Vec::is_empty), "{none}");
    let pod = node.run_pod(PodSpec::new(&node, "kept")).await;
    fs::remove_file(&told).unwrap();
    node.restart().await;
    let kept = eventually("a collection at the next start", || async { attachments() }).await;
    assert_eq!(kept, serde_json::json!([{ "containerID": pod.id, "ifname": "eth0" }]));
    node.finish().await;
}
