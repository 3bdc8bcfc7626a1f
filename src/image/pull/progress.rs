//! Pulls under way, for those who watch: `podd images`, and `crictl info`, which show what Status tells when it is asked to be
//! verbose.
//!
//! A pull counts its bytes without a lock; the rest changes a few times in its life.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::image::reference::Reference;
use crate::telemetry::metrics;

/// All pulls of the node: those under way, and the sums of those that have ended.
#[derive(Debug, Default)]
pub(in crate::image) struct Progress {
    // Held to look, or for the change of a few fields.
    pulls: Mutex<Pulls>,
}

#[derive(Debug, Default)]
struct Pulls {
    under_way: Vec<Arc<Pull>>,
    ended: PullTotals,
}

/// What all pulls since the start of the daemon come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PullTotals {
    /// Pulls that brought an image, or found it here.
    pub succeeded: u64,
    /// Pulls that did not.
    pub failed: u64,
    /// Bytes of layers that were fetched, compressed.
    pub bytes: u64,
}

/// A pull in the words of the verbose Status.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PullStatus {
    /// The reference.
    pub image: String,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// What it is at.
    pub stage: Stage,
    /// Its layers, those that are here already among the done ones.
    pub layers: LayerCount,
    /// What was fetched of the layers, compressed.
    pub bytes: u64,
    /// What there is to fetch; 0 before it is known.
    pub total_bytes: u64,
    /// The mean since the first byte was asked for.
    pub bytes_per_second: u64,
}

/// How many layers, and how many of them are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct LayerCount {
    pub done: u64,
    pub total: u64,
}

/// What a pull is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It waits for another pull of the same image.
    Waiting,
    /// It looks up what the reference stands for, and who has signed that.
    Resolving,
    /// It fetches and unpacks layers.
    Unpacking,
    /// It flushes what was unpacked and makes an image of it.
    Committing,
}

/// One pull under way.
#[derive(Debug)]
pub(super) struct Pull {
    image: String,
    began: SystemTime,
    bytes: AtomicU64,
    layers_done: AtomicU64,
    // Held for the change of a few fields.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    layers: u64,
    total_bytes: u64,
    fetching: Option<Instant>,
}

/// A pull's place among those under way, which ends with this value.
pub(super) struct UnderWay<'a> {
    progress: &'a Progress,
    pull: Arc<Pull>,
    succeeded: bool,
}

impl Progress {
    /// Notes a pull that begins.
    pub(super) fn begin(&self, reference: &Reference) -> UnderWay<'_> {
        let state = State { stage: Stage::Waiting, layers: 0, total_bytes: 0, fetching: None };
        let pull = Arc::new(Pull {
            image: reference.to_string(),
            began: SystemTime::now(),
            bytes: AtomicU64::new(0),
            layers_done: AtomicU64::new(0),
            state: Mutex::new(state),
        });
        self.pulls().under_way.push(Arc::clone(&pull));
        UnderWay { progress: self, pull, succeeded: false }
    }

    /// The pulls under way, oldest first.
    pub(in crate::image) fn status(&self) -> Vec<PullStatus> {
        self.pulls().under_way.iter().map(|pull| pull.status()).collect()
    }

    /// The sums since the start of the daemon, with what pulls under way have fetched.
    pub(in crate::image) fn totals(&self) -> PullTotals {
        let pulls = self.pulls();
        let fetching: u64 = pulls.under_way.iter().map(|pull| pull.bytes()).sum();
        PullTotals { bytes: pulls.ended.bytes + fetching, ..pulls.ended }
    }

    fn pulls(&self) -> MutexGuard<'_, Pulls> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    /// The pull, for those who do parts of it.
    pub(super) fn pull(&self) -> &Arc<Pull> {
        &self.pull
    }

    /// It has brought its image.
    pub(super) fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let took = self.pull.began.elapsed().unwrap_or_default();
        let fetching = self.pull.state().fetching.map(|since| since.elapsed());
        metrics().pull(took, self.pull.bytes(), fetching);
        let mut pulls = self.progress.pulls();
        pulls.under_way.retain(|pull| !Arc::ptr_eq(pull, &self.pull));
        pulls.ended.bytes += self.pull.bytes();
        match self.succeeded {
            true => pulls.ended.succeeded += 1,
            false => pulls.ended.failed += 1,
        }
    }
}

impl Pull {
    /// It is at another stage now.
    pub(super) fn enter(&self, stage: Stage) {
        self.state().stage = stage;
    }

    /// Its layers are known: how many, and how many bytes of them are to be fetched.
    pub(super) fn unpacks(&self, layers: usize, bytes: u64) {
        let mut state = self.state();
        (state.stage, state.layers, state.total_bytes) = (Stage::Unpacking, layers as u64, bytes);
        state.fetching = Some(Instant::now());
    }

    /// So many more bytes have come.
    pub(super) fn fetched(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A layer is unpacked, or was here.
    pub(super) fn layer_done(&self) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
    }

    /// What was fetched up to now.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn status(&self) -> PullStatus {
        let state = self.state();
        let bytes = self.bytes();
        let time = state.fetching.map_or(Duration::ZERO, |since| since.elapsed()).as_secs_f64();
        PullStatus {
            image: self.image.clone(),
            began: self.began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            stage: state.stage,
            layers: LayerCount { done: self.layers_done.load(Ordering::Relaxed), total: state.layers },
            bytes,
            total_bytes: state.total_bytes,
            bytes_per_second: if time > 0.0 { (bytes as f64 / time) as u64 } else { 0 },
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_seen_while_it_is_under_way_and_counted_afterwards() {
        let progress = Progress::default();
        let (one, two) = ("r.io/a:1".parse().unwrap(), "r.io/b:1".parse().unwrap());
        let (first, second) = (progress.begin(&one), progress.begin(&two));
        assert_eq!(progress.status()[0].stage, Stage::Waiting);
        first.pull().enter(Stage::Resolving);
        first.pull().unpacks(3, 1000);
        first.pull().fetched(250);
        first.pull().layer_done();
        let seen = progress.status();
        assert_eq!([&seen[0].image, &seen[1].image], ["r.io/a:1", "r.io/b:1"]);
        assert_eq!((seen[0].stage, seen[0].bytes, seen[0].total_bytes), (Stage::Unpacking, 250, 1000));
        assert_eq!(seen[0].layers, LayerCount { done: 1, total: 3 });
        let text = serde_json::to_string(&seen[1]).unwrap();
        assert!(text.contains(r#""stage":"waiting","layers":{"done":0,"total":0}"#), "{text}");
        assert_eq!(progress.totals(), PullTotals { bytes: 250, ..PullTotals::default() });
        first.succeeded();
        drop(second);
        assert!(progress.status().is_empty());
        assert_eq!(progress.totals(), PullTotals { succeeded: 1, failed: 1, bytes: 250 });
    }
}
