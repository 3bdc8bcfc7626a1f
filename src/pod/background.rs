//! What is tried again, and what nobody came back for. One task, which sleeps while nothing is made and nothing is left to
//! undo; it owns no state but the list of what could not be undone.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Pods;
use super::error::chain;
use super::resources::Remains;
use crate::cgroup::CgroupPath;
use crate::id::ContainerId;

/// The time from an event to the pass that looks at it, and so between two passes.
const PAUSE: Duration = Duration::from_secs(5);

/// What is to be undone: a creation that failed, or what a recovery finds and does not adopt.
pub(super) enum Unwanted {
    Pod(Remains),
    /// With its cgroup, where it is known.
    Container(ContainerId, Option<CgroupPath>),
}

impl Pods {
    /// Goes on for ever.
    pub async fn tend(self: Arc<Self>) {
        tokio::join!(self.network.retry_pending(), self.pass());
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

    /// Undoes what is not to be; what cannot be undone now is tried again.
    pub(super) async fn undo_or_retry(&self, what: Unwanted) {
        let errors = match &what {
            Unwanted::Pod(remains) => self.undo(remains).await,
            Unwanted::Container(id, cgroup) => self.undo_container(id, cgroup.clone()).await,
        };
        for error in &errors {
            tracing::warn!("undoing will be tried again: {}", chain(error));
        }
        if !errors.is_empty() {
            // Held for a push or a take; never over an await.
            self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push(what);
            self.attention.notify_one();
        }
    }

    async fn undo_unfinished(&self) {
        let unfinished = std::mem::take(&mut *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner));
        for what in unfinished {
            self.undo_or_retry(what).await;
        }
    }

    /// Removes what was made for a client that never received its ID and did not ask again (B2).
    async fn remove_abandoned(&self) {
        let limit = Duration::from_secs(self.config.abandoned_after_seconds);
        for container in self.containers() {
            if !container.is_claimed() && container.since.elapsed() > limit {
                tracing::info!(container = %container.facts.id, "removing a container that no client asked for again");
                let _ = self.remove_container(container.facts.id.as_str()).await.inspect_err(|error| {
                    tracing::warn!(container = %container.facts.id, "{}", chain(error));
                });
            }
        }
        for pod in self.pods() {
            if !pod.is_claimed() && pod.since.elapsed() > limit {
                tracing::info!(pod = %pod.facts.id, "removing a pod that no client asked for again");
                let _ = self.remove_pod(pod.facts.id.as_str()).await.inspect_err(|error| {
                    tracing::warn!(pod = %pod.facts.id, "{}", chain(error));
                });
            }
        }
    }
}
