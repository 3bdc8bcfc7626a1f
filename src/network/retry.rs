//! Pods whose DEL failed: when each is tried again (B6).
//!
//! In memory only: the records are the truth, and a new daemon finds what is left over through them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::id::PodId;

/// The wait after the first failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(300);

/// Failed detachments.
#[derive(Debug, Default)]
pub(super) struct Retries {
    /// Held for a look-up or an insertion. Bounded by the number of records.
    pending: Mutex<HashMap<PodId, Pending>>,
    added: Notify,
}

#[derive(Debug)]
struct Pending {
    failures: u32,
    due: Instant,
}

impl Retries {
    /// Counts a failure of a pod's DEL and sets the time of the next attempt.
    pub(super) fn failed(&self, pod: &PodId) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let entry =
            pending.entry(pod.clone()).or_insert_with(|| Pending { failures: 0, due: Instant::now() });
        entry.due = Instant::now() + FIRST.saturating_mul(1 << entry.failures.min(16)).min(LONGEST);
        entry.failures += 1;
        self.added.notify_one();
    }

    /// Forgets a pod that is detached.
    pub(super) fn done(&self, pod: &PodId) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The pods whose DEL is due, as soon as there are any.
    pub(super) async fn due(&self) -> Vec<PodId> {
        loop {
            let next = {
                let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                let due: Vec<_> =
                    pending.iter().filter(|(_, p)| p.due <= now).map(|(pod, _)| pod.clone()).collect();
                if !due.is_empty() {
                    return due;
                }
                pending.values().map(|p| p.due).min()
            };
            match next {
                None => self.added.notified().await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.added.notified() => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_to_its_limit_and_ends_with_success() {
        let (retries, pod) = (Retries::default(), PodId::generate());
        let mut waits = Vec::new();
        for _ in 0..11 {
            retries.failed(&pod);
            let start = Instant::now();
            assert_eq!(retries.due().await.as_slice(), std::slice::from_ref(&pod));
            waits.push(start.elapsed().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        retries.done(&pod);
        tokio::time::timeout(LONGEST * 2, retries.due()).await.unwrap_err();
    }
}
