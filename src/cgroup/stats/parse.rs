//! The formats of the files: one number, lines of a key and a number, pressure. What does not fit is left out; nothing here
//! fails, and nothing is allocated.

use super::Memory;
use crate::cgroup::CgroupMode;

/// What the kernel writes for "no limit" on v1 is not the largest number, but rounded to pages; nobody has that much.
const UNLIMITED: u64 = 1 << 62;

/// How long processes had to wait for something (PSI).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// At least one of them had to.
    pub some: Stall,
    /// All of them had to; kernels before 5.13 do not tell it of processors.
    pub full: Option<Stall>,
}

/// One line of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// In all, in nanoseconds.
    pub total: u64,
    /// The share of the last 10, 60 and 300 seconds, in percent.
    pub averages: [f64; 3],
}

/// A decimal number, with blanks around it. `max` is none.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let digit = |sum: u64, byte: &u8| match byte {
        b'0'..=b'9' => Some(sum.saturating_mul(10).saturating_add(u64::from(byte - b'0'))),
        _ => None,
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// A number that stands for a limit, if it limits anything.
pub(super) fn limit(text: &[u8]) -> Option<u64> {
    number(text).filter(|limit| *limit < UNLIMITED)
}

/// The lines `<key> <number>`.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b' ')?;
        Some((&line[..at], number(&line[at..])?))
    })
}

/// The number in the line of that key.
pub(super) fn value(text: &[u8], key: &[u8]) -> Option<u64> {
    pairs(text).find(|(name, _)| *name == key).map(|(_, number)| number)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a second line with `full`.
pub(super) fn pressure(text: &[u8]) -> Option<Pressure> {
    let text = std::str::from_utf8(text).ok()?;
    let line = |kind: &str| text.lines().find_map(|line| stall(line.strip_prefix(kind)?));
    Some(Pressure { some: line("some ")?, full: line("full ") })
}

fn stall(fields: &str) -> Option<Stall> {
    let field = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let average = |name| field(name)?.parse::<f64>().ok().filter(|share| share.is_finite());
    let total = field("total")?.parse::<u64>().ok()?.saturating_mul(1000);
    Some(Stall { total, averages: [average("avg10")?, average("avg60")?, average("avg300")?] })
}

/// `memory.stat`, whose lines are called otherwise on v1. There the names without `total_` leave out what is below the
/// cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct MemoryStat {
    memory: Memory,
    /// v1 alone.
    pub(super) swap: Option<u64>,
    /// `kernel` of v2, since Linux 5.18; before that it is the sum of its parts.
    kernel: Option<u64>,
    kernel_parts: u64,
}

impl MemoryStat {
    pub(super) fn parse(text: &[u8], mode: CgroupMode) -> Self {
        let mut stat = Self::default();
        for (key, number) in pairs(text) {
            match mode {
                CgroupMode::V1 => stat.take_v1(key, number),
                CgroupMode::V2 => stat.take_v2(key, number),
            }
        }
        stat
    }

    fn take_v1(&mut self, key: &[u8], number: u64) {
        match key {
            b"total_rss" => self.memory.rss = number,
            b"total_cache" => self.memory.cache = number,
            b"total_mapped_file" => self.memory.mapped_file = number,
            b"total_active_file" => self.memory.active_file = number,
            b"total_inactive_file" => self.memory.inactive_file = number,
            b"total_swap" => self.swap = Some(number),
            b"pgfault" => self.memory.page_faults.0 = number,
            b"total_pgfault" => self.memory.page_faults.1 = number,
            b"pgmajfault" => self.memory.major_page_faults.0 = number,
            b"total_pgmajfault" => self.memory.major_page_faults.1 = number,
            _ => {}
        }
    }

    fn take_v2(&mut self, key: &[u8], number: u64) {
        match key {
            b"anon" => self.memory.rss = number,
            b"file" => self.memory.cache = number,
            b"file_mapped" => self.memory.mapped_file = number,
            b"active_file" => self.memory.active_file = number,
            b"inactive_file" => self.memory.inactive_file = number,
            b"pgfault" => self.memory.page_faults = (number, number),
            b"pgmajfault" => self.memory.major_page_faults = (number, number),
            b"kernel" => self.kernel = Some(number),
            b"kernel_stack" | b"pagetables" | b"percpu" | b"slab" => {
                self.kernel_parts = self.kernel_parts.saturating_add(number);
            }
            _ => {}
        }
    }

    /// With what other files say.
    pub(super) fn memory(self, usage: u64, limit: Option<u64>) -> Memory {
        Memory {
            usage,
            limit,
            working_set: usage.saturating_sub(self.memory.inactive_file),
            kernel: self.kernel.unwrap_or(self.kernel_parts),
            ..self.memory
        }
    }
}
