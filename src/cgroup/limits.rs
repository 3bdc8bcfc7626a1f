//! What a cgroup uses and what it may use: for the cgroups that podd makes itself, and for what an OCI runtime's `update`
//! leaves undone.
//!
//! Limits come in the form of the runtime's document. [`settings`] is a pure function from them to files and values of
//! either version; absent limits leave what is there.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use rustix::io::Errno;

use super::{CgroupError, CgroupMode, CgroupPath, Cgroups};

/// The kernel's own period of a CPU quota, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// One file of a cgroup and what is to be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// The controller, which on v1 has a hierarchy of its own.
    controller: &'static str,
    file: String,
    value: String,
}

impl Setting {
    fn new(controller: &'static str, file: &str, value: &impl ToString) -> Self {
        Self { controller, file: file.to_owned(), value: value.to_string() }
    }
}

impl Cgroups {
    /// The memory that a cgroup uses and the kernel could not give back by dropping files that nobody reads, in bytes: what a
    /// lower limit would have to reclaim by force. None where there is no such cgroup, or no memory controller.
    pub fn memory_in_use(&self, path: &CgroupPath) -> Result<Option<u64>, CgroupError> {
        let (usage, inactive) = match self.mode {
            CgroupMode::V1 => ("memory.usage_in_bytes", "total_inactive_file "),
            CgroupMode::V2 => ("memory.current", "inactive_file "),
        };
        let Some(usage) = self.read(path, usage)? else { return Ok(None) };
        let stat = self.read(path, "memory.stat")?.unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)?.parse::<u64>().ok());
        Ok(usage.trim().parse::<u64>().ok().map(|usage| usage.saturating_sub(inactive.unwrap_or_default())))
    }

    /// Sets limits by writing the files. The first refusal ends it.
    pub fn set_limits(&self, path: &CgroupPath, limits: &LinuxResources) -> Result<(), CgroupError> {
        let mut settings = settings(self.mode, limits);
        if self.mode == CgroupMode::V1 && self.raises_above_swap_limit(path, limits)? {
            // The limit of memory and swap together is never below that of memory.
            settings.sort_by_key(|setting| setting.file != "memory.memsw.limit_in_bytes");
        }
        settings.iter().try_for_each(|setting| self.set(path, setting))
    }

    /// The first file that limits need and the cgroup does not have, because its controller is not there or not handed
    /// down. A swap limit may be missing: a kernel without swap has none.
    pub fn absent_file(&self, path: &CgroupPath, limits: &LinuxResources) -> Option<String> {
        let there = |file: &str| self.file(path, file).is_some_and(|file| file.exists());
        let swap = ["memory.memsw.limit_in_bytes", "memory.swap.max"];
        let files = settings(self.mode, limits).into_iter().map(|setting| setting.file);
        files.into_iter().find(|file| !swap.contains(&file.as_str()) && !there(file))
    }

    fn set(&self, path: &CgroupPath, setting: &Setting) -> Result<(), CgroupError> {
        let Some(file) = self.file(path, &setting.file) else {
            let file = PathBuf::from(&setting.file);
            let none = format!("the cgroup controller {:?} is not mounted", setting.controller);
            return Err(CgroupError::io("write", &file)(io::Error::new(ErrorKind::Unsupported, none)));
        };
        fs::write(&file, &setting.value).map_err(|error| {
            let text = format!("{error}, for the value {:?}", setting.value);
            CgroupError::io("write", &file)(io::Error::new(error.kind(), text))
        })
    }

    fn raises_above_swap_limit(
        &self,
        path: &CgroupPath,
        limits: &LinuxResources,
    ) -> Result<bool, CgroupError> {
        let Some(limit) = limits.memory().as_ref().and_then(LinuxMemory::limit) else { return Ok(false) };
        let both = self.read(path, "memory.memsw.limit_in_bytes")?;
        let both = both.and_then(|text| text.trim().parse::<i64>().ok());
        Ok(both.is_some_and(|both| limit < 0 || limit > both))
    }

    /// The text of a file; none where it is not there, or goes while it is read.
    fn read(&self, path: &CgroupPath, file: &str) -> Result<Option<String>, CgroupError> {
        let Some(file) = self.file(path, file) else { return Ok(None) };
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound || Errno::from_io_error(&e) == Some(Errno::NODEV) => {
                Ok(None)
            }
            Err(e) => Err(CgroupError::io("read", &file)(e)),
        }
    }

    /// Where a file is whose name begins with its controller's.
    fn file(&self, path: &CgroupPath, file: &str) -> Option<PathBuf> {
        let controller = file.split('.').next().unwrap_or_default();
        let root = match self.mode {
            CgroupMode::V2 => &self.hierarchies.first()?.root,
            CgroupMode::V1 => &self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller))?.root,
        };
        Some(path.under(Path::new(root)).join(file))
    }
}

/// The files of a cgroup that come to these limits, in the order in which they are to be written.
fn settings(mode: CgroupMode, limits: &LinuxResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(cpu) = limits.cpu() {
        settings.extend(cpu_settings(mode, cpu));
    }
    if let Some(memory) = limits.memory() {
        settings.extend(memory_settings(mode, memory));
    }
    for limit in limits.hugepage_limits().iter().flatten() {
        let file = match mode {
            CgroupMode::V1 => "limit_in_bytes",
            CgroupMode::V2 => "max",
        };
        let file = format!("hugetlb.{}.{file}", limit.page_size());
        settings.push(Setting::new("hugetlb", &file, &limit.limit()));
    }
    // Last, because they are the last word.
    let mut unified: Vec<_> = limits.unified().iter().flatten().collect();
    unified.sort();
    settings.extend(unified.into_iter().map(|(file, value)| Setting::new("unified", file, value)));
    settings
}

fn cpu_settings(mode: CgroupMode, cpu: &LinuxCpu) -> Vec<Setting> {
    let set = |file: &str, value: String| Setting::new("cpu", file, &value);
    let mut settings = Vec::new();
    match mode {
        CgroupMode::V1 => {
            settings.extend(cpu.shares().map(|shares| set("cpu.shares", shares.to_string())));
            settings.extend(cpu.period().map(|period| set("cpu.cfs_period_us", period.to_string())));
            settings.extend(cpu.quota().map(|quota| set("cpu.cfs_quota_us", quota.to_string())));
        }
        CgroupMode::V2 => {
            settings.extend(cpu.shares().map(|shares| set("cpu.weight", weight(shares).to_string())));
            if cpu.quota().is_some() || cpu.period().is_some() {
                let quota =
                    u64::try_from(cpu.quota().unwrap_or(-1)).map_or("max".to_owned(), |q| q.to_string());
                settings.push(set("cpu.max", format!("{quota} {}", cpu.period().unwrap_or(CPU_PERIOD))));
            }
        }
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        settings.extend(list.as_ref().map(|list| Setting::new("cpuset", file, list)));
    }
    settings
}

/// On v1 swap is limited together with memory, on v2 apart from it.
fn memory_settings(mode: CgroupMode, memory: &LinuxMemory) -> Vec<Setting> {
    let set = |file: &str, value: String| Setting::new("memory", file, &value);
    let max = |value: i64| u64::try_from(value).map_or("max".to_owned(), |value| value.to_string());
    let (limit, swap) = (memory.limit(), memory.swap());
    let mut settings = Vec::new();
    match mode {
        CgroupMode::V1 => {
            settings.extend(limit.map(|limit| set("memory.limit_in_bytes", limit.to_string())));
            settings.extend(swap.map(|swap| set("memory.memsw.limit_in_bytes", swap.to_string())));
        }
        CgroupMode::V2 => {
            settings.extend(limit.map(|limit| set("memory.max", max(limit))));
            settings.extend(swap.map(|swap| match limit {
                Some(limit) if limit >= 0 && swap >= 0 => {
                    set("memory.swap.max", max(swap.saturating_sub(limit).max(0)))
                }
                _ => set("memory.swap.max", max(swap)),
            }));
        }
    }
    settings
}

/// Shares of v1 (2 to 262144) as the weight of v2 (1 to 10000), as Kubernetes has it (KEP 2254).
fn weight(shares: u64) -> u64 {
    1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(mode: CgroupMode, limits: serde_json::Value) -> Vec<String> {
        let limits: LinuxResources = serde_json::from_value(limits).unwrap();
        settings(mode, &limits)
            .into_iter()
            .map(|s| format!("{}/{}={}", s.controller, s.file, s.value))
            .collect()
    }

    #[test]
    fn limits_become_the_files_of_either_version() {
        let limits = json!({
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0-1"},
            "memory": {"limit": 100, "swap": 150},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
        });
        assert_eq!(
            written(CgroupMode::V1, limits.clone()),
            [
                "cpu/cpu.shares=512",
                "cpu/cpu.cfs_period_us=100000",
                "cpu/cpu.cfs_quota_us=50000",
                "cpuset/cpuset.cpus=0-1",
                "memory/memory.limit_in_bytes=100",
                "memory/memory.memsw.limit_in_bytes=150",
                "hugetlb/hugetlb.2MB.limit_in_bytes=4",
            ]
        );
        assert_eq!(
            written(CgroupMode::V2, limits),
            [
                "cpu/cpu.weight=20",
                "cpu/cpu.max=50000 100000",
                "cpuset/cpuset.cpus=0-1",
                "memory/memory.max=100",
                "memory/memory.swap.max=50",
                "hugetlb/hugetlb.2MB.max=4",
            ]
        );
    }

    #[test]
    fn unlimited_and_unified_have_their_own_words() {
        let limits = json!({
            "cpu": {"quota": -1}, "memory": {"limit": -1, "swap": -1}, "unified": {"memory.high": "9", "io.x": "1"},
        });
        assert_eq!(
            written(CgroupMode::V2, limits),
            [
                "cpu/cpu.max=max 100000",
                "memory/memory.max=max",
                "memory/memory.swap.max=max",
                "unified/io.x=1",
                "unified/memory.high=9"
            ]
        );
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(u64::MAX), 10_000);
        assert!(written(CgroupMode::V1, json!({})).is_empty());
    }
}
