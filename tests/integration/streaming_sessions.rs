//! Exec sessions that are many, long, slow, silent or broken off; and what they leave in the daemon.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::common::image::pushed_busybox;
use crate::common::session::Held;
use crate::common::{ContainerSpec, Node, PATIENCE, PodSpec, eventually};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

async fn start_with(settings: &str) -> (Node, String) {
    let mut node = Node::start_with(settings).await;
    node.pull(&pushed_busybox().await.reference).await.unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "sessions")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    (node, id)
}

fn crictl_exec(node: &Node, transport: &str, words: &[&str]) -> tokio::process::Command {
    let mut command = node.crictl_command(&[&["exec", "--transport", transport], words].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn ended(what: &str, child: tokio::process::Child) -> Output {
    timeout(PATIENCE, child.wait_with_output()).await.unwrap_or_else(|_| panic!("{what} hangs")).unwrap()
}

/// Runs so many short sessions, some at a time; all must tell their output and their exit code.
async fn many(node: &Node, id: &str, count: usize) {
    let mut sessions = JoinSet::new();
    for n in 0..count {
        let script = format!("read line; echo $line {n}; echo {n} >&2; exit {}", n % 2);
        let url = node.exec_url(id, &["sh", "-c", &script], true).await;
        sessions.spawn(async move {
            let mut session = crate::common::session::Session::open(&url).await;
            session.say(b"line\n").await;
            session.end_input().await;
            let said = session.finish().await;
            let (out, err) = (String::from_utf8(said.out).unwrap(), String::from_utf8(said.err).unwrap());
            let status = if n % 2 == 0 { "Success" } else { "1" };
            assert_eq!((out, err, said.status.as_str()), (format!("line {n}\n"), format!("{n}\n"), status));
        });
        if sessions.len() >= 8 {
            sessions.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = sessions.join_next().await {
        done.unwrap();
    }
}

/// So many sessions of the Go client, two at a time.
async fn many_by_crictl(node: &Node, id: &str, count: usize) {
    let mut sessions = JoinSet::new();
    for n in 0..count {
        let child = crictl_exec(node, TRANSPORTS[n % 2], &[id, "echo", &n.to_string()]).spawn().unwrap();
        sessions.spawn(async move {
            let said = ended("crictl exec", child).await;
            let errors = String::from_utf8_lossy(&said.stderr).into_owned();
            assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{n}\n"), "{errors}");
        });
        if sessions.len() >= 2 {
            sessions.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = sessions.join_next().await {
        done.unwrap();
    }
}

/// Sessions whose clients leave in the middle, without a word.
async fn many_broken_off(node: &Node, id: &str, count: usize) {
    for n in 0..count {
        let mut session = node.session(id, &["cat"], true).await;
        session.say(b"x").await;
        assert_eq!(session.hear().await, b"x", "session {n}");
    }
}

async fn held_again(node: &Node, id: &str, before: &Held) {
    eventually(&format!("no more than {before:?}"), || async {
        Held::by(node, id).is_within(before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn thousands_of_short_sessions_leave_nothing_in_the_daemon() {
    let (mut node, id) = start_with("").await;
    many(&node, &id, 200).await;
    many_broken_off(&node, &id, 5).await;
    many_by_crictl(&node, &id, 4).await;
    let before = Held::by(&node, &id);
    let began = Instant::now();
    many(&node, &id, 2000).await;
    println!("2000 sessions in {:?}", began.elapsed());
    held_again(&node, &id, &before).await;
    many_broken_off(&node, &id, 100).await;
    held_again(&node, &id, &before).await;
    many_by_crictl(&node, &id, 200).await;
    held_again(&node, &id, &before).await;
    // What read from a client that has left has seen its end.
    assert_eq!(node.exec_ok(&id, "pidof cat | wc -w").await, "0");
    node.finish().await;
}

/// A directory that is copied into the container and out again as `kubectl cp` does it, by tar on both sides.
#[tokio::test]
async fn a_gigabyte_is_copied_in_and_out_as_kubectl_does() {
    const MEBIBYTES: usize = 1024;
    let (node, id) = start_with("").await;
    let dir = tempfile::tempdir_in(node.names.dir()).unwrap();
    let at = dir.path().display();
    let made = format!("head -c {MEBIBYTES}M /dev/urandom >{at}/blob; seq 1000000 >{at}/text");
    shell(&made).await;
    for transport in TRANSPORTS {
        let crictl = quoted(&crictl_exec(&node, transport, &[]));
        let began = (Instant::now(), processor_time(&node));
        shell(&format!("tar cf - -C {at} blob text | {crictl} -i {id} tar xmf - -C /tmp")).await;
        let copied = (Instant::now(), processor_time(&node));
        shell(&format!("mkdir {at}/back; {crictl} {id} tar cf - -C /tmp blob text | tar xf - -C {at}/back"))
            .await;
        let back = (Instant::now(), processor_time(&node));
        shell(&format!("cmp {at}/blob {at}/back/blob; cmp {at}/text {at}/back/text; rm -r {at}/back")).await;
        println!(
            "{transport}: in {:.2?}, {:.2} s of the daemon's processor time; out {:.2?}, {:.2} s",
            copied.0 - began.0,
            copied.1 - began.1,
            back.0 - copied.0,
            back.1 - copied.1
        );
    }
    drop(dir);
    node.finish().await;
}

/// What a command's words are, for a shell.
fn quoted(command: &tokio::process::Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

async fn shell(script: &str) {
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).kill_on_drop(true);
    let status = timeout(PATIENCE * 5, bash.status()).await.unwrap_or_else(|_| panic!("{script} hangs"));
    assert!(status.unwrap().success(), "{script}");
}

/// Of the daemon, in seconds.
fn processor_time(node: &Node) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.daemon_pid())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// The memory of the daemon stays where it is while much waits for a reader that does not read, and nothing of it is lost.
#[tokio::test]
async fn a_slow_reader_on_either_side_holds_up_the_other_and_not_the_daemon() {
    const MEBIBYTES: usize = 200;
    let (node, id) = start_with("").await;
    let command = format!("head -c {} /dev/zero", MEBIBYTES << 20);
    let before = Held::by(&node, &id).memory;
    let bounded = |when: &str| {
        let grown = Held::by(&node, &id).memory.saturating_sub(before);
        assert!(grown < 20 << 10, "{when}: {grown} KiB of memory");
    };
    let session = node.session(&id, &["sh", "-c", &command], false).await;
    let mut children = Vec::new();
    for transport in TRANSPORTS {
        children.push(crictl_exec(&node, transport, &[&id, "sh", "-c", &command]).spawn().unwrap());
    }
    // Long enough for all of it, if it were taken.
    sleep(Duration::from_secs(2)).await;
    bounded("nobody reads what a command writes");
    assert_eq!(session.finish().await.out.len(), MEBIBYTES << 20);
    for child in children {
        assert_eq!(ended("crictl exec", child).await.stdout.len(), MEBIBYTES << 20);
    }
    for transport in TRANSPORTS {
        let script = "until [ -e /tmp/read ]; do sleep 0.1; done; rm /tmp/read; wc -c";
        let mut child = crictl_exec(&node, transport, &["-i", &id, "sh", "-c", script]).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeding = tokio::spawn(async move {
            for _ in 0..MEBIBYTES {
                stdin.write_all(&vec![7; 1 << 20]).await.unwrap();
            }
        });
        sleep(Duration::from_secs(2)).await;
        assert!(!feeding.is_finished(), "{transport}: all was taken though nobody reads");
        bounded("a command does not read");
        assert_eq!(exec_status(&node, &id, "touch /tmp/read").await, "Success");
        let said = ended("crictl exec", child).await;
        assert_eq!(
            String::from_utf8_lossy(&said.stdout).trim(),
            (MEBIBYTES << 20).to_string(),
            "{transport}"
        );
    }
    node.finish().await;
}

async fn exec_status(node: &Node, id: &str, script: &str) -> String {
    node.session(id, &["sh", "-c", script], false).await.finish().await.status
}

#[tokio::test]
async fn a_session_ends_with_its_container() {
    let (mut node, id) = start_with("").await;
    let mut children = Vec::new();
    for transport in TRANSPORTS {
        let mut child =
            crictl_exec(&node, transport, &["-i", &id, "sh", "-c", "echo up; cat"]).spawn().unwrap();
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).await.unwrap();
        children.push(child);
    }
    let held = children.iter_mut().map(|child| child.stdin.take()).collect::<Vec<_>>();
    node.stop_container(&id, 0).await.unwrap();
    for child in children {
        let said = ended("the session of a container that is gone", child).await;
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(errors.contains("exit code 137"), "{errors}");
    }
    drop(held);
    node.finish().await;
}

/// B29
#[tokio::test]
async fn a_silent_session_ends_in_time_and_one_that_speaks_does_not() {
    let (mut node, id) = start_with("streaming.idle_timeout_seconds = 2\n").await;
    for transport in TRANSPORTS {
        let mut silent = crictl_exec(&node, transport, &["-i", &id, "cat"]).spawn().unwrap();
        let input = silent.stdin.take();
        let began = Instant::now();
        ended("a silent session", silent).await;
        assert!(began.elapsed() >= Duration::from_secs(2), "{transport}: {:?}", began.elapsed());
        drop(input);
        let script = "for n in 1 2 3 4 5 6 7 8; do sleep 0.7; echo $n; done";
        let talking = crictl_exec(&node, transport, &[&id, "sh", "-c", script]).spawn().unwrap();
        let said = ended("a session that speaks", talking).await;
        assert_eq!(String::from_utf8_lossy(&said.stdout).lines().count(), 8, "{transport}: {said:?}");
    }
    assert!(node.log().contains("idle for too long"));
    eventually("the end of what silent clients have started", || {
        let mut client = node.runtime.clone();
        let cmd = ["/bin/sh", "-c", "pidof cat | wc -w"].map(str::to_owned).to_vec();
        let request = podd::api::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 10 };
        async move {
            let left = client.exec_sync(request).await.unwrap().into_inner().stdout;
            (left.trim_ascii() == b"0").then_some(())
        }
    })
    .await;
    assert_eq!(node.exec_ok(&id, "echo still").await, "still");
    node.finish().await;
}

#[tokio::test]
async fn signals_are_told_as_a_shell_tells_them() {
    let (node, id) = start_with("").await;
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("INT", 130), ("SEGV", 139), ("HUP", 129)] {
        assert_eq!(exec_status(&node, &id, &format!("kill -{signal} $$")).await, code.to_string());
    }
    node.finish().await;
}
