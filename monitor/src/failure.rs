//! What went wrong, for the person who reads it: the step, the object, the cause.

use std::fmt::Display;
use std::io;

use podd_monitor::protocol::{Report, Stage};

/// A creation that cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(stage: Stage, text: impl Into<String>) -> Self {
        Self { stage, text: text.into() }
    }

    pub(crate) fn report(self) -> Report {
        Report::Failed { stage: self.stage, text: self.text }
    }
}

/// Adds what was being done to an error of the system.
pub(crate) trait Described<T> {
    fn described(self, operation: impl Display) -> Result<T, String>;
}

impl<T> Described<T> for io::Result<T> {
    fn described(self, operation: impl Display) -> Result<T, String> {
        self.map_err(|error| format!("{operation}: {error}"))
    }
}

/// Adds the stage to a text.
pub(crate) trait Staged<T> {
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T> Staged<T> for Result<T, String> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|text| Failure { stage, text })
    }
}
