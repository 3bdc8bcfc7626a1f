//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch, as all times of the CRI; 0 is "not yet".
pub type Nanos = i64;

/// The time now.
pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
