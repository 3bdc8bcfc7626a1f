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

/// Clients that only listen come and go; what one says all hear the answer of, and the container goes on without any.
#[tokio::test]
async fn several_are_attached_at_once_and_leave_without_stopping_the_container() {
    let script = "while read line; do echo got $line; [ $line = end ] && exit 0; done";
    let spec = ContainerSpec::script("c", script).with(|config| config.stdin = true);
    let (mut node, pod, id) = start(spec).await;
    let listener = |transport| {
        let mut command = node.crictl_command(&["attach", "--transport", transport, &id]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut listeners = [TRANSPORTS, TRANSPORTS].concat().into_iter().map(listener).collect::<Vec<_>>();
    let mut speaker = node
        .crictl_command(&["attach", "-i", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = speaker.stdin.take().unwrap();
    // They are attached when they hear something; one after the other until all have.
    let mut heard = vec![Vec::new(); listeners.len()];
    for n in 0.. {
        stdin.write_all(format!("{n}\n").as_bytes()).await.unwrap();
        for (listener, heard) in listeners.iter_mut().zip(&mut heard) {
            let reading = tokio::io::AsyncReadExt::read_buf(listener.stdout.as_mut().unwrap(), heard);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), reading).await;
        }
        if heard.iter().all(|heard| !heard.is_empty()) {
            break;
        }
        assert!(n < 600, "not all hear the container");
    }
    listeners.remove(0).kill().await.unwrap();
    heard.remove(0);
    assert_eq!(node.exec_ok(&id, "echo runs on").await, "runs on");
    stdin.write_all(b"end\n").await.unwrap();
    for (listener, heard) in listeners.into_iter().zip(heard) {
        let said = tokio::time::timeout(crate::common::PATIENCE, listener.wait_with_output());
        let said = said.await.expect("an attached client hangs").unwrap();
        let text = String::from_utf8([heard, said.stdout].concat()).unwrap();
        let numbers: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("got ")).collect();
        assert_eq!(numbers.last(), Some(&"end"), "{text}");
        let first: usize = numbers[0].parse().unwrap();
        let all = numbers[..numbers.len() - 1].iter().enumerate();
        all.for_each(|(at, number)| assert_eq!(number.parse(), Ok(first + at), "{text}"));
    }
    assert_eq!(node.wait_for_exit(&id).await.exit_code, 0);
    let log = std::fs::read_to_string(node.log_path(&pod, "c.log")).unwrap();
    assert!(log.contains("stdout F got end"), "{log}");
    node.finish().await;
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

/// The size of a terminal that changes while a command runs is the command's, too; so it is with attach.
#[tokio::test]
async fn a_terminal_changes_its_size_with_its_client() {
    let watch = "until stty size | grep -q '44 55'; do sleep 0.1; done; echo seen";
    let script = format!("until [ -e /tmp/go ]; do sleep 0.1; done; {watch}");
    let spec = ContainerSpec::script("c", &script).with(|config| (config.tty, config.stdin) = (true, true));
    let (mut node, pod, id) = start(spec).await;
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport, "-i", "-t", &id, "sh", "-c", watch];
        let said = in_a_terminal_that_changes(&node, &exec).await;
        assert!(said.contains("seen\r\n"), "{transport}: {said}");
    }
    node.exec_ok(&id, "touch /tmp/go").await;
    let said = in_a_terminal_that_changes(&node, &["attach", "-i", "-t", &id]).await;
    node.wait_for_exit(&id).await;
    let log = std::fs::read_to_string(node.log_path(&pod, "c.log")).unwrap();
    assert!(log.contains("stdout F seen"), "{log}\n{said}");
    node.finish().await;
}

/// Runs crictl in a terminal of 33 lines and 77 columns, which has 44 and 55 from a moment later on. It changes again and again:
/// a change between crictl's first look at the size and its watch for changes, a moment on a slow machine, escapes crictl.
async fn in_a_terminal_that_changes(node: &Node, words: &[&str]) -> String {
    let command = node.crictl_command(words);
    let words = std::iter::once(command.as_std().get_program()).chain(command.as_std().get_args());
    let words: Vec<_> = words.map(|word| format!("\"{}\"", word.to_string_lossy())).collect();
    let change = "while sleep 1 && stty rows 44 cols 56 && stty rows 44 cols 55; do :; done";
    let inside = format!("stty rows 33 cols 77; ({change}) </dev/tty 2>/dev/null & {}", words.join(" "));
    let mut script = tokio::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &inside, "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = script.spawn().unwrap();
    let held = child.stdin.take();
    let said = tokio::time::timeout(crate::common::PATIENCE, child.wait_with_output());
    let said = said.await.expect("crictl in a terminal hangs").unwrap();
    drop(held);
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// A certificate that signs itself, for localhost, with its key.
fn certificate(dir: &std::path::Path) {
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

/// A CA, and a certificate that it has signed, with their keys.
fn signed_certificate(dir: &std::path::Path) {
    let openssl = |words: &str| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
        openssl.args(words.split(' ')).current_dir(dir).stderr(Stdio::null());
        assert!(openssl.status().unwrap().success(), "{words}");
    };
    openssl("-subj /CN=ca -keyout ca.key -out ca.pem");
    let leaf = "-addext basicConstraints=critical,CA:FALSE";
    openssl(&format!("-subj /CN=client -CA ca.pem -CAkey ca.key {leaf} -keyout key.pem -out cert.pem"));
}

/// A request for nothing, by a client with that certificate or none; what comes back, or nothing where the handshake fails.
async fn asked_with(url: &str, certificate: Option<&std::path::Path>) -> String {
    let address = url.strip_prefix("https://").unwrap().split('/').next().unwrap();
    let mut client = tokio::process::Command::new("openssl");
    client.args(["s_client", "-quiet", "-connect", address]);
    if let Some(dir) = certificate {
        client.arg("-cert").arg(dir.join("cert.pem")).arg("-key").arg(dir.join("key.pem"));
    }
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = client.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(b"GET /exec/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let said = tokio::time::timeout(crate::common::PATIENCE, child.wait_with_output()).await;
    drop(stdin);
    String::from_utf8_lossy(&said.expect("openssl hangs").unwrap().stdout).into_owned()
}

#[tokio::test]
async fn with_a_ca_for_clients_only_those_that_it_has_signed_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let [server, kubelet, stranger] = ["server", "kubelet", "stranger"].map(|name| dir.path().join(name));
    for dir in [&server, &kubelet, &stranger] {
        std::fs::create_dir(dir).unwrap();
    }
    certificate(&server);
    signed_certificate(&kubelet);
    signed_certificate(&stranger);
    let ca = dir.path().join("ca.pem");
    std::fs::copy(kubelet.join("ca.pem"), &ca).unwrap();
    let file = |dir: &std::path::Path, name: &str| dir.join(name).display().to_string();
    let mut node = Node::start_with(&format!(
        "streaming.tls_cert = \"{}\"\nstreaming.tls_key = \"{}\"\nstreaming.tls_client_ca = \"{}\"\n",
        file(&server, "cert.pem"),
        file(&server, "key.pem"),
        ca.display()
    ))
    .await;
    node.pull(&pushed_busybox().await.reference).await.unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "streaming")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let url = node.exec_url(&id, &["true"], false).await;
    let served = |said: String| said.starts_with("HTTP/1.1 404");
    // At last the stranger is let in, and the kubelet no longer, without a restart.
    for (known, unknown) in [(&kubelet, &stranger), (&stranger, &kubelet)] {
        std::fs::copy(known.join("ca.pem"), &ca).unwrap();
        assert!(served(asked_with(&url, Some(known)).await));
        assert_eq!(asked_with(&url, Some(unknown)).await, "");
        assert_eq!(asked_with(&url, None).await, "");
        for transport in TRANSPORTS {
            let run = async |client: &std::path::Path| {
                let options =
                    tls_options(&server.join("cert.pem"), &client.join("cert.pem"), &client.join("key.pem"));
                let options: Vec<_> = options.iter().map(String::as_str).collect();
                exec(&node, transport, &options, &[&id, "echo", "secret"], b"").await
            };
            let said = run(known).await;
            assert_eq!(String::from_utf8_lossy(&said.stdout), "secret\n", "{transport}: {said:?}");
            let said = run(unknown).await;
            assert!(!said.status.success() && said.stdout.is_empty(), "{transport}: {said:?}");
        }
    }
    node.finish().await;
}
