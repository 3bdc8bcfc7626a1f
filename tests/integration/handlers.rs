//! What a handler's settings, and those for all containers, do to a container; runtimes of several kinds beside each other.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podd::api;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::common::requests::{Pod, log_text};
use crate::common::terminal::Terminal;
use crate::common::{ContainerSpec, Node, PodSpec, eventually, oci_runtime, program};

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("podd-test-").tempdir().unwrap()
}

/// Runs a pod with the runtime of a handler.
pub(crate) async fn pod_of(node: &mut Node, handler: &str, spec: PodSpec) -> Pod {
    let config = spec.0;
    let request =
        api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
    let id = node.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    node.remember(&id);
    Pod { id, config }
}

/// A handler `own` with the runtime of this run of the tests, as a line of `podd.toml`.
pub(crate) fn own_handler(settings: &str) -> String {
    format!("runtimes.own = {{ path = {:?}, {settings} }}\n", program(&oci_runtime()))
}

/// A script that notes its arguments, and calls a real runtime with those but `--mark`.
fn wrapper(dir: &Path, name: &str, before: &str) -> PathBuf {
    let path = dir.join(name);
    let real = program(&oci_runtime());
    let log = dir.join(format!("{name}.log"));
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo {name} 9.9; exit; }}\necho \"$@\" >>{}\n{before}\nfor a; do shift; [ \"$a\" = --mark ] || set -- \"$@\" \"$a\"; done\nexec {} \"$@\"\n",
        log.display(),
        real.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A third runtime, if the run of the tests has one: `PODD_TEST_YOUKI`.
fn youki() -> Option<PathBuf> {
    std::env::var_os("PODD_TEST_YOUKI").filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[tokio::test]
async fn runtimes_of_several_kinds_serve_pods_of_one_daemon() {
    let dir = directory();
    let wrapped = wrapper(dir.path(), "wrapped", "");
    let mut settings = format!("runtimes.wrapped = {{ path = {wrapped:?}, args = [\"--mark\"] }}\n");
    let mut handlers = vec!["wrapped".to_owned()];
    for runtime in ["crun", "runc"] {
        let handler = format!("with-{runtime}");
        settings += &format!("runtimes.{handler}.path = {:?}\n", program(runtime));
        handlers.push(handler);
    }
    if let Some(youki) = youki() {
        settings += &format!("runtimes.youki = {{ path = {youki:?}, kind = \"other\" }}\n");
        handlers.push("youki".to_owned());
    }
    let mut node = Node::start_with(&settings).await;
    for handler in &handlers {
        let spec = PodSpec::new(&node, &format!("pod-{handler}"));
        let pod = pod_of(&mut node, handler, spec).await;
        let script = "echo begun; trap 'echo told; exit 3' TERM; while :; do sleep 0.1; done";
        let id = node.run(&pod, ContainerSpec::script("c", script)).await;
        let log = node.log_path(&pod, "c.log");
        eventually("the first line", || async { log_text(&log, "stdout").contains("begun").then_some(()) })
            .await;
        assert_eq!(
            node.exec_ok(&id, "echo from $(hostname)").await,
            format!("from pod-{handler}"),
            "{handler}"
        );
        let failed = node.exec(&id, "echo wrong >&2; exit 7", 10).await.unwrap();
        assert_eq!((failed.code, failed.err.as_str()), (7, "wrong\n"), "{handler}");
        node.stop_container(&id, 30).await.unwrap();
        let status = node.container_status(&id).await.unwrap();
        assert_eq!((status.exit_code, log_text(&log, "stdout").as_str()), (3, "begun\ntold\n"), "{handler}");
        let killed =
            node.run(&pod, ContainerSpec::script("k", "trap '' TERM; while :; do sleep 0.1; done")).await;
        node.stop_container(&killed, 0).await.unwrap();
        assert_eq!(node.container_status(&killed).await.unwrap().exit_code, 137, "{handler}");
        node.remove_container(&id).await.unwrap();
        let status = node.pod_status(&pod.id).await.unwrap();
        assert_eq!(status.runtime_handler, *handler);
    }
    let calls = fs::read_to_string(dir.path().join("wrapped.log")).unwrap();
    for operation in ["create", "start", "exec", "delete"] {
        let found = calls.lines().any(|call| {
            call.split_once("--mark").is_some_and(|(_, rest)| rest.split(' ').any(|word| word == operation))
        });
        assert!(found, "{operation} came without the handler's args:\n{calls}");
    }
    node.finish().await;
}

/// A busy daemon may find that the runtime, and with crun the command as well, have ended before it takes the terminal.
#[tokio::test]
async fn a_terminal_is_taken_after_the_end_of_who_handed_it_over() {
    let dir = directory();
    let begun = dir.path().join("begun");
    let pause = format!("case \" $* \" in *\" exec \"*) touch {}; sleep 1;; esac", begun.display());
    let slow = wrapper(dir.path(), "slow", &pause);
    let kind = oci_runtime();
    let mut node =
        Node::start_with(&format!("runtimes.slow = {{ path = {slow:?}, kind = \"{kind}\" }}\n")).await;
    let spec = PodSpec::new(&node, "pod");
    let pod = pod_of(&mut node, "slow", spec).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let daemon = Pid::from_raw(node.daemon_pid().try_into().unwrap()).unwrap();
    for _ in 0..4 {
        let crictl = node.crictl_command(&["exec", "-i", "-t", &id, "sh", "-c", "echo heard; exit 3"]);
        let words = crictl.as_std().get_args().map(|word| word.to_str().unwrap()).collect::<Vec<_>>();
        let mut terminal = Terminal::new(80, 24);
        terminal.run(Path::new(crictl.as_std().get_program()), &words);
        eventually("the runtime's start", || async { begun.exists().then_some(()) }).await;
        kill_process(daemon, Signal::STOP).unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        kill_process(daemon, Signal::CONT).unwrap();
        terminal.ended().await;
        terminal.says("heard\r\n").await;
        terminal.says("exit code 3").await;
        fs::remove_file(&begun).unwrap();
    }
    node.finish().await;
}

#[tokio::test]
async fn a_create_that_takes_too_long_is_ended_after_the_handlers_time() {
    let dir = directory();
    let slow = wrapper(dir.path(), "slow", "case \" $* \" in *\" create \"*) sleep 60;; esac");
    let settings = format!("runtimes.slow = {{ path = {slow:?}, create_timeout_seconds = 1 }}\n");
    let mut node = Node::start_with(&settings).await;
    let spec = PodSpec::new(&node, "pod");
    let pod = pod_of(&mut node, "slow", spec).await;
    let began = std::time::Instant::now();
    let refused = node.try_create(&pod, ContainerSpec::waiting("c")).await.unwrap_err();
    assert!(refused.message().contains("slow create did not end within 1s"), "{refused:?}");
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    node.finish().await;
}

#[tokio::test]
async fn a_handlers_document_and_annotations_are_what_its_containers_start_from() {
    let dir = directory();
    let base = dir.path().join("base.json");
    let document = json!({
        "ociVersion": "1.0.2",
        "process": {
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["FROM_BASE=1", "BOTH=base"],
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 4096, "hard": 8192}],
        },
        "mounts": [{"destination": "/extra", "type": "tmpfs", "source": "extra", "options": ["size=64k"]}],
        "linux": {"sysctl": {"net.ipv4.ip_unprivileged_port_start": "77"}, "resources": {"pids": {"limit": 55}}},
    });
    fs::write(&base, document.to_string()).unwrap();
    let settings =
        own_handler(&format!("base_spec = {base:?}, default_annotations = {{ \"a.io/x\" = \"handler\" }}"));
    let mut node = Node::start_with(&settings).await;
    let spec = PodSpec::new(&node, "pod");
    let pod = pod_of(&mut node, "own", spec).await;
    let script = "echo $FROM_BASE $BOTH; ulimit -c; ulimit -Hc; df -k /extra | tail -n 1 | tr -s ' ' | cut -d ' ' -f 1,2; \
                  cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let spec = ContainerSpec::script("c", script).with(|config| {
        config.envs = vec![api::KeyValue { key: "BOTH".into(), value: "client".into() }];
    });
    let (code, out) = node.run_to_end(&pod, spec).await;
    // Of busybox, which counts core files in blocks of 512 bytes.
    assert_eq!((code, out.as_str()), (0, "1 client\n8\n16\nextra 64\n77\n"));
    let id = node.run(&pod, ContainerSpec::waiting("d")).await;
    let request = api::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let info = node.runtime.container_status(request).await.unwrap().into_inner().info;
    let info: Value = serde_json::from_str(&info["info"]).unwrap();
    let spec = &info["runtimeSpec"];
    assert_eq!(spec["annotations"]["a.io/x"], "handler");
    assert_eq!(spec["linux"]["resources"]["pids"]["limit"], 55);
    node.finish().await;
}

#[tokio::test]
async fn variables_and_limits_of_the_operator_hold_for_executed_commands_too() {
    let settings = "containers.env = [\"FOR_ALL=yes\", \"FROM_IMAGE=lost\"]\ncontainers.ulimits = [\"core=51200:102400\"]\n";
    let mut node = Node::start_with(settings).await;
    let spec = PodSpec::new(&node, "pod");
    let pod = pod_of(&mut node, "", spec).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let seen = node
        .exec_ok(&id, "echo $FOR_ALL $FROM_IMAGE; ulimit -Sc; ulimit -Hc; grep 'core file' /proc/1/limits")
        .await;
    let mut lines = seen.lines();
    assert_eq!(lines.next(), Some("yes yes"), "{seen}");
    assert_eq!((lines.next(), lines.next()), (Some("100"), Some("200")), "{seen}");
    let first: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(first[4..6], ["51200", "102400"], "{seen}");
    node.finish().await;
}

#[tokio::test]
async fn hooks_of_the_node_run_for_the_containers_that_they_are_for() {
    let dir = directory();
    let told = dir.path().join("told");
    let hook = |name: &str, when: Value, stages: Value| {
        let script = format!("cat >/dev/null; echo {name} >>{}", told.display());
        let program = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
        let document = json!({"version": "1.0.0", "hook": program, "when": when, "stages": stages});
        fs::write(dir.path().join(format!("{name}.json")), document.to_string()).unwrap();
    };
    let annotated = json!({"annotations": {"^tests/trace$": "^on$"}});
    hook("always", json!({"always": true}), json!(["createRuntime"]));
    hook("annotated", annotated, json!(["poststart", "poststop"]));
    let mut node = Node::start_with(&format!("containers.hooks_dirs = [{:?}]\n", dir.path())).await;
    let spec = PodSpec::new(&node, "pod");
    let pod = pod_of(&mut node, "", spec).await;
    node.run_to_end(&pod, ContainerSpec::script("plain", "true")).await;
    assert_eq!(fs::read_to_string(&told).unwrap(), "always\n");
    let spec = ContainerSpec::waiting("traced").with(|config| {
        config.annotations = HashMap::from([("tests/trace".to_owned(), "on".to_owned())]);
    });
    let id = node.run(&pod, spec).await;
    assert_eq!(fs::read_to_string(&told).unwrap(), "always\nalways\nannotated\n");
    node.stop_container(&id, 10).await.unwrap();
    let lines = || fs::read_to_string(&told).unwrap().lines().count();
    eventually("the hook after the end", || async { (lines() == 4).then_some(()) }).await;
    hook("broken", json!({"commands": ["("]}), json!(["prestart"]));
    let refused = node.try_create(&pod, ContainerSpec::waiting("c")).await.unwrap_err();
    assert!(refused.message().contains("broken.json: when.commands: \"(\" is not a pattern"), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_handlers_document_that_cannot_be_used_stops_the_start() {
    let dir = directory();
    let mut node = Node::start().await;
    let status = node.terminate().await;
    assert!(status.success());
    let config = node.names.config_file();
    let good = fs::read_to_string(&config).unwrap();
    let base = dir.path().join("base.json");
    fs::write(&base, "{").unwrap();
    fs::write(&config, own_handler(&format!("base_spec = {base:?}")) + &good).unwrap();
    let out = node.start_second().await;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("the value of runtimes.own.base_spec: EOF"), "{text}");
    fs::write(&config, format!("containers.hooks_dirs = [{base:?}]\n{good}")).unwrap();
    let out = node.start_second().await;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("use the hooks of containers.hooks_dirs"), "{text}");
    fs::write(&config, good).unwrap();
    node.start_again().await;
    node.finish().await;
}
