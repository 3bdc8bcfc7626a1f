//! The time: certificates, tokens and logs go by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podd::sys::clock::{self, ClockState};

use super::finding::Check;

/// 2026-01-01: no podd was ever built before.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// What was seen of it.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// Since the epoch.
    pub(super) now: Duration,
    pub(super) state: Result<ClockState, String>,
}

/// Looks at it.
pub(super) fn observe() -> Observed {
    Observed {
        now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        state: clock::state().map_err(|e| e.to_string()),
    }
}

/// Judges it.
pub(super) fn checks(observed: &Observed) -> Vec<Check> {
    let sane = match observed.now {
        now if now < EARLIEST => Check::problem(
            "clock.time",
            "the clock shows a time before 2026",
            "set it (timedatectl set-ntp true): registries' certificates and tokens are not valid at that time",
        ),
        _ => Check::ok("clock.time", "later than podd was built"),
    };
    let synchronised = match &observed.state {
        Err(why) => Check::unseen("clock.synchronised", why.clone()),
        Ok(state) if state.synchronised => Check::ok(
            "clock.synchronised",
            format!("yes, within {:.0} ms", state.max_error.as_secs_f64() * 1e3),
        ),
        Ok(_) => Check::warning(
            "clock.synchronised",
            "no time service keeps the clock right, as far as the kernel knows",
            "start chrony or systemd-timesyncd (in a virtual machine the host may do it, unknown to the kernel)",
        ),
    };
    vec![sane, synchronised]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    fn outcomes(seconds: u64, state: Result<ClockState, String>) -> Vec<Outcome> {
        let observed = Observed { now: Duration::from_secs(seconds), state };
        checks(&observed).iter().map(|check| check.outcome).collect()
    }

    #[test]
    fn a_clock_is_right_and_kept_right() {
        let state = |synchronised| Ok(ClockState { synchronised, max_error: Duration::from_millis(2) });
        assert_eq!(outcomes(1_800_000_000, state(true)), [Outcome::Ok, Outcome::Ok]);
        assert_eq!(outcomes(1_800_000_000, state(false)), [Outcome::Ok, Outcome::Warning]);
        assert_eq!(outcomes(5, state(true))[0], Outcome::Problem);
        assert_eq!(outcomes(1_800_000_000, Err("EPERM".into()))[1], Outcome::Note);
    }
}
