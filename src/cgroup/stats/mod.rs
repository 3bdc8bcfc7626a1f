//! What a cgroup uses, read from its files.
//!
//! A [`Meter`] has the files open that a list of stats needs and reads each of them with one pread(2): no path is looked up
//! and nothing is allocated. What is asked for seldom ([`Details`]) is opened when it is asked for. Both go by the same
//! fields on v1 and v2 ([stats.md](../../../docs/stats.md) has the files); what this kernel or this cgroup does not have is
//! `None`, and never zero.
//!
//! Invariants: an open file of a cgroup does not keep the cgroup, and reading one of a cgroup that has gone is [`Gone`]. What
//! is read at once is bounded by [`Buffer`]: more than that of a file is not looked at.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

use super::{CgroupMode, CgroupPath, Cgroups};
use parse::MemoryStat;

mod details;
mod parse;
#[cfg(test)]
mod tests;

pub use details::{Cpu, Details, Device, HugePages};
pub use parse::{Pressure, Stall};

/// More than the longest file of them has; `memory.stat` has 2 kB.
const BUFFER: usize = 16 << 10;

/// Where files are read to, one after the other.
pub struct Buffer(Box<[u8]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; BUFFER].into())
    }
}

/// The cgroup is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cgroup is gone")]
pub struct Gone;

/// What a cgroup uses now. Times are in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage {
    /// Processor time since the cgroup was made.
    pub cpu: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap; `None` also where the kernel does not account for it.
    pub swap: Option<Swap>,
    /// Waiting for a processor.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for disks.
    pub io_pressure: Option<Pressure>,
}

/// What a cgroup has of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// All of it, page cache included.
    pub usage: u64,
    /// Without the cache that has not been used for long (B21).
    pub working_set: u64,
    /// The cgroup's own limit.
    pub limit: Option<u64>,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Of the cache, what is mapped.
    pub mapped_file: u64,
    /// Of the cache, what was used of late.
    pub active_file: u64,
    /// Of the cache, the rest.
    pub inactive_file: u64,
    /// Memory of the kernel's for these processes.
    pub kernel: u64,
    /// Page faults, of the cgroup alone and with all below it; v2 tells the latter alone.
    pub page_faults: (u64, u64),
    /// Those of them that had to wait for a disk.
    pub major_page_faults: (u64, u64),
}

impl Memory {
    /// What is left of the limit, if there is one.
    pub fn available(&self) -> Option<u64> {
        Some(self.limit?.saturating_sub(self.working_set))
    }
}

/// What a cgroup has on swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swap {
    /// Bytes there.
    pub usage: u64,
    /// How many there may be.
    pub limit: Option<u64>,
}

/// The open files of one cgroup.
pub struct Meter {
    mode: CgroupMode,
    cpu: Option<File>,
    memory: Option<File>,
    memory_stat: Option<File>,
    memory_limit: Option<File>,
    /// v2 alone; on v1 it is in `memory.stat`.
    swap: Option<File>,
    /// Of swap alone on v2, of memory and swap together on v1.
    swap_limit: Option<File>,
    cpu_pressure: Option<File>,
    memory_pressure: Option<File>,
    io_pressure: Option<File>,
}

impl Cgroups {
    /// Opens what there is of a cgroup's files; [`Gone`] where there is none.
    pub fn meter(&self, path: &CgroupPath) -> Result<Meter, Gone> {
        let open =
            |controller: &str, file: &str| File::open(self.directory(path, controller)?.join(file)).ok();
        let meter = match self.mode {
            CgroupMode::V1 => Meter {
                mode: self.mode,
                cpu: open("cpuacct", "cpuacct.usage"),
                memory: open("memory", "memory.usage_in_bytes"),
                memory_stat: open("memory", "memory.stat"),
                memory_limit: open("memory", "memory.limit_in_bytes"),
                swap: None,
                swap_limit: open("memory", "memory.memsw.limit_in_bytes"),
                // Only the unified hierarchy has them.
                cpu_pressure: None,
                memory_pressure: None,
                io_pressure: None,
            },
            CgroupMode::V2 => Meter {
                mode: self.mode,
                cpu: open("cpu", "cpu.stat"),
                memory: open("memory", "memory.current"),
                memory_stat: open("memory", "memory.stat"),
                memory_limit: open("memory", "memory.max"),
                swap: open("memory", "memory.swap.current"),
                swap_limit: open("memory", "memory.swap.max"),
                cpu_pressure: open("cpu", "cpu.pressure"),
                memory_pressure: open("memory", "memory.pressure"),
                io_pressure: open("io", "io.pressure"),
            },
        };
        if meter.files() == 0 { Err(Gone) } else { Ok(meter) }
    }

    /// The directory in which a cgroup has the files of a controller.
    fn directory(&self, path: &CgroupPath, controller: &str) -> Option<std::path::PathBuf> {
        let at = match self.mode {
            CgroupMode::V2 => self.hierarchies.first(),
            CgroupMode::V1 => self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller)),
        };
        Some(path.under(&at?.root))
    }
}

impl Meter {
    /// How many files it has open.
    pub fn files(&self) -> usize {
        let all =
            [&self.cpu, &self.memory, &self.memory_stat, &self.memory_limit, &self.swap, &self.swap_limit];
        let pressures = [&self.cpu_pressure, &self.memory_pressure, &self.io_pressure];
        all.into_iter().chain(pressures).flatten().count()
    }

    /// Reads all files. Blocks for as long as the kernel takes to add up: not for the async pool.
    pub fn read(&self, buffer: &mut Buffer) -> Result<Usage, Gone> {
        let cpu = buffer.read(self.cpu.as_ref())?.and_then(|text| match self.mode {
            CgroupMode::V1 => parse::number(text),
            CgroupMode::V2 => parse::value(text, b"usage_usec").map(|micros| micros.saturating_mul(1000)),
        });
        let stat = buffer.read(self.memory_stat.as_ref())?.map(|text| MemoryStat::parse(text, self.mode));
        let usage = buffer.read(self.memory.as_ref())?.and_then(parse::number);
        let limit = buffer.read(self.memory_limit.as_ref())?.and_then(parse::limit);
        let swap = buffer.read(self.swap.as_ref())?.and_then(parse::number);
        let swap_limit = buffer.read(self.swap_limit.as_ref())?.map(parse::limit);
        Ok(Usage {
            cpu,
            memory: usage.map(|usage| stat.unwrap_or_default().memory(usage, limit)),
            swap: match self.mode {
                CgroupMode::V1 => stat.and_then(|stat| stat.swap).zip(swap_limit).map(|(usage, both)| Swap {
                    usage,
                    limit: both.zip(limit).map(|(both, memory)| both.saturating_sub(memory)),
                }),
                CgroupMode::V2 => swap.map(|usage| Swap { usage, limit: swap_limit.flatten() }),
            },
            cpu_pressure: buffer.read(self.cpu_pressure.as_ref())?.and_then(parse::pressure),
            memory_pressure: buffer.read(self.memory_pressure.as_ref())?.and_then(parse::pressure),
            io_pressure: buffer.read(self.io_pressure.as_ref())?.and_then(parse::pressure),
        })
    }
}

impl Buffer {
    /// The text of a file, from its beginning; `None` of a file that is not there, or that says nothing here.
    fn read(&mut self, file: Option<&File>) -> Result<Option<&[u8]>, Gone> {
        let Some(file) = file else { return Ok(None) };
        match file.read_at(&mut self.0, 0) {
            Ok(length) => Ok(self.0.get(..length)),
            Err(error) if is_gone(&error) => Err(Gone),
            Err(_) => Ok(None),
        }
    }

    /// How many lines a file has, however many.
    pub(in crate::cgroup) fn count_lines(&mut self, path: &Path) -> Option<u64> {
        let (mut file, mut lines) = (File::open(path).ok()?, 0);
        loop {
            let length = file.read(&mut self.0).ok()?;
            let ends = self.0.get(..length)?.iter().filter(|byte| **byte == b'\n').count();
            match length {
                0 => return Some(lines),
                _ => lines += u64::try_from(ends).unwrap_or(0),
            }
        }
    }

    /// The text of a file that is not kept open; `None` as above, or when it is gone.
    pub(super) fn read_path(&mut self, path: &Path) -> Option<&[u8]> {
        let file = File::open(path).ok()?;
        self.read(Some(&file)).ok().flatten()
    }
}

/// A file of a cgroup that was removed answers ENODEV.
fn is_gone(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NODEV)
}
