//! What is tried again, and what nobody came back for. One task, which sleeps while nothing is made and nothing is left to
//! undo; it owns no state but the list of what could not be undone.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Pods;
use super::error::chain;
use super::resources::Remains;
use crate::cgroup::CgroupPath;
use crate::id::ContainerId;
use crate::telemetry::{Leak, metrics};

/// The time from an event to the pass that looks at it, and so between two passes.
const PAUSE: Duration = Duration::from_secs(5);

/// The time between two collections of what the network's plugins hold for no pod.
const COLLECTION: Duration = Duration::from_secs(3600);

/// What is to be undone: a creation that failed, or what a recovery finds and does not adopt.
pub(super) enum Unwanted {
    Pod(Remains),
    /// With its cgroup, where it is known.
    Container(ContainerId, Option<CgroupPath>),
}

impl Unwanted {
    fn leak(&self) -> Leak {
        match self {
            Self::Pod(_) => Leak::Pod,
            Self::Container(..) => Leak::Container,
        }
    }
}

impl Pods {
    /// Goes on for ever.
    pub async fn tend(self: Arc<Self>) {
        tokio::join!(self.network.retry_pending(), self.pass(), self.collect_attachments());
    }

    /// Has the plugins drop what they hold for pods that are no more (B6): at the start, when recovery is over, and then now and
    /// again. Records see to podd's own crashes; this is for what others have lost.
    async fn collect_attachments(&self) {
        loop {
            for error in self.network.gc().await.err().unwrap_or_default() {
                tracing::warn!("collecting what the network holds for no pod: {}", chain(&error));
            }
            tokio::time::sleep(COLLECTION).await;
        }
    }

    async fn pass(&self) {
        loop {
            let event = self.attention.notified();
            match self.next_due() {
                None => event.await,
                Some(left) => drop(tokio::time::timeout(left, event).await),
            }
            tokio::time::sleep(PAUSE).await;
            self.undo_unfinished().await;
            self.remove_abandoned().await;
        }
    }

    /// The time until what no client has claimed yet counts as abandoned; `None` when there is nothing of that kind.
    fn next_due(&self) -> Option<Duration> {
        let (containers, pods) = (self.containers(), self.pods());
        let containers = containers.iter().filter(|container| !container.is_claimed()).map(|c| c.since);
        let pods = pods.iter().filter(|pod| !pod.is_claimed()).map(|pod| pod.since);
        let oldest = containers.chain(pods).min()?;
        Some(Duration::from_secs(self.config.abandoned_after_seconds).saturating_sub(oldest.elapsed()))
    }

    /// Undoes what was made of something that failed; what cannot be undone now is tried again.
    pub(super) async fn undo_or_retry(&self, what: Unwanted) {
        if let Err(what) = self.try_to_undo(what).await {
            metrics().leak_found(what.leak());
            self.retry_later(what);
        }
    }

    /// Undoes what was found, and should not be there.
    pub(super) async fn undo_leak(&self, what: Unwanted) {
        metrics().leak_found(what.leak());
        self.undo_again(what).await;
    }

    async fn undo_again(&self, what: Unwanted) {
        let leak = what.leak();
        match self.try_to_undo(what).await {
            Ok(()) => metrics().leak_repaired(leak),
            Err(what) => self.retry_later(what),
        }
    }

    async fn try_to_undo(&self, what: Unwanted) -> Result<(), Unwanted> {
        let errors = match &what {
            Unwanted::Pod(remains) => self.undo(remains).await,
            Unwanted::Container(id, cgroup) => self.undo_container(id, cgroup.clone()).await,
        };
        for error in &errors {
            tracing::warn!("undoing will be tried again: {}", chain(error));
        }
        if errors.is_empty() { Ok(()) } else { Err(what) }
    }

    fn retry_later(&self, what: Unwanted) {
        // Held for a push, a take or to count; never over an await.
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        self.attention.notify_one();
    }

    /// How much there is to undo.
    pub fn unfinished(&self) -> usize {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn undo_unfinished(&self) {
        let unfinished = std::mem::take(&mut *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner));
        for what in unfinished {
            self.undo_again(what).await;
        }
    }

    /// Removes what was made for a client that never received its ID and did not ask again (B2).
    async fn remove_abandoned(&self) {
        let limit = Duration::from_secs(self.config.abandoned_after_seconds);
        for container in self.containers() {
            if !container.is_claimed() && container.since.elapsed() > limit {
                tracing::info!(container = %container.facts.id, "removing a container that no client asked for again");
                match self.remove_container(container.facts.id.as_str()).await {
                    Ok(()) => abandoned(),
                    Err(error) => tracing::warn!(container = %container.facts.id, "{}", chain(&error)),
                }
            }
        }
        for pod in self.pods() {
            if !pod.is_claimed() && pod.since.elapsed() > limit {
                tracing::info!(pod = %pod.facts.id, "removing a pod that no client asked for again");
                match self.remove_pod(pod.facts.id.as_str()).await {
                    Ok(()) => abandoned(),
                    Err(error) => tracing::warn!(pod = %pod.facts.id, "{}", chain(&error)),
                }
            }
        }
    }
}

/// Counted once it is gone: until then it is looked at again and again.
fn abandoned() {
    metrics().leak_found(Leak::Abandoned);
    metrics().leak_repaired(Leak::Abandoned);
}
