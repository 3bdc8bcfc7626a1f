//! Processors in use, from processor time at two requests.
//!
//! The peers disagree: one has a sampler that reads everything every second for ever, the other divides by the time since
//! whichever client asked last, be that a millisecond ago. Here the earlier sample is at least [`SHORTEST`] old, so that a
//! second client does not make the first one's figures jump, and at most [`LONGEST`], since an average of hours is no rate.

use std::time::{Duration, Instant};

/// Requests that follow sooner get the rate of before.
const SHORTEST: Duration = Duration::from_millis(500);
/// The kubelet asks every 10 s, and scrapers every minute.
const LONGEST: Duration = Duration::from_secs(150);

/// The earlier sample of one cgroup, and its rate then.
#[derive(Debug, Default)]
pub(super) struct Rate {
    sample: Option<(Instant, u64)>,
    nano_cores: Option<u64>,
}

impl Rate {
    /// Takes the processor time of now, in nanoseconds, and gives the rate as far as there is one (B21).
    pub(super) fn update(&mut self, at: Instant, nanos: u64) -> Option<u64> {
        if let Some((since, before)) = self.sample {
            let passed = at.saturating_duration_since(since);
            if passed < SHORTEST && nanos >= before {
                return self.nano_cores;
            }
            let used = nanos.checked_sub(before).filter(|_| passed <= LONGEST);
            self.nano_cores = used.map(|used| nano_cores(used, passed));
        }
        self.sample = Some((at, nanos));
        self.nano_cores
    }
}

fn nano_cores(used: u64, passed: Duration) -> u64 {
    let rate = u128::from(used) * 1_000_000_000 / passed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn b21_there_is_a_rate_from_the_second_request_on() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!(rate.update(start, 5 * SECOND), None);
        assert_eq!(rate.update(start + Duration::from_secs(10), 10 * SECOND), Some(SECOND / 2));
        assert_eq!(rate.update(start + Duration::from_secs(20), 10 * SECOND), Some(0));
    }

    #[test]
    fn a_second_client_does_not_shorten_the_time_over_which_the_rate_is() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(rate.update(at(0), 0), None);
        assert_eq!(rate.update(at(1), 1_000_000), None);
        assert_eq!(rate.update(at(1000), SECOND), Some(SECOND));
        assert_eq!(rate.update(at(1001), SECOND + 9_000_000), Some(SECOND), "a burst of a moment is no rate");
        assert_eq!(rate.update(at(2000), SECOND + 9_000_000), Some(9_000_000));
    }

    #[test]
    fn what_was_long_ago_or_goes_backwards_is_no_base() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        rate.update(start, 0);
        assert_eq!(rate.update(start + Duration::from_secs(3600), SECOND), None);
        assert_eq!(rate.update(start + Duration::from_secs(3601), 2 * SECOND), Some(SECOND));
        assert_eq!(
            rate.update(start + Duration::from_secs(3602), 1),
            None,
            "another cgroup of the same name"
        );
        assert_eq!(rate.update(start + Duration::from_secs(3603), SECOND + 1), Some(SECOND));
    }
}
