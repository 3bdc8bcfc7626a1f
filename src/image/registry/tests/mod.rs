//! The registry client against a registry with faults, and against a real one.

mod auth;
mod blobs;
mod endpoints;
mod fault;
mod manifests;
mod proxy;
mod real;
mod signatures;
mod tls;

use std::process::Command;

/// A test of this module in a process of its own, since the environment is a whole process's.
fn second_process(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("image::registry::tests::{test}"), "--ignored"]);
    command
}

/// Runs it.
async fn passes(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
