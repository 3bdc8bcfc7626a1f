//! Ended children: the monitor is the parent of the init and, as a subreaper, of every orphan below it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use crate::sys::descriptor::{Poll, poll};
use crate::sys::process::{Status, block_signals, kill, reap};

/// Takes the exit codes of children. It is readable while one may be waiting.
pub(crate) struct Reaper(File);

impl Reaper {
    /// Blocks all signals of this process, for good.
    pub(crate) fn new() -> io::Result<Self> {
        block_signals().map(Self)
    }

    /// Shows every child that has ended since the last call.
    pub(crate) fn reap(&mut self, mut seen: impl FnMut(i32, Status)) {
        let mut details = [0u8; 1024];
        // Emptied before the children are asked for, so that a later end makes it readable again.
        while matches!(self.0.read(&mut details), Ok(count) if count > 0) {}
        while let Some((pid, status)) = reap() {
            seen(pid, status);
        }
    }

    /// Waits for one child and takes all others meanwhile; `None` when the time is over.
    pub(crate) fn wait_for(&mut self, awaited: i32, patience: Duration) -> Option<Status> {
        let deadline = Instant::now() + patience;
        loop {
            let mut result = None;
            self.reap(|pid, status| result = result.or((pid == awaited).then_some(status)));
            let left = deadline.saturating_duration_since(Instant::now());
            if result.is_some() || left.is_zero() {
                return result;
            }
            let _ = poll(&mut [Poll::input(&self.0)], Some(left));
        }
    }

    /// Kills all children, and theirs that become ours thereby, until none is left or the time is over.
    pub(crate) fn kill_all(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            self.reap(|_, _| {});
            let children = children();
            let left = deadline.saturating_duration_since(Instant::now());
            if children.is_empty() || left.is_zero() {
                return;
            }
            children.iter().for_each(|pid| kill(*pid, libc::SIGKILL));
            let _ = poll(&mut [Poll::input(&self.0)], Some(left));
        }
    }
}

impl AsRawFd for Reaper {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The children of this process that were not waited for yet.
fn children() -> Vec<i32> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
