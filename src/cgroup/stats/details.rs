//! What only metrics tell of a cgroup: opened when it is asked for, since nobody asks every second.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::{Buffer, parse};
use crate::cgroup::{CgroupMode, CgroupPath, Cgroups};

/// Of more devices nothing is told; a node has a handful.
const MAX_DEVICES: usize = 256;

/// More of what a cgroup uses, and has used. Times are in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// How processors were used, and withheld.
    pub cpu: Option<Cpu>,
    /// The most memory that was ever in use; on v2 since Linux 5.19.
    pub memory_peak: Option<u64>,
    /// How often the limit of memory was in the way.
    pub memory_limit_hits: Option<u64>,
    /// The kernel's memory on v1, where `memory.stat` does not have it.
    pub kernel_memory: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// What was read and written, by device.
    pub devices: Vec<Device>,
    /// Huge pages, by their size.
    pub huge_pages: Vec<HugePages>,
    /// Threads.
    pub threads: Option<u64>,
    /// How many there may be; `None` also where there is no limit.
    pub threads_max: Option<u64>,
}

/// How processors were used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cpu {
    /// By the processes themselves.
    pub user: u64,
    /// By the kernel for them.
    pub system: u64,
    /// Periods of the quota that have passed; without a quota there are none.
    pub periods: u64,
    /// Those of them in which the quota was used up.
    pub throttled_periods: u64,
    /// How long processes were held because of that.
    pub throttled: u64,
}

/// What was done with one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// As the kernel writes it: `2MB`.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// The most there ever were; v1 alone.
    pub peak: Option<u64>,
}

impl Cgroups {
    /// Reads it all. A cgroup that is gone has nothing. Blocks: not for the async pool.
    pub fn details(&self, path: &CgroupPath, buffer: &mut Buffer) -> Details {
        let mut files = Files { cgroups: self, path, buffer };
        match self.mode {
            CgroupMode::V1 => files.v1(),
            CgroupMode::V2 => files.v2(),
        }
    }
}

struct Files<'a> {
    cgroups: &'a Cgroups,
    path: &'a CgroupPath,
    buffer: &'a mut Buffer,
}

impl Files<'_> {
    fn text(&mut self, controller: &str, file: &str) -> Option<&[u8]> {
        let path: PathBuf = self.cgroups.directory(self.path, controller)?.join(file);
        self.buffer.read_path(&path)
    }

    fn number(&mut self, controller: &str, file: &str) -> Option<u64> {
        self.text(controller, file).and_then(parse::number)
    }

    fn value(&mut self, controller: &str, file: &str, key: &[u8]) -> Option<u64> {
        self.text(controller, file).and_then(|text| parse::value(text, key))
    }

    fn v1(&mut self) -> Details {
        let user = self.number("cpuacct", "cpuacct.usage_user");
        let system = self.number("cpuacct", "cpuacct.usage_sys");
        let quota = self.text("cpu", "cpu.stat").map(cpu_v1).unwrap_or_default();
        let mut devices = BTreeMap::new();
        // Those of the throttling layer are there with every scheduler.
        for (file, kind) in
            [("io_service_bytes_recursive", Kind::Bytes), ("io_serviced_recursive", Kind::Times)]
        {
            if let Some(text) = self.text("blkio", &format!("blkio.throttle.{file}")) {
                devices_v1(text, kind, &mut devices);
            }
        }
        // Where swap is limited with memory the kernel meets that limit first: older ones count there, Linux 6.18 nowhere.
        let with_swap = self.number("memory", "memory.memsw.failcnt").unwrap_or(0);
        Details {
            cpu: user.zip(system).map(|(user, system)| Cpu { user, system, ..quota }),
            memory_peak: self.number("memory", "memory.max_usage_in_bytes"),
            memory_limit_hits: self
                .number("memory", "memory.failcnt")
                .map(|hits| hits.saturating_add(with_swap)),
            kernel_memory: self.number("memory", "memory.kmem.usage_in_bytes"),
            oom_kills: self.value("memory", "memory.oom_control", b"oom_kill"),
            devices: devices.into_values().collect(),
            huge_pages: self.huge_pages("usage_in_bytes", Some("max_usage_in_bytes")),
            threads: self.number("pids", "pids.current"),
            threads_max: self.number("pids", "pids.max"),
        }
    }

    fn v2(&mut self) -> Details {
        Details {
            cpu: self.text("cpu", "cpu.stat").map(cpu_v2),
            memory_peak: self.number("memory", "memory.peak"),
            memory_limit_hits: self.value("memory", "memory.events", b"max"),
            kernel_memory: None,
            oom_kills: self.value("memory", "memory.events", b"oom_kill"),
            devices: self.text("io", "io.stat").map(devices_v2).unwrap_or_default(),
            huge_pages: self.huge_pages("current", None),
            threads: self.number("pids", "pids.current"),
            threads_max: self.number("pids", "pids.max"),
        }
    }

    fn huge_pages(&mut self, usage: &str, peak: Option<&str>) -> Vec<HugePages> {
        let mut found = Vec::new();
        for size in huge_page_sizes() {
            let Some(usage) = self.number("hugetlb", &format!("hugetlb.{size}.{usage}")) else { continue };
            let peak = peak.and_then(|peak| self.number("hugetlb", &format!("hugetlb.{size}.{peak}")));
            found.push(HugePages { size: size.clone(), usage, peak });
        }
        found
    }
}

/// The sizes of huge pages that this kernel has, as in the names of the cgroups' files.
fn huge_page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut sizes: Vec<_> =
            entries.filter_map(|entry| huge_page_size(entry.file_name().to_str()?)).collect();
        sizes.sort();
        sizes
    })
}

/// `hugepages-2048kB` is 2MB.
pub(super) fn huge_page_size(name: &str) -> Option<String> {
    let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        ..1024 => format!("{kilobytes}KB"),
        1024..0x10_0000 => format!("{}MB", kilobytes >> 10),
        0x10_0000.. => format!("{}GB", kilobytes >> 20),
    })
}

/// `cpu.stat` of v1, which tells of the quota alone.
pub(super) fn cpu_v1(text: &[u8]) -> Cpu {
    let mut cpu = Cpu::default();
    for (key, number) in parse::pairs(text) {
        match key {
            b"nr_periods" => cpu.periods = number,
            b"nr_throttled" => cpu.throttled_periods = number,
            b"throttled_time" => cpu.throttled = number,
            _ => {}
        }
    }
    cpu
}

/// `cpu.stat` of v2, in microseconds.
pub(super) fn cpu_v2(text: &[u8]) -> Cpu {
    let mut cpu = Cpu::default();
    for (key, number) in parse::pairs(text) {
        let nanos = number.saturating_mul(1000);
        match key {
            b"user_usec" => cpu.user = nanos,
            b"system_usec" => cpu.system = nanos,
            b"nr_periods" => cpu.periods = number,
            b"nr_throttled" => cpu.throttled_periods = number,
            b"throttled_usec" => cpu.throttled = nanos,
            _ => {}
        }
    }
    cpu
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Bytes,
    Times,
}

/// Lines `8:0 Read 4096`, with other operations that are sums or parts of these.
pub(super) fn devices_v1(text: &[u8], kind: Kind, devices: &mut BTreeMap<(u32, u32), Device>) {
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(name), Some(operation), Some(number)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Some((major, minor)), Some(number)) = (device_number(name), parse::number(number)) else {
            continue;
        };
        if devices.len() == MAX_DEVICES && !devices.contains_key(&(major, minor)) {
            continue;
        }
        let device = devices.entry((major, minor)).or_insert(Device { major, minor, ..Device::default() });
        match (kind, operation) {
            (Kind::Bytes, b"Read") => device.read_bytes = number,
            (Kind::Bytes, b"Write") => device.written_bytes = number,
            (Kind::Times, b"Read") => device.reads = number,
            (Kind::Times, b"Write") => device.writes = number,
            _ => {}
        }
    }
}

/// Lines `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
pub(super) fn devices_v2(text: &[u8]) -> Vec<Device> {
    let mut devices = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ');
        let Some((major, minor)) = words.next().and_then(device_number) else { continue };
        let mut device = Device { major, minor, ..Device::default() };
        for (key, number) in words.filter_map(|word| {
            let at = word.iter().position(|byte| *byte == b'=')?;
            Some((&word[..at], parse::number(&word[at + 1..])?))
        }) {
            match key {
                b"rbytes" => device.read_bytes = number,
                b"wbytes" => device.written_bytes = number,
                b"rios" => device.reads = number,
                b"wios" => device.writes = number,
                _ => {}
            }
        }
        devices.push(device);
        if devices.len() == MAX_DEVICES {
            break;
        }
    }
    devices
}

fn device_number(name: &[u8]) -> Option<(u32, u32)> {
    let at = name.iter().position(|byte| *byte == b':')?;
    let part = |text: &[u8]| u32::try_from(parse::number(text)?).ok();
    Some((part(&name[..at])?, part(&name[at + 1..])?))
}
