//! `podd doctor`: looks at a node with what podd itself looks with, and says what to do about each finding.
//!
//! Each area is a file of two halves: one that observes and judges nothing, and one that judges and is pure. All areas are
//! looked at side by side, each within [`PATIENCE`], so that what hangs is a finding among the others. Nothing is changed:
//! no record, mount, module or file. It works with the daemon down, and without root as far as that goes.

mod cgroups;
mod clock;
mod daemon;
mod disk;
mod files;
mod finding;
mod kernel;
mod leftovers;
mod limits;
mod monitor;
mod network;
mod print;
mod runtimes;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use podd::config::{Config, ConfigError};
use tokio::time::timeout;

use crate::Sources;
use crate::cli::table::wants_colour;
use finding::{Check, Outcome};

/// How long one area may take: what is asked of runtimes and plugins has limits of its own, which end before.
const PATIENCE: Duration = Duration::from_secs(25);

/// The arguments of `podd doctor`.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    sources: Sources,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Does what `podd doctor` was asked to do; `false` when there is a problem.
pub(crate) fn doctor(args: DoctorArgs) -> anyhow::Result<bool> {
    let runtime = crate::async_runtime()?;
    let checks = runtime.block_on(examine(args.sources.load()));
    match args.json {
        true => print!("{}", print::json(&checks)),
        false => print!("{}", print::table(&checks, columns(), wants_colour())),
    }
    // A thread that hangs in the kernel must not hold the end.
    runtime.shutdown_background();
    Ok(checks.iter().all(|check| check.outcome != Outcome::Problem))
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(print::WIDTH)
}

/// All areas, in the order in which they are shown. Without a configuration, those that need none.
async fn examine(config: Result<Config, ConfigError>) -> Vec<Check> {
    let (config, first) = match config {
        Ok(config) => (Arc::new(config), vec![Check::ok("config", "read, without a mistake")]),
        Err(error) => return without_configuration(&error).await,
    };
    let daemon = area("daemon", async { daemon::observe(&config).await });
    let (daemon, network, runtimes, monitor, kernel, cgroups, clock, disk, files, leftovers) = tokio::join!(
        daemon,
        area("network", async { network::checks(&network::observe(&config).await) }),
        area("runtime", async { runtimes::checks(&runtimes::observe(&config).await) }),
        area("monitor", async { monitor::checks(&monitor::observe(&config).await) }),
        blocking("kernel", &config, |config| kernel::checks(&kernel::observe(config))),
        blocking("cgroup", &config, |config| cgroups::checks(&cgroups::observe(config))),
        blocking("clock", &config, |_| clock::checks(&clock::observe())),
        blocking("disk", &config, |config| disk::checks(&disk::observe(config))),
        blocking("files", &config, |config| files::checks(&files::observe(config))),
        blocking("leftovers", &config, |config| leftovers::checks(&leftovers::observe(config))),
    );
    let pid = daemon.as_ref().ok().and_then(daemon::Observed::pid);
    let limits = blocking("limits", &config, move |_| limits::checks(&limits::observe(pid))).await;
    let daemon = daemon.map(|observed| daemon::checks(&observed));
    let areas = [
        Ok(first),
        kernel,
        cgroups,
        limits,
        clock,
        disk,
        runtimes,
        monitor,
        network,
        files,
        daemon,
        leftovers,
    ];
    areas.into_iter().flat_map(|area| area.unwrap_or_else(|hangs| vec![hangs])).collect()
}

/// The mistakes, and what is true of the node whatever the configuration says.
async fn without_configuration(error: &ConfigError) -> Vec<Check> {
    let mistake = |problem: &podd::config::Problem| {
        Check::problem("config", problem.to_string(), "correct it: podd does not start with it")
    };
    let mut checks: Vec<_> = error.problems.iter().map(mistake).collect();
    let defaults = Arc::new(Config::defaults("/var/lib/podd".as_ref(), "/run/podd".as_ref()));
    let (kernel, clock) = tokio::join!(
        blocking("kernel", &defaults, |config| kernel::checks(&kernel::observe(config))),
        blocking("clock", &defaults, |_| clock::checks(&clock::observe())),
    );
    checks.extend([kernel, clock].into_iter().flat_map(|area| area.unwrap_or_else(|hangs| vec![hangs])));
    checks.push(Check::note(
        "config.rest",
        "all else depends on the configuration",
        "run podd doctor again then",
    ));
    checks
}

/// What an area came to, or that it came to nothing in time.
async fn area<T>(id: &str, observe: impl Future<Output = T>) -> Result<T, Check> {
    timeout(PATIENCE, observe).await.map_err(|_| {
        let seen = format!("looking at it did not end within {} s", PATIENCE.as_secs());
        Check::problem(id, seen, "see what hangs: a file system that does not answer, or the node as a whole")
    })
}

/// An area that is looked at by a thread which may wait.
async fn blocking(
    id: &str,
    config: &Arc<Config>,
    look: impl FnOnce(&Config) -> Vec<Check> + Send + 'static,
) -> Result<Vec<Check>, Check> {
    let config = Arc::clone(config);
    area(id, podd::sys::blocking(move || look(&config))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_area_that_hangs_is_a_finding() {
        let hangs = area("disk", std::future::pending::<()>()).await.unwrap_err();
        assert_eq!((hangs.id.as_str(), hangs.outcome), ("disk", Outcome::Problem));
        assert_eq!(area("disk", async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_broken_configuration_is_told_mistake_by_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("podd.toml");
        std::fs::write(&file, "log_level = \"loud\"\nsokcet = \"/x\"\n").unwrap();
        let checks = Box::pin(examine(podd::config::load(Some(&file), &[]))).await;
        let mistakes =
            checks.iter().filter(|check| check.id == "config" && check.outcome == Outcome::Problem);
        assert_eq!(mistakes.count(), 2, "{checks:#?}");
        assert!(checks.iter().any(|check| check.id == "kernel.version"), "{checks:#?}");
    }
}
