//! What is tried again, and what nobody came back for. One task, one pass every few seconds; it owns no state but the list
//! of pods whose undoing has failed.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Pods;
use super::error::chain;
use super::resources::Remains;

/// How often the passes are made.
const PERIOD: Duration = Duration::from_secs(5);

impl Pods {
    /// Goes on for ever.
    pub async fn tend(self: Arc<Self>) {
        tokio::join!(self.network.retry_pending(), self.pass());
    }

    async fn pass(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            self.undo_unfinished().await;
            self.remove_abandoned().await;
        }
    }

    /// Undoes a pod that is not to be; what cannot be undone now is tried again.
    pub(super) async fn undo_or_retry(&self, remains: Remains) {
        let errors = self.undo(&remains).await;
        for error in &errors {
            tracing::warn!(pod = %remains.id, "undoing will be tried again: {}", chain(error));
        }
        if !errors.is_empty() {
            // Held for a push or a take; never over an await.
            self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push(remains);
        }
    }

    async fn undo_unfinished(&self) {
        let unfinished = std::mem::take(&mut *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner));
        for remains in unfinished {
            self.undo_or_retry(remains).await;
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
