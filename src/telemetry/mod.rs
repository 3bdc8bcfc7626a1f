//! What operators see of the daemon's work: stages, as spans, histograms and timelines.
//!
//! Everything that takes time is a [`Step`]. The parts above and the leaves beside say what they do and how it ended; where
//! that goes is known here alone:
//!
//! ```text
//!                 ┌─► a span                 for a trace, while one is recorded
//!  Step::begin ───┼─► a line of the log      at the level "debug"
//!    ... end      └─► the pod's timeline     where one is being written (`timeline.rs`)
//! ```
//!
//! This module knows nothing of pods and imports no part of podd, so that any part may use it.

mod step;
pub mod timeline;

use std::error::Error;

pub use step::{Ended, Step};
pub use timeline::Timeline;

/// The whole chain of an error in one line: what the client is told and the log keeps.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
