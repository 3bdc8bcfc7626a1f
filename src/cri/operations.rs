//! Mutating RPCs run in tasks of their own: a client that goes away cancels nothing halfway, and a stopping daemon waits
//! for what is under way.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::{Instrument, Span};

/// The operations under way.
#[derive(Clone, Default)]
pub(super) struct Operations {
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Operations {
    /// Runs an operation to its end, whoever still listens.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Status> {
        if self.stopping.is_cancelled() {
            return Err(Status::unavailable("the daemon is stopping; try again"));
        }
        let task = self.tasks.spawn(operation.instrument(Span::current()));
        task.await.map_err(|e| Status::internal(format!("the operation ended in a defect of podd: {e}")))
    }

    /// Runs an operation that ends with its client, but that a stopping daemon waits for like any other.
    pub(super) async fn attend<T>(&self, operation: impl Future<Output = T>) -> T {
        self.tasks.track_future(operation).await
    }

    /// Refuses new operations.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
    }

    /// Resolves when [`stop`](Self::stop) was called.
    pub(super) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Waits for what is under way.
    pub(super) async fn drained(&self) {
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_operation_runs_to_its_end_and_a_stop_waits_for_it() {
        let (operations, done) = (Operations::default(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&done);
        let operation = operations.run(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            flag.store(true, Ordering::Relaxed);
        });
        assert!(
            tokio::time::timeout(Duration::from_secs(1), operation).await.is_err(),
            "the client gives up"
        );
        operations.stop();
        operations.drained().await;
        assert!(done.load(Ordering::Relaxed));
        assert_eq!(operations.run(async {}).await.unwrap_err().code(), tonic::Code::Unavailable);
    }
}
