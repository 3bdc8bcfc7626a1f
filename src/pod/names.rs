//! One creation per name (B1): whoever asks for a name and attempt that is being made waits for that one's outcome, and
//! whoever asks for one that exists gets its ID. "Name is reserved" is never the answer to a retry.
//!
//! ```text
//!            claim               keep(id)
//!   (free) --------> in flight ------------> taken --free--> (free)
//!     ^                  | fail, or dropped
//!     +------------------+
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::error::PodError;

/// What a creation came to, for all who wait for it.
pub(super) type Outcome<Id> = Result<Id, Arc<PodError>>;

/// The names of one kind of object.
pub(super) struct Names<K, Id> {
    // Held for a map operation; never over an await.
    slots: Mutex<HashMap<K, Slot<Id>>>,
}

enum Slot<Id> {
    InFlight(watch::Receiver<Option<Outcome<Id>>>),
    Taken(Id),
}

/// The answer to a claim.
pub(super) enum Claim<K: Eq + Hash, Id> {
    /// The name is the caller's to make.
    New(Reservation<K, Id>),
    /// Another call is making it.
    InFlight(Flight<Id>),
    /// It exists.
    Taken(Id),
}

/// Another call's creation.
pub(super) struct Flight<Id>(watch::Receiver<Option<Outcome<Id>>>);

/// The right, and the duty, to settle a name. Dropped unsettled, it frees the name.
pub(super) struct Reservation<K: Eq + Hash, Id> {
    names: Arc<Names<K, Id>>,
    key: Option<K>,
    outcome: watch::Sender<Option<Outcome<Id>>>,
}

impl<K: Eq + Hash + Clone, Id: Clone> Names<K, Id> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { slots: Mutex::new(HashMap::new()) })
    }

    pub(super) fn claim(self: &Arc<Self>, key: &K) -> Claim<K, Id> {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(slot) => match slot.get() {
                Slot::InFlight(outcome) => Claim::InFlight(Flight(outcome.clone())),
                Slot::Taken(id) => Claim::Taken(id.clone()),
            },
            Entry::Vacant(slot) => {
                let (outcome, receiver) = watch::channel(None);
                slot.insert(Slot::InFlight(receiver));
                Claim::New(Reservation { names: Arc::clone(self), key: Some(key.clone()), outcome })
            }
        }
    }

    /// Takes a name for an object that exists already, as recovery finds it.
    pub(super) fn take(&self, key: K, id: Id) {
        self.lock().insert(key, Slot::Taken(id));
    }
}

impl<K: Eq + Hash, Id> Names<K, Id> {
    pub(super) fn free(&self, key: &K) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Slot<Id>>> {
        // A map operation does not panic halfway, so a poisoned map is still whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Id: Clone> Flight<Id> {
    /// Waits for the other call's outcome.
    pub(super) async fn outcome(mut self) -> Outcome<Id> {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(Arc::new(PodError::Stopping))),
            Err(_) => Err(Arc::new(PodError::Stopping)),
        }
    }
}

impl<K: Eq + Hash, Id: Clone> Reservation<K, Id> {
    /// Settles the name and tells all who wait.
    pub(super) fn settle(mut self, outcome: Outcome<Id>) -> Outcome<Id> {
        if let Some(key) = self.key.take() {
            match &outcome {
                Ok(id) => drop(self.names.lock().insert(key, Slot::Taken(id.clone()))),
                Err(_) => self.names.free(&key),
            }
        }
        self.outcome.send_replace(Some(outcome.clone()));
        outcome
    }
}

impl<K: Eq + Hash, Id> Drop for Reservation<K, Id> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.names.free(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn b1_a_retry_joins_and_a_failure_frees_the_name() {
        let names = Names::<&str, u32>::new();
        let Claim::New(first) = names.claim(&"a") else { panic!("the name is free") };
        let Claim::InFlight(retry) = names.claim(&"a") else { panic!("it is in flight") };
        let waiting = tokio::spawn(retry.outcome());
        first.settle(Err(Arc::new(PodError::Stopping))).unwrap_err();
        assert!(waiting.await.unwrap().is_err());

        let Claim::New(second) = names.claim(&"a") else { panic!("the failure freed it") };
        let Claim::InFlight(retry) = names.claim(&"a") else { panic!("it is in flight") };
        second.settle(Ok(7)).unwrap();
        assert_eq!(retry.outcome().await.unwrap(), 7);
        assert!(matches!(names.claim(&"a"), Claim::Taken(7)));
        names.free(&"a");
        assert!(matches!(names.claim(&"a"), Claim::New(_)));
    }

    #[tokio::test]
    async fn a_creation_that_dies_unsettled_frees_the_name_and_wakes_the_waiters() {
        let names = Names::<&str, u32>::new();
        let Claim::New(first) = names.claim(&"a") else { panic!("the name is free") };
        let Claim::InFlight(retry) = names.claim(&"a") else { panic!("it is in flight") };
        drop(first);
        assert!(retry.outcome().await.is_err());
        assert!(matches!(names.claim(&"a"), Claim::New(_)));
    }
}
