//! One queue for all readers: each has a place in it, and whoever falls too far behind is cut off (B22).
//!
//! An item is kept until every reader has had it, within two bounds: the number of items, and their weight together. When a
//! bound is reached the oldest item goes, and with it every reader that still had it to come. Nobody is ever waited for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::EventsError;

/// The most readers.
pub(super) const READERS_MAX: usize = 64;
/// The most events that wait for the slowest reader: a full node (110 pods) may stop at once and start again meanwhile.
pub(super) const EVENTS_MAX: usize = 1024;
/// The most statuses in them. A status that waits takes about a hundred bytes, so this bounds the queue at some 4 MiB.
pub(super) const WEIGHT_MAX: usize = 32_768;

/// How it goes with events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventNumbers {
    /// The readers now.
    pub readers: usize,
    /// The events that the slowest of them has not had yet.
    pub waiting: usize,
    /// The events that there were for readers since the daemon's start.
    pub told: u64,
    /// The readers that were too slow since the daemon's start.
    pub cut_off: u64,
}

pub(super) struct Queue<T> {
    /// With their weights.
    items: VecDeque<(Arc<T>, usize)>,
    /// The number of the first of them; numbers only grow.
    first: u64,
    weight: usize,
    /// The number of the next item of each.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    cut_off: u64,
    /// Until then items are kept for readers to come.
    remember_until: Instant,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(remember_until: Instant) -> Self {
        Self {
            items: VecDeque::new(),
            first: 0,
            weight: 0,
            readers: BTreeMap::new(),
            next_reader: 0,
            cut_off: 0,
            remember_until,
            closed: false,
        }
    }

    /// Whether there is any reader for an item, or may be one.
    pub(super) fn is_wanted(&self) -> bool {
        !self.readers.is_empty() || self.remembers()
    }

    pub(super) fn push(&mut self, item: T, weight: usize) {
        self.items.push_back((Arc::new(item), weight));
        self.weight += weight;
        while self.items.len() > EVENTS_MAX || (self.weight > WEIGHT_MAX && self.items.len() > 1) {
            self.drop_first();
        }
        let (first, before) = (self.first, self.readers.len());
        self.readers.retain(|_, next| *next >= first);
        self.cut_off += u64::try_from(before - self.readers.len()).unwrap_or_default();
    }

    /// A place for a new reader: after all that was, or before what is remembered.
    pub(super) fn join(&mut self) -> Result<u64, EventsError> {
        if self.closed {
            return Err(EventsError::Stopping);
        }
        if self.readers.len() >= READERS_MAX {
            return Err(EventsError::TooMany);
        }
        self.drop_seen();
        let place = if self.remembers() { self.first } else { self.end() };
        self.next_reader += 1;
        self.readers.insert(self.next_reader, place);
        Ok(self.next_reader)
    }

    pub(super) fn leave(&mut self, reader: u64) {
        self.readers.remove(&reader);
        self.drop_seen();
    }

    /// The reader's next item; `None` where it has had all.
    pub(super) fn take(&mut self, reader: u64) -> Result<Option<Arc<T>>, EventsError> {
        let Some(next) = self.readers.get_mut(&reader) else { return Err(EventsError::TooSlow) };
        let place = usize::try_from(*next - self.first).unwrap_or(usize::MAX);
        let Some((item, _)) = self.items.get(place) else {
            return if self.closed { Err(EventsError::Stopping) } else { Ok(None) };
        };
        let item = Arc::clone(item);
        *next += 1;
        self.drop_seen();
        Ok(Some(item))
    }

    /// Nobody may know of anything that was before: nothing is kept for readers to come.
    pub(super) fn forget(&mut self) {
        self.remember_until = Instant::now();
        self.drop_seen();
    }

    /// Readers get what is there, and then their end.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn numbers(&self) -> EventNumbers {
        let slowest = self.readers.values().min().map_or(0, |next| self.end() - next);
        EventNumbers {
            readers: self.readers.len(),
            waiting: usize::try_from(slowest).unwrap_or(usize::MAX),
            told: self.end(),
            cut_off: self.cut_off,
        }
    }

    fn remembers(&self) -> bool {
        Instant::now() < self.remember_until
    }

    fn end(&self) -> u64 {
        self.first + u64::try_from(self.items.len()).unwrap_or_default()
    }

    fn drop_first(&mut self) {
        if let Some((_, weight)) = self.items.pop_front() {
            self.weight -= weight;
            self.first += 1;
        }
    }

    fn drop_seen(&mut self) {
        if self.remembers() {
            return;
        }
        let slowest = self.readers.values().min().copied().unwrap_or_else(|| self.end());
        while self.first < slowest {
            self.drop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue() -> Queue<usize> {
        Queue::new(Instant::now())
    }

    fn all(queue: &mut Queue<usize>, reader: u64) -> Vec<usize> {
        std::iter::from_fn(|| queue.take(reader).unwrap()).map(|item| *item).collect()
    }

    #[test]
    fn every_reader_gets_everything_since_it_came_in_order_and_nothing_is_kept_after_that() {
        let mut queue = queue();
        assert!(!queue.is_wanted(), "nobody listens");
        let early = queue.join().unwrap();
        assert!(queue.is_wanted());
        queue.push(1, 1);
        let late = queue.join().unwrap();
        queue.push(2, 1);
        assert_eq!(queue.numbers(), EventNumbers { readers: 2, waiting: 2, told: 2, cut_off: 0 });
        assert_eq!(all(&mut queue, early), [1, 2]);
        assert_eq!(queue.items.len(), 1, "one reader has still to come for it");
        assert_eq!(all(&mut queue, late), [2]);
        assert_eq!((queue.items.len(), queue.weight), (0, 0));
        queue.push(3, 1);
        queue.leave(early);
        queue.leave(late);
        assert_eq!(
            (queue.items.len(), queue.numbers().readers),
            (0, 0),
            "a reader that leaves leaves nothing"
        );
    }

    #[test]
    fn b22_a_slow_reader_is_cut_off_while_others_go_on() {
        let mut queue = queue();
        let (slow, quick) = (queue.join().unwrap(), queue.join().unwrap());
        for n in 0..EVENTS_MAX {
            queue.push(n, 1);
            assert_eq!(all(&mut queue, quick), [n]);
        }
        assert_eq!(queue.numbers().waiting, EVENTS_MAX, "this much it may be behind");
        queue.push(EVENTS_MAX, 1);
        assert_eq!(all(&mut queue, quick), [EVENTS_MAX]);
        assert!(matches!(queue.take(slow), Err(EventsError::TooSlow)));
        assert_eq!(queue.items.len(), 0, "nothing is kept for one that is cut off");
        assert_eq!(queue.numbers(), EventNumbers { readers: 1, waiting: 0, told: 1025, cut_off: 1 });
        queue.leave(slow);
        queue.push(7, 1);
        assert_eq!(all(&mut queue, quick), [7]);
    }

    #[test]
    fn b22_the_weight_of_all_that_waits_is_bounded_but_one_item_always_fits() {
        let mut queue = queue();
        let reader = queue.join().unwrap();
        queue.push(1, WEIGHT_MAX / 2);
        queue.push(2, WEIGHT_MAX / 2);
        assert_eq!(all(&mut queue, reader), [1, 2]);
        queue.push(3, 2 * WEIGHT_MAX);
        assert_eq!(all(&mut queue, reader), [3]);
        queue.push(4, WEIGHT_MAX);
        queue.push(5, 1);
        assert!(matches!(queue.take(reader), Err(EventsError::TooSlow)));
    }

    #[test]
    fn readers_are_bounded() {
        let mut queue = queue();
        let readers = Vec::from_iter((0..READERS_MAX).map(|_| queue.join().unwrap()));
        assert!(matches!(queue.join(), Err(EventsError::TooMany)));
        queue.leave(readers[5]);
        queue.join().unwrap();
    }

    #[test]
    fn what_a_restart_finds_is_kept_for_readers_that_come_again() {
        let mut queue = Queue::new(Instant::now() + Duration::from_secs(3600));
        assert!(queue.is_wanted());
        queue.push(1, 1);
        for _ in 0..2 {
            let again = queue.join().unwrap();
            assert_eq!(all(&mut queue, again), [1]);
        }
        queue.forget();
        let new = queue.join().unwrap();
        assert_eq!(all(&mut queue, new), [0; 0]);
    }

    #[test]
    fn at_the_end_readers_get_what_is_there_and_then_their_end() {
        let mut queue = queue();
        let reader = queue.join().unwrap();
        queue.push(1, 1);
        queue.close();
        assert_eq!(queue.take(reader).unwrap().as_deref(), Some(&1));
        assert!(matches!(queue.take(reader), Err(EventsError::Stopping)));
        assert!(matches!(queue.join(), Err(EventsError::Stopping)));
    }
}
