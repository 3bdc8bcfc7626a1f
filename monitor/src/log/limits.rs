//! How much a container may log: a size that its file stays within until it is rotated, and a rate.

use std::time::{Duration, Instant};

use podd_monitor::protocol::Settings;

use super::lines::{HEAD, LINE_LIMIT};

/// How long nothing is logged once there was more than the rate allows, so that one report stands for many lines.
const PAUSE: Duration = Duration::from_secs(1);

/// The least burst: a line of any length must be able to pass.
const BURST_MIN: u64 = 2 * (HEAD + LINE_LIMIT) as u64;

/// What the settings ask for.
#[derive(Debug)]
pub(crate) struct Limits {
    /// The most that the file may hold, in bytes.
    pub(super) size: Option<u64>,
    pub(super) rate: Option<Rate>,
}

impl Limits {
    pub(crate) fn of(settings: &Settings) -> Self {
        let Settings { log_size_max: size, log_rate: rate, log_rate_burst: burst, .. } = *settings;
        let burst = if burst == 0 { rate } else { burst };
        Self {
            size: (size > 0).then_some(size),
            rate: (rate > 0).then(|| Rate::new(rate, burst, Instant::now())),
        }
    }
}

/// So many bytes a second, and so many at once after a time of less.
#[derive(Debug)]
pub(crate) struct Rate {
    pub(super) bytes_per_second: u64,
    burst: u64,
    /// When all that was admitted would have passed at exactly the rate.
    spent_until: Instant,
    /// Nothing is admitted until then.
    closed_until: Option<Instant>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: u64, burst: u64, now: Instant) -> Self {
        Self { bytes_per_second, burst: burst.max(BURST_MIN), spent_until: now, closed_until: None }
    }

    /// How many of these bytes, in whole lines, may be written now; they count as written.
    pub(super) fn admit(&mut self, lines: &[u8], now: Instant) -> usize {
        if self.closed_until.is_some_and(|until| now < until) {
            return 0;
        }
        let count = whole_lines(lines, self.room(now));
        self.closed_until = (count < lines.len()).then(|| now + PAUSE);
        let spent = count as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        let spent = Duration::from_nanos(u64::try_from(spent).unwrap_or(u64::MAX));
        self.spent_until = self.spent_until.max(now) + spent;
        count
    }

    fn room(&self, now: Instant) -> u64 {
        let ahead = self.spent_until.saturating_duration_since(now).as_nanos();
        let used = ahead * u128::from(self.bytes_per_second) / 1_000_000_000;
        self.burst.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX))
    }
}

/// The length of the lines that fit in so many bytes as a whole.
pub(super) fn whole_lines(lines: &[u8], room: u64) -> usize {
    match usize::try_from(room) {
        Ok(room) if room < lines.len() => {
            lines[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
        }
        Ok(_) | Err(_) => lines.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes when, no stretch of time sees more than the rate and one burst, and what is within is let through.
        #[test]
        fn a_stretch_of_time_sees_the_rate_and_one_burst_at_most(
            rate in 20_000u64..2_000_000,
            burst in 0u64..500_000,
            pieces in proptest::collection::vec((0u64..400_000, 1usize..900), 1..200),
        ) {
            let began = Instant::now();
            let mut limit = Rate::new(rate, burst, began);
            let burst = burst.max(BURST_MIN);
            let (mut now, mut passed) = (began, Vec::<(Instant, u64)>::new());
            for (micros, lines) in pieces {
                now += Duration::from_micros(micros);
                let text = b"0123456789012345678\n".repeat(lines);
                let count = limit.admit(&text, now);
                prop_assert_eq!(count % 20, 0);
                passed.push((now, count as u64));
            }
            for first in 0..passed.len() {
                let mut sum = 0;
                for (at, count) in &passed[first..] {
                    sum += count;
                    let seconds = at.duration_since(passed[first].0).as_secs_f64();
                    prop_assert!(sum as f64 <= burst as f64 + seconds * rate as f64 + 1.0);
                }
            }
        }
    }

    #[test]
    fn what_stays_below_the_rate_is_never_held_back() {
        let began = Instant::now();
        let mut limit = Rate::new(50_000, 0, began);
        let line = [b'\n'; 500];
        for n in 0..10_000u32 {
            assert_eq!(limit.admit(&line, began + n * Duration::from_millis(10)), line.len());
        }
    }

    #[test]
    fn after_too_much_there_is_a_second_of_silence_and_then_it_goes_on() {
        let began = Instant::now();
        let mut limit = Rate::new(100_000, 100_000, began);
        let lines = [b'\n'; 150_000];
        assert_eq!(limit.admit(&lines, began), 100_000);
        assert_eq!(limit.admit(b"\n", began + Duration::from_millis(999)), 0);
        assert_eq!(limit.admit(&lines, began + Duration::from_millis(1000)), 100_000);
        assert_eq!(limit.admit(b"\n", began + Duration::from_secs(3)), 1);
    }
}
