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

/// `crictl attach` with these bytes as standard input, until it ends by itself.
async fn attach(node: &Node, transport: &str, id: &str, input: &[u8], keep_open: bool) -> Output {
    let mut child = node
        .crictl_command(&["attach", "--transport", transport, "-i", id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    let held = keep_open.then_some(stdin);
    let output = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait_with_output());
    let output = output.await.expect("crictl attach hangs").unwrap();
    drop(held);
    output
}

#[tokio::test]
async fn an_attached_client_speaks_to_the_first_process_and_hears_it_to_its_end() {
    for transport in TRANSPORTS {
        let script =
            "while read line; do echo got $line; echo err $line >&2; [ $line = end ] && exit 4; done";
        let spec = ContainerSpec::script("c", script).with(|config| config.stdin = true);
        let (mut node, pod, id) = start(spec).await;
        let said = attach(&node, transport, &id, b"one\ntwo\nend\n", true).await;
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            "got one\ngot two\ngot end\n",
            "{transport}: {said:?}"
        );
        assert!(String::from_utf8_lossy(&said.stderr).contains("err two\n"), "{transport}: {said:?}");
        let ended = node.wait_for_exit(&id).await;
        assert_eq!(ended.exit_code, 4);
        let log = std::fs::read_to_string(node.log_path(&pod, "c.log")).unwrap();
        assert!(log.contains("stdout F got two"), "what was heard is logged as well: {log}");
        node.finish().await;
    }
}

#[tokio::test]
async fn the_end_of_a_client_ends_the_input_only_with_stdin_once() {
    for once in [true, false] {
        let spec = ContainerSpec::script("c", "cat; echo cat has ended").with(|config| {
            config.stdin = true;
            config.stdin_once = once;
        });
        let (mut node, _, id) = start(spec).await;
        // The daemon that takes the client up need not be the one that made the container.
        node.restart().await;
        let mut client = node
            .crictl_command(&["attach", "-i", &id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(b"hello\n").await.unwrap();
        let mut stdout = client.stdout.take().unwrap();
        let mut heard = [0; 6];
        tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut heard).await.unwrap();
        assert_eq!(&heard, b"hello\n");
        drop(stdin);
        if once {
            assert_eq!(node.wait_for_exit(&id).await.exit_code, 0);
        } else {
            client.kill().await.unwrap();
            let said = attach(&node, "spdy", &id, b"", false);
            let said = tokio::time::timeout(std::time::Duration::from_millis(500), said).await;
            assert!(said.is_err(), "the container has ended: {said:?}");
            assert_eq!(node.exec_ok(&id, "pidof cat | wc -w").await.trim(), "1");
        }
        node.finish().await;
    }
}

#[tokio::test]
async fn ports_are_forwarded_over_both_transports_and_a_closed_one_is_named() {
    let script = "while true; do echo answer | nc -l -p 8080 -w 5; done";
    let (node, pod, _) = start(ContainerSpec::script("c", script)).await;
    for transport in TRANSPORTS {
        let port = crate::common::free_port();
        let closed = crate::common::free_port();
        let mut client = node
            .crictl_command(&[
                "port-forward",
                "--transport",
                transport,
                &pod.id,
                &format!("{port}:8080"),
                &format!("{closed}:81"),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let answer = crate::common::eventually("an answer through the forwarded port", || async {
            let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            let mut text = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut socket, &mut text).await.ok()?;
            (!text.is_empty()).then_some(text)
        });
        assert_eq!(answer.await, "answer\n", "{transport}");
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", closed)).await.unwrap();
        let mut text = String::new();
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut socket, &mut text).await;
        assert_eq!(text, "");
        let _ = client.start_kill();
        let said = client.wait_with_output().await.unwrap();
        let said =
            String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
        assert!(said.contains("127.0.0.1:81: Connection refused"), "{transport}: {said}");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_terminal_is_one_and_takes_its_clients_size() {
    let (node, _, id) = start(ContainerSpec::waiting("c")).await;
    for transport in TRANSPORTS {
        let inside = "until stty -a | grep -q \"rows 33; columns 77\"; do sleep 0.1; done; tty; stty size; echo err >&2; exit 5";
        let command =
            node.crictl_command(&["exec", "--transport", transport, "-i", "-t", &id, "sh", "-c", inside]);
        let words: Vec<_> = std::iter::once(command.as_std().get_program())
            .chain(command.as_std().get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let script = format!("stty rows 33 cols 77; {}", words.join(" "));
        let mut script = {
            let mut script_command = tokio::process::Command::new("script");
            script_command.args(["--quiet", "--return", "--command", &script, "/dev/null"]);
            script_command
        };
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let child = script.spawn().unwrap();
        let said = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait_with_output());
        let said = said.await.expect("crictl exec -it hangs").unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(text.contains("33 77\r\n"), "{transport}: {text}");
        assert!(text.contains("/dev/pts/"), "{transport}: {text}");
        assert!(text.contains("err\r\n") && text.contains("exit code 5"), "{transport}: {text}");
    }
    node.finish().await;
}

/// A certificate that signs itself, for localhost, with its key.
pub(crate) fn certificate(dir: &std::path::Path) {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args([
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]);
    openssl.arg("-keyout").arg(dir.join("key.pem")).arg("-out").arg(dir.join("cert.pem"));
    assert!(openssl.stderr(Stdio::null()).status().unwrap().success());
}

/// crictl wants a certificate of its own as well.
fn tls_options(ca: &std::path::Path, cert: &std::path::Path, key: &std::path::Path) -> [String; 6] {
    let path = |path: &std::path::Path| path.display().to_string();
    ["--tls-ca".into(), path(ca), "--tls-cert".into(), path(cert), "--tls-key".into(), path(key)]
}

#[tokio::test]
async fn tls_is_spoken_and_a_new_certificate_is_taken_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let mut node = Node::start_with(&format!(
        "streaming.tls_cert = \"{}\"\nstreaming.tls_key = \"{}\"\n",
        cert.display(),
        key.display()
    ))
    .await;
    node.pull(&pushed_busybox().await.reference).await.unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "streaming")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let old = std::fs::read(&cert).unwrap();
    for renewed in [false, true] {
        if renewed {
            certificate(dir.path());
        }
        for transport in TRANSPORTS {
            let options = tls_options(&cert, &cert, &key);
            let options: Vec<_> = options.iter().map(String::as_str).collect();
            let said = exec(&node, transport, &options, &[&id, "echo", "secret"], b"").await;
            let errors = String::from_utf8_lossy(&said.stderr).into_owned();
            assert_eq!(String::from_utf8_lossy(&said.stdout), "secret\n", "{transport}: {errors}");
        }
    }
    let stale = dir.path().join("old.pem");
    std::fs::write(&stale, old).unwrap();
    let options = tls_options(&stale, &cert, &key);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let said = exec(&node, "spdy", &options, &[&id, "true"], b"").await;
    assert!(!said.status.success(), "the old certificate is still shown");
    node.finish().await;
}
