//! Where the time of a pod's start went, in the order in which its stages ended.
//!
//! An operation that belongs to a pod's start runs in [`Timeline::scope`]; each stage that ends in it adds an entry, whoever
//! measured it. Bounded: the first [`FIRST`] entries stay, for they are the start, and the last [`LAST`] of those that follow,
//! which containers add that are started anew.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// How many entries stay for the life of the pod.
const FIRST: usize = 64;
/// How many are kept of those after them.
const LAST: usize = 32;
/// The longest error text of an entry, in bytes.
const ERROR_MAX: usize = 512;

tokio::task_local! {
    /// The timeline of the operation that the task is at.
    static CURRENT: Arc<Timeline>;
}

/// The stages of one pod and its containers.
#[derive(Debug, Default)]
pub struct Timeline {
    // Held to add an entry or to copy all.
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    first: Vec<Entry>,
    last: VecDeque<Entry>,
}

/// One stage, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The stage's name.
    pub stage: &'static str,
    /// What it was done for: a pod, a container, a plugin.
    pub object: Box<str>,
    /// When it began, in nanoseconds since 1970.
    pub started_at: i64,
    /// How long it took, in nanoseconds.
    pub duration_nanos: u64,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
}

impl Entry {
    pub(super) fn new(
        stage: &'static str,
        object: &str,
        started_at: i64,
        took: Duration,
        error: Option<String>,
    ) -> Self {
        let duration_nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let cut = |text: String| Box::from(&text[..text.floor_char_boundary(ERROR_MAX)]);
        Self { stage, object: object.into(), started_at, duration_nanos, error: error.map(cut) }
    }
}

impl Timeline {
    /// Runs an operation whose stages belong to this timeline. Stages in tasks that it starts do not.
    pub async fn scope<F: Future>(self: Arc<Self>, operation: F) -> F::Output {
        CURRENT.scope(self, operation).await
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.first.iter().chain(&entries.last).cloned().collect()
    }

    fn push(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.first.len() < FIRST {
            return entries.first.push(entry);
        }
        if entries.last.len() == LAST {
            entries.last.pop_front();
        }
        entries.last.push_back(entry);
    }
}

/// Adds an entry to the timeline of the operation under way, if it has one.
pub(super) fn record(entry: impl FnOnce() -> Entry) {
    // An error says that this is not within a scope.
    let _ = CURRENT.try_with(|timeline| timeline.push(entry()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Step;

    #[tokio::test]
    async fn a_timeline_has_the_stages_of_its_scope_and_no_others() {
        let timeline = Arc::new(Timeline::default());
        Step::begin("before", "x").end(None);
        let failed = std::io::Error::other("ä".repeat(ERROR_MAX));
        let operation = async {
            Step::begin("one", "pod").end(None);
            tokio::spawn(async { Step::begin("elsewhere", "pod").end(None) }).await.unwrap();
            Step::begin("two", "bridge").end(Some(&failed));
        };
        Arc::clone(&timeline).scope(operation).await;
        let entries = timeline.entries();
        assert_eq!(
            entries.iter().map(|e| (e.stage, &*e.object)).collect::<Vec<_>>(),
            [("one", "pod"), ("two", "bridge")]
        );
        assert_eq!(entries[1].error.as_ref().map(|text| text.len()), Some(ERROR_MAX));
        let shown = serde_json::to_value(&entries[0]).unwrap();
        let keys: Vec<_> = shown.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys.len(), 4, "{keys:?}: no error, no key for it");
        for key in ["stage", "object", "startedAt", "durationNanos"] {
            assert!(keys.iter().any(|k| k == key), "{key} is not in {keys:?}");
        }
    }

    #[test]
    fn the_start_stays_and_what_follows_goes_round() {
        let timeline = Timeline::default();
        for n in 0..1000 {
            timeline.push(Entry::new("s", "o", n, Duration::ZERO, None));
        }
        let times: Vec<_> = timeline.entries().iter().map(|entry| entry.started_at).collect();
        let expected: Vec<_> = (0..FIRST as i64).chain(1000 - LAST as i64..1000).collect();
        assert_eq!(times, expected);
    }
}
