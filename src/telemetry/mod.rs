//! What operators see of the daemon's work: stages, as spans, histograms and timelines.
//!
//! Everything that takes time is a [`Step`]. The parts above and the leaves beside say what they do and how it ended; where
//! that goes is known here alone:
//!
//! ```text
//!                 ┌─► a span                 for a trace, while one is recorded (`trace.rs`)
//!  Step::begin ───┼─► a line of the log      at the level "debug" (`log/`)
//!    ... end      ├─► a histogram            by stage, with all else that is counted (`metrics/`)
//!                 └─► the pod's timeline     where one is being written (`timeline.rs`)
//! ```
//!
//! [`start`] sends the log and the spans of this process where the configuration says. This module knows nothing of pods and
//! imports no part of podd but its configuration, so that any part may use it.

mod log;
mod metrics;
mod start;
mod step;
pub mod timeline;
mod trace;

use std::error::Error;

pub use metrics::{Histogram, LayerOrigin, Leak, Metrics, Rpc, Rpcs, Session, metrics};
pub use start::{Running, StartError, start, start_plain};
pub use step::{Ended, Step};
pub use timeline::Timeline;
pub use trace::continue_from;

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
