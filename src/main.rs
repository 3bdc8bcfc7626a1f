//! The command line of podd.

mod cli;
mod daemon;
mod reload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use podd::config::{self, Config, LogLevel};
use podd::{cri, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// Worker threads of the async pool: requests are few and short, blocking work has threads of its own.
const WORKERS: usize = 2;

/// A container runtime for Kubernetes nodes and nothing else.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the CRI in the foreground.
    Serve(Sources),
    /// Print the effective configuration, commented.
    Config(Sources),
    /// The images of this node: list, import, export, adopt, check.
    Images(cli::ImagesArgs),
    /// The pods of this node; of one, its containers and where its start went.
    Pods(cli::PodsArgs),
    /// What pods and containers use, live.
    Top(cli::TopArgs),
    /// Check this node, and say what to do; exit status 1 if there is a problem.
    Doctor(cli::DoctorArgs),
}

#[derive(Args, Clone)]
struct Sources {
    /// The configuration file; its drop-ins are in the directory of the same name with ".d".
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Sets a key over the files, as in --set network.conf_dir=/etc/cni/net.d; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    /// The same as --set log_level=LEVEL.
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
}

impl Sources {
    fn load(self) -> Result<Config, config::ConfigError> {
        let level = self.log_level.map(|level| format!("log_level={level}"));
        let settings: Vec<_> = self.set.into_iter().chain(level).collect();
        config::load(self.config.as_deref(), &settings)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("podd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false` is exit status 1 without an error.
fn run(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Command::Config(sources) => {
            print!("{}", config::render(&sources.load()?));
            Ok(true)
        }
        Command::Serve(sources) => serve(sources).map(|()| true),
        Command::Images(args) => {
            telemetry::start_plain(LogLevel::Warn);
            cli::images(args)
        }
        Command::Pods(args) => async_runtime()?.block_on(cli::pods(args)).map(|()| true),
        Command::Top(args) => async_runtime()?.block_on(cli::top(args)).map(|()| true),
        Command::Doctor(args) => {
            telemetry::start_plain(LogLevel::Error);
            cli::doctor(args)
        }
    }
}

fn async_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("podd")
        .enable_all()
        .build()
        .context("starting the async runtime")
}

fn serve(sources: Sources) -> anyhow::Result<()> {
    let config = sources.clone().load()?;
    async_runtime()?.block_on(async {
        let telemetry = telemetry::start(&config).context("starting the log and the traces")?;
        let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let reloads = reload::watch(sources, config.clone(), telemetry)?;
        // Not on this thread: it gets the orphans, and must have no children of its own making.
        let daemon = tokio::spawn(daemon::start(config)).await.context("starting")??;
        let ready = || daemon::notify("READY=1");
        cri::serve(daemon.socket(), daemon.pods(), daemon.streaming(), ready, shutdown).await?;
        daemon.stop().await;
        reloads.stop().await;
        Ok(())
    })
}
