//! `podd config`: defaults, drop-ins, and every mistake at once.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use toml::Table;

use crate::common::PATIENCE;

fn config(file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podd")).args(["config", "--config"]).arg(file).output().unwrap()
}

fn printed(file: &Path) -> Table {
    let out = config(file);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().parse().unwrap()
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("podd.toml");
    fs::write(&file, "").unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/podd.toml");
    let documented: Table = fs::read_to_string(&shipped).unwrap().parse().unwrap();
    assert_eq!(printed(&file), documented);
    assert_eq!(printed(&shipped), documented);
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (file, again) = (dir.path().join("podd.toml"), dir.path().join("again.toml"));
    fs::write(
        &file,
        "root = \"/srv/podd\"\nlog_level = \"debug\"\n[metrics]\naddress = \"127.0.0.1:9100\"\n",
    )
    .unwrap();
    fs::write(&again, config(&file).stdout).unwrap();
    assert_eq!(printed(&file)["root"].as_str(), Some("/srv/podd"));
    assert_eq!(printed(&again), printed(&file));
}

#[test]
fn drop_ins_come_over_the_file_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let (file, drop_ins) = (dir.path().join("podd.toml"), dir.path().join("podd.toml.d"));
    fs::create_dir(&drop_ins).unwrap();
    fs::write(&file, "log_level = \"error\"\nroot = \"/from/file\"\n").unwrap();
    fs::write(drop_ins.join("20-b.toml"), "log_level = \"debug\"\n").unwrap();
    fs::write(drop_ins.join("10-a.toml"), "log_level = \"warn\"\n").unwrap();
    let config = printed(&file);
    assert_eq!(config["log_level"].as_str(), Some("debug"));
    assert_eq!(config["root"].as_str(), Some("/from/file"));
}

#[test]
fn all_mistakes_are_reported_at_once_with_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("podd.toml");
    let text = "sokcet = \"/x\"\nlog_level = \"loud\"\ndefault_runtime = \"kata\"\n[images]\nmax_parallel_layers = \"four\"\n";
    fs::write(&file, text).unwrap();
    let out = config(&file);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success());
    for part in
        ["sokcet", "log_level", "debug", "default_runtime", "kata", "images.max_parallel_layers", "podd.toml"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_daemon_with_a_mistake_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("podd.toml");
    let run = dir.path().join("run");
    fs::write(&file, format!("run_dir = {run:?}\nlog_level = 3\n")).unwrap();
    let mut daemon = tokio::process::Command::new(env!("CARGO_BIN_EXE_podd"));
    let out = daemon.args(["serve", "--config"]).arg(&file).kill_on_drop(true).output();
    let out = tokio::time::timeout(PATIENCE, out).await.expect("it runs").unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("log_level"));
    assert!(!run.exists(), "it has made its directories all the same");
}

#[test]
fn a_missing_file_is_named() {
    let out = config(Path::new("/nonexistent/podd.toml"));
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("/nonexistent/podd.toml"));
}
