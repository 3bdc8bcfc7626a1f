//! What an action costs: time, processor time of a process with its children, and its memory at the peak.

use std::fs;
use std::time::Instant;

/// The kernel's clock ticks a second, as everywhere on Linux.
const TICKS: f64 = 100.0;

/// What one action took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// In seconds.
    pub time: f64,
    /// Of the process and the children that it has waited for, in seconds.
    pub cpu: f64,
    /// Processor time that the whole machine left unused meanwhile, in seconds.
    pub idle: f64,
    /// Resident memory at the peak over that before, in MiB.
    pub memory: f64,
}

/// A measurement that has begun.
pub struct Meter {
    pid: u32,
    began: Instant,
    cpu: f64,
    idle: f64,
    resident: f64,
}

impl Meter {
    /// Measures the process from now on.
    pub fn start(pid: u32) -> Self {
        // The peak is counted anew (proc(5), clear_refs).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Self { pid, cpu: cpu(pid), idle: idle(), resident: memory(pid, "VmRSS:"), began: Instant::now() }
    }

    /// What it took up to now.
    pub fn stop(self) -> Cost {
        let time = self.began.elapsed().as_secs_f64();
        let memory = memory(self.pid, "VmHWM:") - self.resident;
        Cost { time, cpu: cpu(self.pid) - self.cpu, idle: idle() - self.idle, memory }
    }
}

fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: f64 = fields.skip(11).take(4).map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / TICKS
}

/// Of all processors, also while they wait for a disk.
fn idle() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let fields = stat.lines().next().unwrap().split_whitespace();
    fields.skip(4).take(2).map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}

fn memory(pid: u32, key: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
