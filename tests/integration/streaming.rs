//! Exec, attach and port-forward, with the real crictl over SPDY and over WebSocket.

use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;

use crate::common::image::pushed_busybox;
use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

async fn start(container: ContainerSpec) -> (Node, Pod, String) {
    let mut node = Node::start().await;
    node.pull(&pushed_busybox().await.reference).await.unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "streaming")).await;
    let id = node.run(&pod, container).await;
    (node, pod, id)
}

/// `crictl exec` with these bytes as standard input.
async fn exec(node: &Node, transport: &str, options: &[&str], command: &[&str], input: &[u8]) -> Output {
    let transport = ["exec", "--transport", transport];
    let mut child = node
        .crictl_command(&[&transport[..], options, command].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let feeding = tokio::spawn(async move {
        // The command may end before it has read all.
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output());
    let output = output.await.expect("crictl exec hangs").unwrap();
    feeding.abort();
    output
}

#[tokio::test]
async fn output_errors_and_exit_codes_come_back() {
    let (node, _, id) = start(ContainerSpec::waiting("c")).await;
    for transport in TRANSPORTS {
        let said =
            exec(&node, transport, &[], &[&id, "sh", "-c", "echo out; echo err >&2; exit 3"], b"").await;
        assert_eq!(String::from_utf8_lossy(&said.stdout), "out\n", "{transport}: {said:?}");
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(errors.starts_with("err\n") && errors.contains("exit code 3"), "{transport}: {errors}");
        for (script, code) in
            [("exit 0", 0), ("kill -9 $$", 137), ("no-such-command", 127), ("/etc/passwd", 126)]
        {
            let said = exec(&node, transport, &[], &[&id, "sh", "-c", script], b"").await;
            let errors = String::from_utf8_lossy(&said.stderr).into_owned();
            let ok =
                if code == 0 { said.status.success() } else { errors.contains(&format!("exit code {code}")) };
            assert!(ok, "{transport}: {script}: {errors}");
        }
        let said = exec(&node, transport, &[], &[&id, "/no/such/program"], b"").await;
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            errors.contains("exit code 127") && errors.contains("/no/such/program"),
            "{transport}: {errors}"
        );
    }
    node.finish().await;
}

#[tokio::test]
async fn input_goes_in_its_end_is_seen_and_much_of_it_comes_back_whole() {
    let (node, _, id) = start(ContainerSpec::waiting("c")).await;
    let input: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for transport in TRANSPORTS {
        let said = exec(&node, transport, &["-i"], &[&id, "cat"], &input).await;
        assert!(said.status.success(), "{transport}: {}", String::from_utf8_lossy(&said.stderr));
        assert!(said.stdout == input, "{transport}: {} of {} bytes", said.stdout.len(), input.len());
    }
    node.finish().await;
}
