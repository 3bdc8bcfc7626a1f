//! The stages of operations on pods and containers: what each took, and the error that names it.

use std::time::Duration;

use tracing::Span;

use super::error::{Cause, PodError};
use crate::monitor::{Created, MonitorError};
use crate::telemetry::{Ended, Step};

/// A stage under way, so that its failure can say how long it took. What else is made of it is [`Step`]'s.
pub(super) struct Stage {
    stage: &'static str,
    step: Step,
}

impl Stage {
    pub(super) fn begin(stage: &'static str, object: &impl ToString) -> Self {
        Self { stage, step: Step::begin(stage, object.to_string()) }
    }

    /// Its span, for a leaf that has spans of its own.
    pub(super) fn span(&self) -> Span {
        self.step.span()
    }

    /// Ends the making of a container, with the stages in it that its monitor has measured.
    pub(super) fn launched(self, made: Result<Created, MonitorError>) -> Result<Created, PodError> {
        if let Ok(Created { timing: Some(timing), .. }) = &made {
            let nanos = Duration::from_nanos;
            let waited = u64::try_from(timing.began.saturating_sub(self.step.started_at())).unwrap_or(0);
            let mounted = timing.began.saturating_add_unsigned(timing.mount);
            self.step.inner("starting the monitor", self.step.started_at(), nanos(waited));
            self.step.inner("mounting the root filesystem", timing.began, nanos(timing.mount));
            self.step.inner("running the runtime's create", mounted, nanos(timing.create));
        }
        self.check(made)
    }

    /// Ends it, and turns a leaf's error into this stage's.
    pub(super) fn check<T>(self, result: Result<T, impl Into<Cause>>) -> Result<T, PodError> {
        let Self { stage, step } = self;
        match result.map_err(Into::into) {
            Ok(value) => {
                step.end(None);
                Ok(value)
            }
            Err(source) => {
                let source: Cause = source;
                let Ended { object, took } = step.end(Some(source.as_ref()));
                Err(PodError::Stage { stage, object, took, source })
            }
        }
    }
}
