//! `podd doctor`, `podd pods` and `podd top`, as an operator runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::terminal::Terminal;
use crate::common::{ContainerSpec, Node, PodSpec, oci_runtime};

fn podd(args: &[&str], config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podd"));
    command.args(args).arg("--config").arg(config).stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What `podd doctor --json` says, and whether its exit status says the same.
fn examined(output: &Output) -> Vec<Value> {
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let problems = document["summary"]["problem"].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(problems > 0)), "{document:#}");
    document["checks"].as_array().unwrap().clone()
}

fn outcome<'a>(checks: &'a [Value], id: &str) -> &'a str {
    let check = checks.iter().find(|check| check["id"] == id);
    check.unwrap_or_else(|| panic!("no {id} in {checks:#?}"))["outcome"].as_str().unwrap()
}

/// A container that is busy, so that there is something to be seen.
fn busy(name: &str) -> ContainerSpec {
    ContainerSpec::script(name, "trap 'exit 0' TERM; while :; do :; done")
}

#[tokio::test]
async fn the_doctor_finds_a_node_well() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "well")).await;
    node.run(&pod, ContainerSpec::waiting("c")).await;
    let output = podd(&["doctor", "--json"], &node.names.config_file());
    let checks = examined(&output);
    let problems: Vec<_> = checks.iter().filter(|check| check["outcome"] == "problem").collect();
    assert!(problems.is_empty(), "{problems:#?}");
    let runtime = format!("runtime.{}", oci_runtime());
    let well = [
        "config",
        "kernel.version",
        "kernel.overlayfs",
        "cgroup.controllers",
        "disk.root",
        &runtime,
        "monitor.binary",
        "network.config",
        "network.plugins",
        "files.policy",
        "files.registries",
        "daemon.answers",
        "daemon.runtime",
        "daemon.network",
        "daemon.streaming",
    ];
    for id in well {
        assert_eq!(outcome(&checks, id), "ok", "{id}: {checks:#?}");
    }
    // What lives is no leftover, whatever else there may be on this machine.
    assert!(!String::from_utf8_lossy(&output.stdout).contains(&pod.id), "{checks:#?}");
    let table = text(&podd(&["doctor"], &node.names.config_file()));
    assert!(table.lines().last().unwrap().starts_with("0 problems, "), "{table}");
    assert!(!table.contains('\u{1b}'), "colours where there is no terminal");
    node.finish().await;
}

#[tokio::test]
async fn the_doctor_needs_no_root_and_says_what_it_did_not_see() {
    let node = Node::start().await;
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        env!("CARGO_BIN_EXE_podd"),
        "doctor",
        "--json",
    ]);
    let output = command.arg("--config").arg(node.names.config_file()).output().unwrap();
    let checks = examined(&output);
    assert!(checks.iter().all(|check| check["outcome"] != "problem"), "{checks:#?}");
    for id in ["daemon.answers", "leftovers", "kernel.user-namespaces"] {
        let seen = checks.iter().find(|check| check["id"] == id).unwrap()["seen"].as_str().unwrap();
        assert!(seen.starts_with("could not be looked at"), "{id}: {seen}");
    }
    node.finish().await;
}

#[tokio::test]
async fn the_doctor_names_each_mistake_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("podd.toml");
    fs::write(&file, "sokcet = \"/x\"\nlog_level = \"loud\"\n").unwrap();
    let checks = examined(&podd(&["doctor", "--json"], &file));
    let mistakes: Vec<_> = checks.iter().filter(|check| check["id"] == "config").collect();
    assert_eq!(mistakes.len(), 2, "{checks:#?}");
    assert!(mistakes.iter().any(|check| check["seen"].as_str().unwrap().contains("sokcet")), "{mistakes:#?}");
    assert_eq!(outcome(&checks, "clock.time"), "ok");
}

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Written by another process: a child that another test makes meanwhile must not hold it open.
    let draft = path.with_extension("draft");
    fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
    let installed = Command::new("install").arg("-m755").arg(&draft).arg(path).status().unwrap();
    assert!(installed.success() && fs::metadata(path).unwrap().permissions().mode() & 0o111 != 0);
    fs::remove_file(draft).unwrap();
}

#[tokio::test]
async fn the_doctor_finds_what_is_missing_or_broken_or_hangs_in_bounded_time_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    script(&path("bin/hanging-runtime"), "sleep 1000");
    script(&path("plugins/hanging"), "sleep 1000");
    fs::create_dir(path("net.d")).unwrap();
    fs::write(path("net.d/10-broken.conflist"), r#"{"name": "broken", "plugins": "#).unwrap();
    let network = r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"hanging"},{"type":"loopback"}]}"#;
    fs::write(path("net.d/20-net.conflist"), network).unwrap();
    fs::write(path("policy.json"), "{").unwrap();
    let at = dir.path().display();
    let config = format!(
        "root = \"{at}/root\"\nrun_dir = \"{at}/run\"\ndefault_runtime = \"gone\"\n\
         [runtimes.gone]\npath = \"{at}/bin/gone\"\n[runtimes.hangs]\npath = \"{at}/bin/hanging-runtime\"\n\
         [network]\nconf_dir = \"{at}/net.d\"\nplugin_dirs = [\"{at}/plugins\"]\nnetns_dir = \"{at}/netns\"\n\
         [images]\npolicy = \"{at}/policy.json\"\n[monitor]\npath = \"{at}/no-monitor\"\n",
    );
    fs::write(path("podd.toml"), config).unwrap();
    let began = Instant::now();
    let checks = examined(&podd(&["doctor", "--json"], &path("podd.toml")));
    assert!(began.elapsed() < Duration::from_secs(60), "it took {:?}", began.elapsed());
    let expected = [
        ("runtime.gone", "problem", "gone"),
        ("runtime.hangs", "problem", "did not end within"),
        ("network.file", "warning", "10-broken.conflist"),
        ("network.config", "ok", "20-net.conflist"),
        ("network.plugin.hanging", "problem", "time was up"),
        ("files.policy", "problem", "policy.json"),
        ("monitor.binary", "problem", "no-monitor"),
        ("daemon.answers", "warning", "no daemon runs"),
    ];
    for (id, outcome, part) in expected {
        let check =
            checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("{id}: {checks:#?}"));
        assert_eq!(check["outcome"], outcome, "{check:#}");
        assert!(check["seen"].as_str().unwrap().contains(part), "{check:#}");
        assert!(outcome == "ok" || !check["do"].as_str().unwrap().is_empty(), "{check:#}");
    }
    for made in ["root", "run", "netns"] {
        assert!(!path(made).exists(), "the doctor has made {made}");
    }
}

#[tokio::test]
async fn the_doctor_sees_what_a_pod_without_a_record_has_left() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "lost")).await;
    node.kill9();
    let record = node.names.run_dir().join("pods").join(&pod.id);
    let aside = node.names.dir().join("aside");
    assert!(Command::new("mv").arg(&record).arg(&aside).status().unwrap().success());
    let checks = examined(&podd(&["doctor", "--json"], &node.names.config_file()));
    for id in ["leftovers.namespaces", "leftovers.mounts", "leftovers.addresses"] {
        assert_eq!(outcome(&checks, id), "warning");
    }
    assert_eq!(outcome(&checks, "daemon.answers"), "warning");
    assert!(
        node.names.root().join("cni").join(format!("{}.json", pod.id)).exists(),
        "the doctor has removed it"
    );
    assert!(Command::new("mv").arg(&aside).arg(&record).status().unwrap().success());
    node.start_again().await;
    node.finish().await;
}

#[tokio::test]
async fn pods_are_listed_and_one_is_told_of_with_the_timeline_of_its_start() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "shown")).await;
    node.run(&pod, ContainerSpec::waiting("first")).await;
    let again = ContainerSpec::waiting("second").with(|config| {
        config.metadata.as_mut().unwrap().attempt = 2;
    });
    node.create(&pod, again).await;
    let config = node.names.config_file();
    let listed = text(&podd(&["pods"], &config));
    let row = listed.lines().find(|line| line.contains("shown")).unwrap_or_else(|| panic!("{listed}"));
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[..4], [&pod.id[..13], "shown", "tests", "ready"], "{listed}");
    assert!(words[5].starts_with(&node.names.subnet), "{listed}");
    assert_eq!(words[6..], ["1/2", "2"], "{listed}");

    let shown = text(&podd(&["pods", "shown"], &config));
    for part in ["tests/shown", &pod.id, "first", "second", "created", "running", "app=shown", "Start: "] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let chart = &shown[shown.find("Start: ").unwrap()..];
    assert!(chart.contains('█') && chart.contains("bridge") && chart.contains(" ms"), "{shown}");
    assert_eq!(text(&podd(&["pods", &pod.id[..20]], &config)).lines().next(), shown.lines().next());
    let missing = podd(&["pods", "nobody"], &config);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("nobody"));
    node.finish().await;
}

#[tokio::test]
async fn without_a_daemon_the_views_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("podd.toml");
    fs::write(&file, "").unwrap();
    let socket = dir.path().join("nobody.sock");
    for view in ["pods", "top"] {
        let output = podd(&[view, "--socket", socket.to_str().unwrap()], &file);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("nobody.sock") && said.contains("No such file"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn top_prints_one_table_where_there_is_no_terminal() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "idle")).await;
    node.run(&pod, ContainerSpec::waiting("waits")).await;
    let pod = node.run_pod(PodSpec::new(&node, "works")).await;
    node.run(&pod, busy("hard")).await;
    let socket = format!("unix://{}", node.names.socket().display());
    let table =
        text(&podd(&["top", "--once", "--interval", "1", "--socket", &socket], &node.names.config_file()));
    let lines: Vec<_> = table.lines().collect();
    let titles: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(titles, ["POD", "STATE", "AGE", "CPU", "MEMORY", "IN/s", "OUT/s", "DISK", "IO%", "PIDS"]);
    // Who works most comes first.
    let names: Vec<_> = lines[1..].iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["tests/works", "hard", "tests/idle", "waits"], "{table}");
    let cpu =
        |line: &str| line.split_whitespace().nth(3).unwrap().trim_end_matches('m').parse::<u64>().unwrap();
    assert!(cpu(lines[2]) > 20 && cpu(lines[1]) >= cpu(lines[4]), "{table}");
    let memory = lines[2].split_whitespace().nth(4).unwrap();
    assert!(memory.ends_with("kB") || memory.ends_with("MB"), "{table}");
    assert_eq!(
        text(&podd(&["top", "--interval", "1"], &node.names.config_file())).lines().next(),
        table.lines().next()
    );
    node.finish().await;
}

#[tokio::test]
async fn top_lives_on_a_terminal_follows_its_size_and_gives_it_back() {
    let mut node = Node::start().await;
    for name in ["one", "two", "three"] {
        let pod = node.run_pod(PodSpec::new(&node, name)).await;
        node.run(&pod, busy("c")).await;
    }
    let config = node.names.config_file();
    let mut terminal = Terminal::new(100, 20);
    let before = terminal.settings();
    let args = ["top", "--interval", "1", "--config", config.to_str().unwrap()];
    terminal.run(Path::new(env!("CARGO_BIN_EXE_podd")), &args);
    let screen =
        terminal.screen("all pods", |screen| screen.iter().any(|line| line.contains("tests/three"))).await;
    assert_eq!(screen.len(), 20, "{screen:#?}");
    assert!(screen[0].contains("pods 3/3") && screen[2].starts_with("POD "), "{screen:#?}");
    assert_ne!(terminal.settings(), before);
    terminal.screen("rates", |screen| screen[0].contains("cpu") && !screen[0].contains("cpu -")).await;

    terminal.press("s");
    terminal.screen("another order", |screen| screen.last().unwrap().contains("sort: memory")).await;
    terminal.resize(60, 7);
    let screen = terminal.screen("a small screen", |screen| screen.len() == 7).await;
    assert!(screen.iter().all(|line| line.chars().count() <= 60), "{screen:#?}");
    assert!(screen[6].contains("1-3 of 6"), "{screen:#?}");
    terminal.press("jj\u{1b}[B");
    terminal.screen("the last rows", |screen| screen.last().unwrap().contains("4-6 of 6")).await;
    terminal.press("k");
    terminal.screen("one up", |screen| screen.last().unwrap().contains("3-5 of 6")).await;

    node.kill9();
    terminal.resize(120, 20);
    let screen = terminal.screen("what is wrong", |screen| screen.len() == 20 && !screen[1].is_empty()).await;
    assert!(screen.iter().any(|line| line.contains("tests/three")), "what was seen last stays: {screen:#?}");
    node.start_again().await;
    terminal.screen("all well again", |screen| screen[1].is_empty()).await;

    terminal.press("q");
    assert!(terminal.ended().await.success());
    assert_eq!(terminal.settings(), before);
    terminal.ends_with("the screen given back", "\u{1b}[?25h\u{1b}[?1049l").await;
    node.finish().await;
}

#[tokio::test]
async fn top_gives_the_terminal_back_when_it_is_ended_by_a_signal() {
    let node = Node::start().await;
    let config = node.names.config_file();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::HUP] {
        let mut terminal = Terminal::new(80, 24);
        let before = terminal.settings();
        terminal.run(Path::new(env!("CARGO_BIN_EXE_podd")), &["top", "--config", config.to_str().unwrap()]);
        terminal.screen("no pods", |screen| screen.last().unwrap().contains("no pods")).await;
        terminal.signal(signal);
        terminal.ended().await;
        assert_eq!(terminal.settings(), before);
        terminal.ends_with("the screen given back", "\u{1b}[?25h\u{1b}[?1049l").await;
    }
    node.finish().await;
}
