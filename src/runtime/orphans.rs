//! The daemon as a subreaper: commands that runc has detached become its children, so that it learns how they end.
//!
//! Other orphans come with that, such as what a CNI plugin left behind. Nobody waits for those, and a zombie is how they
//! are known: all that somebody waits for is reaped within moments, so what is still there at the next look is nobody's.
//! The looks follow a death closely: the init of a PID namespace cannot end before the zombies in it are reaped, such as
//! what crun leaves of a command that it could not start.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::signal::unix::{SignalKind, signal};

/// The time from a death to a look, and between two looks: long beside any wait of the daemon's own, short beside the
/// time that somebody has for the end of a container.
const PERIOD: Duration = Duration::from_secs(1);

/// Makes this process a subreaper. Whoever calls this must also keep [`reap_orphans`] running.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Reaps, for ever, the orphans that nobody waits for. Sleeps while no child dies.
pub async fn reap_orphans() -> io::Result<Infallible> {
    let mut deaths = signal(SignalKind::child())?;
    let mut seen = HashSet::new();
    loop {
        if seen.is_empty() {
            deaths.recv().await;
        }
        tokio::time::sleep(PERIOD).await;
        seen = sweep(&seen);
    }
}

/// Reaps the zombies that were there at the last look, and gives the new ones.
pub(super) fn sweep(before: &HashSet<i32>) -> HashSet<i32> {
    let (old, new): (HashSet<_>, HashSet<_>) = zombies().partition(|pid| before.contains(pid));
    for pid in old.into_iter().filter_map(Pid::from_raw) {
        // Gone already is as good.
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
    new
}

/// The dead children of this process, by the lists that the kernel keeps for each of its threads.
fn zombies() -> impl Iterator<Item = i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>());
    children.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}
