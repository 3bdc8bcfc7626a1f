//! podd-monitor: the parent of one container's init.
//!
//! It runs `<runtime> create`, holds the container's standard streams, writes its CRI log and records its end, without
//! the daemon. It has one thread, does not allocate while it logs, and only SIGKILL ends it before its container.
//!
//! ```text
//!   run -> receive settings -> create (child -> overlay -> <runtime> create) -> serve (output -> log, control) -> exit
//! ```

mod child;
mod control;
mod create;
mod exit;
mod failure;
mod furnish;
mod listeners;
mod log;
mod mapped;
mod output;
mod overlay;
mod pause;
mod reaper;
mod run;
mod serve;
mod stdio;
mod sys;
mod volumes;
mod words;

use std::env;
use std::io;
use std::process::ExitCode;

use podd_monitor::protocol::VERSION;

const USAGE: &str = "usage: podd-monitor run CONTAINER-ID    (started by podd)
       podd-monitor pause
       podd-monitor --version";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        // The ID is for whoever reads a list of processes.
        ["run", _id] => finish(run::run()),
        ["pause"] => finish(pause::pause()),
        ["--version"] => {
            println!("podd-monitor {} (protocol {VERSION})", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podd-monitor: {error}");
            ExitCode::FAILURE
        }
    }
}
