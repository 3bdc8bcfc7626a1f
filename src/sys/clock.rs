//! The time of day, and what the kernel knows of its clock.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch, as all times of the CRI; 0 is "not yet".
pub type Nanos = i64;

/// The time now.
pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The state of the system clock, as a time service keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockState {
    /// Whether a time service keeps it right (`STA_UNSYNC` is not set).
    pub synchronised: bool,
    /// How wrong it may be, by that service's estimate; grows while nobody looks after it.
    pub max_error: Duration,
}

/// Asks the kernel, and sets nothing.
pub fn state() -> io::Result<ClockState> {
    // SAFETY: all fields are numbers, for which zero is a value; `modes` 0 asks and changes nothing (adjtimex(2)).
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` of ours, which the kernel fills.
    match unsafe { libc::adjtimex(&raw mut time) } {
        -1 => Err(io::Error::last_os_error()),
        state => Ok(ClockState {
            synchronised: state != libc::TIME_ERROR && time.status & libc::STA_UNSYNC == 0,
            max_error: Duration::from_micros(u64::try_from(time.maxerror).unwrap_or_default()),
        }),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_tells_of_its_clock() {
        super::state().unwrap();
    }
}
