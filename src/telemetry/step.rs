//! One stage of an operation, measured.

use std::error::Error;
use std::time::{Duration, Instant};

use tracing::Span;

use super::metrics::metrics;
use super::timeline::{self, Entry};
use super::trace;
use crate::sys::clock;

/// A stage under way.
#[derive(Debug)]
pub struct Step {
    stage: &'static str,
    object: String,
    span: Span,
    began: Instant,
    /// In nanoseconds since 1970.
    started_at: i64,
}

/// A stage that is over.
#[derive(Debug)]
pub struct Ended {
    /// What it was done for.
    pub object: String,
    /// How long it took.
    pub took: Duration,
}

impl Step {
    /// Begins a stage. Its name is one of the few that stand in the code, the object is what it is done for.
    pub fn begin(stage: &'static str, object: impl Into<String>) -> Self {
        let object = object.into();
        let span = tracing::debug_span!(
            "stage",
            otel.name = stage,
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            object
        );
        Self { stage, object, span, began: Instant::now(), started_at: clock::now() }
    }

    /// Its span, for what is done in it and has spans of its own.
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// When it began, in nanoseconds since 1970.
    pub fn started_at(&self) -> i64 {
        self.started_at
    }

    /// Notes a stage within this one, for the same object, that somebody else has measured: when it began, in nanoseconds
    /// since 1970, and how long it took.
    pub fn inner(&self, stage: &'static str, started_at: i64, took: Duration) {
        metrics().stage(stage, took, true);
        trace::past(&self.span, stage, &self.object, started_at, took);
        timeline::record(|| Entry::new(stage, &self.object, started_at, took, None));
    }

    /// Ends it, with the error if it has failed.
    pub fn end(self, error: Option<&dyn Error>) -> Ended {
        let took = self.began.elapsed();
        let Self { stage, object, span, started_at, .. } = self;
        metrics().stage(stage, took, error.is_none());
        tracing::debug!(parent: &span, stage, object, micros = took.as_micros(), ok = error.is_none());
        let error = error.map(super::chain);
        if let Some(error) = &error {
            span.record("otel.status_code", "error");
            span.record("otel.status_description", error);
        }
        timeline::record(|| Entry::new(stage, &object, started_at, took, error));
        Ended { object, took }
    }
}
