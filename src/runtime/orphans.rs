//! The daemon as a subreaper: commands that runc has detached become its children, so that it learns how they end.
//!
//! Other orphans come with that: what a failed exec or a plugin has left. They have to be reaped at once, because a zombie
//! keeps the PID namespace that it died in from ending, and a container with it. They are told from the children of the
//! daemon's own making, which others wait for, by the thread whose children they are: the kernel gives orphans to the main
//! thread, and that one starts no processes. What runc detaches is an orphan too; it is expected from before runc runs
//! until its number is known, and awaited from then on, and meanwhile not reaped here.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::signal::unix::{SignalKind, signal};

/// How long a sweep waits for the numbers of commands that are expected.
const PAUSE: Duration = Duration::from_millis(10);

/// The orphans that somebody waits for.
#[derive(Default)]
struct Awaited {
    /// Commands whose number is not known yet.
    expected: usize,
    commands: HashSet<i32>,
}

static AWAITED: Mutex<Option<Awaited>> = Mutex::new(None);

// Held while zombies are reaped, so that none of them can become awaited meanwhile; never over an await.
fn awaited() -> MutexGuard<'static, Option<Awaited>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that is about to be detached.
pub(super) struct Expected(());

/// A detached command that somebody waits for.
pub(super) struct Command(i32);

impl Expected {
    pub(super) fn new() -> Self {
        awaited().get_or_insert_default().expected += 1;
        Self(())
    }

    /// Its number is known.
    pub(super) fn is(self, pid: Pid) -> Command {
        let pid = pid.as_raw_nonzero().get();
        awaited().get_or_insert_default().commands.insert(pid);
        Command(pid)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        awaited().get_or_insert_default().expected -= 1;
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        awaited().get_or_insert_default().commands.remove(&self.0);
    }
}

/// Makes this process a subreaper. Whoever calls this must also keep [`reap_orphans`] running, and must start no processes
/// on the main thread.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Reaps the orphans that nobody waits for, as they die, for ever.
pub async fn reap_orphans() -> io::Result<Infallible> {
    let mut deaths = signal(SignalKind::child())?;
    loop {
        while !sweep() {
            tokio::time::sleep(PAUSE).await;
        }
        deaths.recv().await;
    }
}

/// Reaps what is dead and not awaited; false if that cannot be told of all of them yet.
pub(super) fn sweep() -> bool {
    let awaited = awaited();
    let zombies = zombies();
    let (expected, commands) = match awaited.as_ref() {
        Some(awaited) => (awaited.expected, Some(&awaited.commands)),
        None => (0, None),
    };
    if expected > 0 {
        return zombies.is_empty();
    }
    let mut all = true;
    for pid in zombies {
        if commands.is_some_and(|commands| commands.contains(&pid)) {
            all = false;
        } else if let Some(pid) = Pid::from_raw(pid) {
            // Gone already is as good.
            let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
    all
}

/// The dead children of the main thread, whose ID is that of the process.
fn zombies() -> Vec<i32> {
    let list =
        fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap_or_default();
    let children = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    let is_dead = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    children.filter(is_dead).collect()
}
