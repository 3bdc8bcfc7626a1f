//! What happens to pods and containers, told to whoever listens (CRI GetContainerEvents).
//!
//! ```text
//!  run create start watch stop remove ──publish──► Queue ──► Reader ──► cri renders, gRPC sends
//!      (the change and its event, together)          └─────► Reader ──► ...
//! ```
//!
//! - A change and its event are made under one lock, which is held for a few map operations: so the events of a pod come in
//!   the order of its changes, and each carries the pod and its containers as they were then.
//! - An event holds references and states, no messages: those are made by each reader's own task, from the event alone.
//! - Nobody is waited for: `queue.rs` has the bounds. While nobody listens an event costs the look whether somebody does.
//! - Times of events grow, whatever the clock does.

mod queue;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Pods;
use super::container::Container;
use super::index::Index;
use super::sandbox::Pod;
use super::state::{ContainerState, Nanos, PodState, now};
use crate::api::LinuxContainerResources;
pub use queue::EventNumbers;
use queue::{EVENTS_MAX, Queue, READERS_MAX};

/// How long a daemon that has taken up pods keeps what has happened since its start, for readers that come again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What happened; the CRI's `ContainerEventType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// Something that happened to a container, or to a pod as a whole.
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The container's ID, or the pod's.
    pub id: String,
    /// When it was told: later than all events before.
    pub at: Nanos,
    /// The pod, right after it.
    pub pod: PodView,
    /// The pod's containers, right after it.
    pub containers: Vec<ContainerView>,
}

/// A pod as it was at some time.
pub struct PodView {
    /// What never changes.
    pub pod: Arc<Pod>,
    /// Its state then.
    pub state: PodState,
}

/// A container as it was at some time.
pub struct ContainerView {
    /// What never changes.
    pub container: Arc<Container>,
    /// Its state then.
    pub state: ContainerState,
    /// What an update had set by then.
    pub updated: Option<Box<LinuxContainerResources>>,
    /// Whether its init lived without its monitor.
    pub unwatched: bool,
}

impl PodView {
    /// As it is now.
    pub fn of(pod: Arc<Pod>) -> Self {
        Self { state: pod.state(), pod }
    }
}

impl ContainerView {
    /// As it is now.
    pub fn of(container: Arc<Container>) -> Self {
        Self {
            state: container.state(),
            updated: container.updated().map(Box::new),
            unwatched: container.is_unwatched(),
            container,
        }
    }
}

/// Why a reader gets no events, or no more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// There are as many readers as there may be.
    #[error("{READERS_MAX} clients read events already, which is the most; end one of them")]
    TooMany,
    /// It did not keep up (B22).
    #[error(
        "this client reads too slowly: more than {EVENTS_MAX} events have waited for it, or their statuses are too many, \
         and some are lost to it; ask for events again, and list what there is then"
    )]
    TooSlow,
    /// The daemon ends.
    #[error("the daemon is stopping; ask for events again, and list what there is then")]
    Stopping,
}

/// The events of the node. A clone is the same.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    /// Held for one change of a state or of the index and the event of it; never over an await.
    queue: Mutex<Queue<Event>>,
    /// Woken when there is something in it.
    arrived: watch::Sender<()>,
    /// The latest time that was given out.
    last: AtomicI64,
}

impl Events {
    pub(super) fn new() -> Self {
        let queue = Mutex::new(Queue::new(Instant::now() + REMEMBERED));
        Self(Arc::new(Inner { queue, arrived: watch::Sender::new(()), last: AtomicI64::new(0) }))
    }

    /// Begins to read, with what happens from now on.
    pub fn subscribe(&self) -> Result<Reader, EventsError> {
        let arrived = self.0.arrived.subscribe();
        let id = self.0.queue().join()?;
        Ok(Reader { events: self.clone(), id, arrived })
    }

    /// The time now, but later than every event and every answer of this before.
    pub fn tick(&self) -> Nanos {
        let now = now();
        let later = |last: Nanos| now.max(last.saturating_add(1));
        let last = self.0.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        later(last.unwrap_or_else(|last| last))
    }

    /// Ends all readers, once they have had what there is.
    pub fn close(&self) {
        self.0.queue().close();
        self.0.arrived.send_replace(());
    }

    /// How it goes.
    pub fn numbers(&self) -> EventNumbers {
        self.0.queue().numbers()
    }

    /// There was nothing before this daemon that a reader could know of.
    pub(super) fn begin_anew(&self) {
        self.0.queue().forget();
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue<Event>> {
        // A panic inside would have left a change without its event, and the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who reads events; gone from the queue when dropped.
pub struct Reader {
    events: Events,
    id: u64,
    arrived: watch::Receiver<()>,
}

impl Reader {
    /// Waits for the next event. After an error there are none any more.
    pub async fn next(&mut self) -> Result<Arc<Event>, EventsError> {
        loop {
            self.arrived.mark_unchanged();
            if let Some(event) = self.events.0.queue().take(self.id)? {
                return Ok(event);
            }
            // The sender lives in `self.events`, so the wait cannot fail.
            let _ = self.arrived.changed().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.events.0.queue().leave(self.id);
    }
}

/// Tells what a change to a pod, or to a container of it, comes to.
pub(super) struct Teller<'a> {
    queue: MutexGuard<'a, Queue<Event>>,
    events: &'a Events,
    index: &'a Index,
    pod: &'a Arc<Pod>,
    told: bool,
}

impl Teller<'_> {
    pub(super) fn tell(&mut self, kind: EventKind, id: &str) {
        if !self.queue.is_wanted() {
            return;
        }
        let containers = self.index.containers_of(&self.pod.facts.id);
        let containers = Vec::from_iter(containers.into_iter().map(ContainerView::of));
        let weight = 1 + containers.len();
        let event = Event {
            kind,
            id: id.to_owned(),
            at: self.events.tick(),
            pod: PodView::of(Arc::clone(self.pod)),
            containers,
        };
        self.queue.push(event, weight);
        self.told = true;
    }
}

impl Pods {
    /// Makes a change that readers are to hear of, while nothing else is changed, and tells them. The change must not wait.
    pub(super) fn publish<T>(&self, pod: &Arc<Pod>, change: impl FnOnce(&mut Teller<'_>) -> T) -> T {
        let queue = self.events.0.queue();
        let mut teller = Teller { queue, events: &self.events, index: &self.index, pod, told: false };
        let result = change(&mut teller);
        let told = teller.told;
        drop(teller);
        if told {
            self.events.0.arrived.send_replace(());
        }
        result
    }
}

#[cfg(test)]
mod tests;
