//! The daemon's own process, as /proc tells of it (proc_pid_stat(5)).

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What a scrape says of the process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Process {
    /// Processor time, in seconds.
    pub(super) cpu: f64,
    /// In bytes.
    pub(super) resident: u64,
    /// In bytes.
    pub(super) virtual_memory: u64,
    pub(super) threads: u64,
    pub(super) descriptors: u64,
    pub(super) descriptors_max: u64,
    /// In seconds since 1970.
    pub(super) started: f64,
}

impl Process {
    /// `None` where /proc is not what it should be.
    pub(super) fn observe() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let booted = fs::read_to_string("/proc/stat").ok()?;
        let booted =
            booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
        let descriptors = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::read(&stat, booted, descriptors, limit)
    }

    fn read(stat: &str, booted: f64, descriptors: u64, descriptors_max: u64) -> Option<Self> {
        // Field 2, the name, may hold anything but ends at the last parenthesis; what follows begins with field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        Some(Self {
            cpu: seconds(field(14)? + field(15)?),
            resident: field(24)? * page_size() as u64,
            virtual_memory: field(23)?,
            threads: field(20)?,
            // The directory is open while it is counted.
            descriptors: descriptors.saturating_sub(1),
            descriptors_max,
            started: booted + seconds(field(22)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_process_is_this_one() {
        let process = Process::observe().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.started <= now + 1.0 && process.started > now - 86_400.0, "{process:?}");
        assert!(process.resident > 1 << 20 && process.virtual_memory >= process.resident, "{process:?}");
        assert!(process.threads >= 1 && process.descriptors >= 3, "{process:?}");
        assert!(process.descriptors_max >= process.descriptors, "{process:?}");
        assert_eq!(Process::read("1 (a) b) S 1", 0.0, 3, 9), None);
    }
}
