//! Which files stay open between two requests.
//!
//! An open file of a cgroup saves the 5 µs of finding it again, and costs the kernel a page for as long as it is open, up to
//! nine of them for a container. So files stay open while requests follow each other closely, and are closed when they no
//! longer do: at once by the next request, or by a task that lives until then.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::Resource;

use crate::pod::Pods;

/// Requests that follow sooner are close.
const CLOSE: Duration = Duration::from_secs(5);
/// How many have to, before files stay open: a client may well ask for two lists every now and then.
const ENOUGH: u32 = 2;
/// How long files stay open without a request.
const IDLE: Duration = Duration::from_secs(10);
/// The share of the files that the daemon may have open.
const SHARE: u64 = 4;

/// When there was a request.
#[derive(Default)]
pub(in crate::pod) struct Requests(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<Instant>,
    /// How many have followed closely.
    close: u32,
    /// Whether there is a task that closes the files.
    watched: bool,
}

/// How many files one request may leave open.
pub(super) struct Keep(usize);

impl Keep {
    pub(super) const NONE: Self = Self(0);

    /// Whether so many more may stay open.
    pub(super) fn allows(&mut self, files: usize) -> bool {
        match self.0.checked_sub(files) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

impl State {
    /// Notes a request; whether its files are to stay open.
    fn note(&mut self, now: Instant) -> bool {
        let follows = self.last.is_some_and(|last| now.saturating_duration_since(last) < CLOSE);
        self.close = if follows { self.close.saturating_add(1) } else { 0 };
        self.last = Some(now);
        self.close >= ENOUGH
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= IDLE)
    }
}

impl Pods {
    /// Notes a request for stats.
    pub(super) fn requested(self: &Arc<Self>) -> Keep {
        let mut state = self.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.note(Instant::now()) {
            return Keep::NONE;
        }
        if !std::mem::replace(&mut state.watched, true) {
            tokio::spawn(close_when_idle(Arc::downgrade(self)));
        }
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Keep(usize::try_from(limit / SHARE).unwrap_or(usize::MAX))
    }
}

async fn close_when_idle(pods: Weak<Pods>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(pods) = pods.upgrade() else { return };
        let mut state = pods.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_idle(Instant::now()) {
            state.watched = false;
            drop(state);
            return pods.close_meters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_open_only_for_who_asks_again_and_again() {
        let (mut state, start) = (State::default(), Instant::now());
        let mut note = |seconds| state.note(start + Duration::from_secs(seconds));
        let kubelet: Vec<_> = [0, 0, 10, 10, 20, 20].into_iter().map(&mut note).collect();
        assert_eq!(kubelet, [false; 6]);
        let poll: Vec<_> = [30, 31, 32, 33].into_iter().map(&mut note).collect();
        assert_eq!(poll, [false, false, true, true]);
        assert!(
            !state.is_idle(start + Duration::from_secs(42)) && state.is_idle(start + Duration::from_secs(43))
        );
        assert!(!state.note(start + Duration::from_secs(50)));
    }

    #[test]
    fn no_more_files_stay_open_than_there_may_be() {
        let mut keep = Keep(20);
        assert!(keep.allows(9) && keep.allows(9) && !keep.allows(9) && keep.allows(2));
        assert!(!keep.allows(1) && !Keep::NONE.allows(1));
    }
}
