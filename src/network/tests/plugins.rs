//! Real plugins: bridge, host-local, portmap, bandwidth and loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};

use serde_json::json;

use super::bridge::bridge_conflist;
use super::*;
use crate::network::{PortMapping, Protocol};

impl Node {
    fn bridge(&self) {
        self.configure("10-bridge.conflist", bridge_conflist("br0", "10.77.0.0/24", &self.path("ipam")));
    }

    /// The addresses that host-local holds.
    fn taken(&self, network: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("ipam").join(network)) else { return Vec::new() };
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("10.") || name.starts_with("fd")).collect()
    }
}

/// The rules that are about a pod.
fn rules(pod: &Attachment) -> usize {
    output(None, &["iptables-save"]).lines().filter(|line| line.contains(pod.pod.as_str())).count()
}

#[test]
fn a_pod_gets_an_address_and_gives_it_back() {
    Node::run(|node| async move {
        node.bridge();
        let network = node.network().await;
        network.status().unwrap();
        let pod = node.pod();
        let got = network.attach(&pod).await.unwrap();
        let ip = got.ips[0].to_string();
        assert!(ip.starts_with("10.77.0."), "{ip}");
        let inside = output(Some(&pod.netns), &["ip", "-o", "addr", "show", "eth0"]);
        assert!(inside.contains(&ip), "{inside}");
        assert!(got.interfaces.iter().any(|i| i.name == "eth0" && i.sandbox == pod.netns.to_str().unwrap()));
        assert_eq!((got.routes[0].dst.as_str(), node.taken("br0")), ("0.0.0.0/0", vec![ip]));
        assert!(rules(&pod) > 0, "no masquerading");
        let second = node.pod();
        assert_ne!(network.attach(&second).await.unwrap().ips, got.ips);

        network.detach(&second.pod).await.unwrap();
        network.detach(&pod.pod).await.unwrap();
        network.detach(&pod.pod).await.unwrap();
        assert!(node.taken("br0").is_empty());
        assert_eq!(rules(&pod) + rules(&second), 0);
        assert!(!output(None, &["ip", "-o", "link"]).contains("veth"));
        node.finish(&[&pod, &second]);
    });
}

#[test]
fn a_port_of_the_node_leads_into_the_pod() {
    Node::run(|node| async move {
        node.bridge();
        let network = node.network().await;
        let mut pod = node.pod();
        let mapping = |container_port, host_port| PortMapping {
            protocol: Protocol::Tcp,
            container_port,
            host_port,
            host_ip: None,
        };
        pod.port_mappings = vec![mapping(8080, 18080), mapping(9090, 0)];
        network.attach(&pod).await.unwrap();
        let listener = in_namespace(&pod.netns, || TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap();
        let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"pod").unwrap());
        let node_address: IpAddr = "10.77.0.1".parse().unwrap();
        let mut stream = TcpStream::connect((node_address, 18080)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        server.join().unwrap();
        assert_eq!(answer, "pod");
        assert!(TcpStream::connect((node_address, 9090)).is_err());
        drop(stream);
        network.detach(&pod.pod).await.unwrap();
        assert_eq!(rules(&pod), 0);
        assert!(TcpStream::connect((node_address, 18080)).is_err());
        node.finish(&[&pod]);
    });
}

/// B5: after a reboot the namespace is gone, and the configuration may be another.
#[test]
fn b5_an_address_is_released_without_namespace_and_configuration() {
    Node::run(|node| async move {
        node.bridge();
        let pod = node.pod();
        node.network().await.attach(&pod).await.unwrap();
        assert_eq!(node.taken("br0").len(), 1);
        unpin(&pod.netns).unwrap();
        // The file of a pin without its mount is no namespace either.
        fs::write(&pod.netns, "").unwrap();
        fs::remove_file(node.path("conf").join("10-bridge.conflist")).unwrap();
        let restarted = node.network().await;
        restarted.status().unwrap_err();
        restarted.detach(&pod.pod).await.unwrap();
        assert!(node.taken("br0").is_empty());
        node.finish(&[&pod]);
    });
}

#[test]
fn b7_a_pod_on_two_families_has_both_addresses() {
    Node::run(|node| async move {
        let ranges = json!([[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd78::/64"}]]);
        let ipam = json!({"type": "host-local", "dataDir": node.path("ipam"), "ranges": ranges});
        // A single configuration, not a list.
        let conf =
            json!({"cniVersion": "0.4.0", "name": "dual", "type": "bridge", "bridge": "br1", "ipam": ipam});
        node.configure("10-dual.conf", conf.to_string());
        let network = node.network().await;
        let pod = node.pod();
        let got = network.attach(&pod).await.unwrap();
        assert!(got.ips.len() == 2 && got.ips[0].is_ipv4() && got.ips[1].is_ipv6(), "{:?}", got.ips);
        network.detach(&pod.pod).await.unwrap();
        assert!(node.taken("dual").is_empty());
        node.finish(&[&pod]);
    });
}

#[test]
fn old_versions_of_the_specification_work() {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "1.0.0"] {
        Node::run(|node| async move {
            let ipam = json!({"type": "host-local", "dataDir": node.path("ipam"), "subnet": "10.79.0.0/24"});
            let conf = json!({"cniVersion": version, "name": "old", "type": "bridge", "bridge": "br2", "ipam": ipam});
            node.configure("10-old.conf", conf.to_string());
            let network = node.network().await;
            let pod = node.pod();
            let got = network.attach(&pod).await.unwrap();
            assert_eq!(got.ips, ["10.79.0.2".parse::<IpAddr>().unwrap()], "{version}");
            network.detach(&pod.pod).await.unwrap();
            assert!(node.taken("old").is_empty());
            node.finish(&[&pod]);
        });
    }
}

#[test]
fn the_loopback_plugin_is_built_in() {
    Node::run(|node| async move {
        node.configure("10-lo.conf", r#"{"cniVersion": "0.3.1", "name": "lo", "type": "loopback"}"#);
        let network = node.network().await;
        let pod = node.pod();
        let got = network.attach(&pod).await.unwrap();
        assert_eq!(got.ips, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(output(Some(&pod.netns), &["ip", "-o", "addr"]).contains("127.0.0.1/8"));
        network.detach(&pod.pod).await.unwrap();
        node.finish(&[&pod]);
    });
}

#[test]
fn traffic_is_limited_as_the_annotations_say() {
    Node::run(|node| async move {
        let ipam = json!({"type": "host-local", "dataDir": node.path("ipam"), "subnet": "10.80.0.0/24"});
        let plugins = json!([
            {"type": "bridge", "bridge": "br3", "ipam": ipam},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ]);
        let list = json!({"cniVersion": "1.0.0", "name": "shaped", "plugins": plugins});
        node.configure("10-shaped.conflist", list.to_string());
        let network = node.network().await;
        let mut pod = node.pod();
        pod.annotations = BTreeMap::from([
            ("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned()),
            ("kubernetes.io/egress-bandwidth".to_owned(), "20M".to_owned()),
        ]);
        network.attach(&pod).await.unwrap_or_else(|e| panic!("{}", text(&e)));
        let queues = || output(None, &["tc", "qdisc", "show"]);
        let limited = queues();
        assert!(limited.contains("rate 10Mbit") && limited.contains("rate 20Mbit"), "{limited}");
        network.detach(&pod.pod).await.unwrap();
        assert!(!queues().contains("rate"), "{}", queues());
        node.finish(&[&pod]);
    });
}

#[test]
fn pods_that_come_at_once_get_addresses_of_their_own() {
    Node::run(|node| async move {
        node.bridge();
        let network = node.network().await;
        let pods: Vec<_> = (0..8).map(|_| node.pod()).collect();
        let attached = futures_util::future::join_all(pods.iter().map(|pod| network.attach(pod))).await;
        let ips: std::collections::HashSet<_> = attached.into_iter().map(|got| got.unwrap().ips[0]).collect();
        assert_eq!((ips.len(), node.taken("br0").len()), (8, 8));
        let detached = futures_util::future::join_all(pods.iter().map(|pod| network.detach(&pod.pod))).await;
        assert!(detached.iter().all(Result::is_ok), "{detached:?}");
        assert!(node.taken("br0").is_empty());
        node.finish(&pods.iter().collect::<Vec<_>>());
    });
}
