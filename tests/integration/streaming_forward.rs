//! Port-forward with the real crictl, over SPDY and over WebSocket, to servers that the tests put into a pod's network.

use std::net::SocketAddr;
use std::process::Stdio;

use podd::sys::namespace::in_namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::common::requests::Pod;
use crate::common::{Node, PodSpec, eventually, free_port};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// Listens in the pod's network namespace.
fn listen_in(pod: &Pod, at: SocketAddr) -> TcpListener {
    let namespace = std::path::PathBuf::from(format!("/run/netns/podd-{}", pod.id));
    let listener = in_namespace(&namespace, || std::net::TcpListener::bind(at)).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

/// A server that hears each client to its end and only then answers, with its name and all that it heard.
fn answer_at_the_end(listener: TcpListener, name: String) {
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let name = name.clone();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                let _ = socket.read_to_end(&mut heard).await;
                let _ = socket.write_all(&[name.as_bytes(), &heard].concat()).await;
            });
        }
    });
}

/// `crictl port-forward` of those local and remote ports.
fn forward(node: &Node, transport: &str, pod: &Pod, ports: &[(u16, u16)]) -> tokio::process::Child {
    let pairs: Vec<_> = ports.iter().map(|(local, remote)| format!("{local}:{remote}")).collect();
    let mut words = vec!["port-forward", "--transport", transport, &pod.id];
    words.extend(pairs.iter().map(String::as_str));
    node.crictl_command(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn connect(port: u16) -> TcpStream {
    eventually("a connection to the forwarded port", || async {
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await
}

/// Says something to the end and hears the answer to its end.
async fn ask(port: u16, question: Vec<u8>) -> Vec<u8> {
    let (mut from, mut to) = connect(port).await.into_split();
    let asking = tokio::spawn(async move {
        to.write_all(&question).await.unwrap();
        to.shutdown().await.unwrap();
        to
    });
    let mut answer = Vec::new();
    from.read_to_end(&mut answer).await.unwrap();
    asking.await.unwrap();
    answer
}

/// B29
#[tokio::test]
async fn many_ports_and_connections_at_once_and_each_direction_ends_by_itself() {
    const PORTS: u16 = 6;
    const CONNECTIONS: usize = 120;
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "forward")).await;
    for n in 0..PORTS {
        answer_at_the_end(listen_in(&pod, ([127, 0, 0, 1], 8000 + n).into()), format!("port {n}: "));
    }
    for transport in TRANSPORTS {
        let ports: Vec<_> = (0..PORTS).map(|n| (free_port(), 8000 + n)).collect();
        let mut client = forward(&node, transport, &pod, &ports);
        let mut asked = JoinSet::new();
        for connection in 0..CONNECTIONS {
            let n = connection % ports.len();
            let local = ports[n].0;
            // From an empty question to one that needs many frames.
            let question: Vec<u8> = (0..connection * 3000).map(|at| (at * 7 + connection) as u8).collect();
            asked.spawn(async move {
                let answer = ask(local, question.clone()).await;
                let expected = [format!("port {n}: ").as_bytes(), &question].concat();
                assert!(answer == expected, "connection {connection}: {} bytes came back", answer.len());
            });
        }
        while let Some(done) = asked.join_next().await {
            done.unwrap();
        }
        client.kill().await.unwrap();
    }
    node.finish().await;
}

/// B29
#[tokio::test]
async fn ipv4_is_tried_first_and_ipv6_then() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "forward")).await;
    answer_at_the_end(listen_in(&pod, ([127, 0, 0, 1], 81).into()), "v4".to_owned());
    answer_at_the_end(listen_in(&pod, "[::1]:81".parse().unwrap()), "v6".to_owned());
    answer_at_the_end(listen_in(&pod, "[::1]:82".parse().unwrap()), "v6".to_owned());
    for transport in TRANSPORTS {
        let ports = [(free_port(), 81), (free_port(), 82)];
        let mut client = forward(&node, transport, &pod, &ports);
        assert_eq!(ask(ports[0].0, Vec::new()).await, b"v4", "{transport}");
        assert_eq!(ask(ports[1].0, Vec::new()).await, b"v6", "{transport}");
        client.kill().await.unwrap();
    }
    node.finish().await;
}

/// B29
#[tokio::test]
async fn a_pod_of_the_hosts_network_has_the_hosts_ports() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "forward").host_network()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    answer_at_the_end(listener, "host: ".to_owned());
    for transport in TRANSPORTS {
        let local = free_port();
        let mut client = forward(&node, transport, &pod, &[(local, port)]);
        assert_eq!(ask(local, b"hello".to_vec()).await, b"host: hello", "{transport}");
        client.kill().await.unwrap();
    }
    node.finish().await;
}
