//! The cgroup limits of a container or a pod: zero and empty mean "not asked for", as in the CRI, and -1 is no limit.
//!
//! Errors name the field below whatever message holds these resources.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};

use super::{HostFacts, SpecError};
use crate::api;
use crate::cgroup::CgroupMode;

/// Where a container's resources are in its configuration.
pub(super) const OF_CONTAINER: &str = "linux.resources";

/// What the kernel takes for CPU shares; it would bend others to the nearest of these.
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// What the kernel takes for the period of a CPU quota, in microseconds.
const CPU_PERIOD: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The least CPU quota that the kernel takes, in microseconds.
const CPU_QUOTA_MIN: i64 = 1_000;

/// The range of `oom_score_adj` in the kernel.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;

/// Files of a cgroup that are orders and not settings: whoever writes them moves or kills processes.
const ORDERS: [&str; 6] = [
    "cgroup.kill",
    "cgroup.procs",
    "cgroup.subtree_control",
    "cgroup.threads",
    "cgroup.type",
    "memory.reclaim",
];

/// The runtime's form of CRI resources, without device rules; also what an update of a running container needs. `field` is
/// the message's field that holds them.
pub fn linux_resources(
    asked: &api::LinuxContainerResources,
    host: &HostFacts,
    field: &str,
) -> Result<LinuxResources, SpecError> {
    let rules = Rules { asked, host, field };
    let mut resources = LinuxResources::default();
    resources
        .set_cpu(rules.cpu()?)
        .set_memory(rules.memory()?)
        .set_hugepage_limits(rules.hugepages()?)
        .set_unified(rules.unified()?);
    Ok(resources)
}

/// The limit of processes and threads, in the runtime's form; 0 is none.
pub(super) fn pids(limit: u64) -> Option<LinuxPids> {
    let mut pids = LinuxPids::default();
    pids.set_limit(i64::try_from(limit).unwrap_or(i64::MAX));
    Some(pids).filter(|_| limit != 0)
}

/// What was asked for, but no lower than the daemon may set it (nested nodes lack CAP_SYS_RESOURCE).
pub fn oom_score_adj(asked: i64, host: &HostFacts, field: &str) -> Result<i32, SpecError> {
    if !OOM_SCORE_ADJ.contains(&asked) {
        let why = format!("{asked} is not between -1000 and 1000");
        return Err(SpecError::invalid(format!("{field}.oom_score_adj"), why));
    }
    let asked = i32::try_from(asked).unwrap_or_default();
    let granted = asked.max(host.oom_score_adj_floor.unwrap_or(asked));
    if granted != asked {
        tracing::warn!(asked, granted, "oom_score_adj is raised: the daemon may not set a lower one");
    }
    Ok(granted)
}

struct Rules<'a> {
    asked: &'a api::LinuxContainerResources,
    host: &'a HostFacts,
    field: &'a str,
}

impl Rules<'_> {
    fn invalid(&self, name: &str, why: impl Into<String>) -> SpecError {
        SpecError::invalid(format!("{}.{name}", self.field), why)
    }

    fn unsupported(&self, name: &str, why: impl Into<String>) -> SpecError {
        SpecError::unsupported(format!("{}.{name}", self.field), why)
    }

    fn cpu(&self) -> Result<Option<LinuxCpu>, SpecError> {
        let asked = self.asked;
        let quota = asked.cpu_quota;
        if quota < -1 || (1..CPU_QUOTA_MIN).contains(&quota) {
            let why =
                format!("{quota} is neither -1, which is none, nor at least {CPU_QUOTA_MIN} microseconds");
            return Err(self.invalid("cpu_quota", why));
        }
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(self.within("cpu_shares", asked.cpu_shares, CPU_SHARES)?)
            .set_period(self.within("cpu_period", asked.cpu_period, CPU_PERIOD)?)
            .set_quota(Some(quota).filter(|quota| *quota != 0))
            .set_cpus(self.list("cpuset_cpus", &asked.cpuset_cpus)?)
            .set_mems(self.list("cpuset_mems", &asked.cpuset_mems)?);
        Ok(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
    }

    fn within(
        &self,
        name: &str,
        value: i64,
        allowed: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, SpecError> {
        match u64::try_from(value) {
            Ok(0) => Ok(None),
            Ok(value) if allowed.contains(&value) => Ok(Some(value)),
            Ok(_) | Err(_) => {
                let why = format!("{value} is not between {} and {}", allowed.start(), allowed.end());
                Err(self.invalid(name, why))
            }
        }
    }

    /// A list of processors or memory nodes (cpuset(7)): `0-3,5`.
    fn list(&self, name: &str, text: &str) -> Result<Option<String>, SpecError> {
        let number =
            |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let good = |part: &str| match part.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
            None => number(part).is_some(),
        };
        match text {
            "" => Ok(None),
            list if list.split(',').all(good) => Ok(Some(list.to_owned())),
            list => Err(self.invalid(name, format!("{list:?} is not a list such as \"0-3,5\""))),
        }
    }

    /// A memory limit without a swap limit allows no swap, where the host can limit swap at all.
    fn memory(&self) -> Result<Option<LinuxMemory>, SpecError> {
        const SWAP: &str = "memory_swap_limit_in_bytes";
        let (limit, swap) = (self.asked.memory_limit_in_bytes, self.asked.memory_swap_limit_in_bytes);
        for (name, value) in [("memory_limit_in_bytes", limit), (SWAP, swap)] {
            if value < -1 {
                return Err(
                    self.invalid(name, format!("{value} is neither a size nor -1, which is no limit"))
                );
            }
        }
        if swap > 0 && limit <= 0 {
            return Err(self.invalid(SWAP, format!("{swap} includes the memory limit, and there is none")));
        }
        if swap > 0 && swap < limit {
            let why = format!("{swap} is less than the memory limit {limit}, which it includes");
            return Err(self.invalid(SWAP, why));
        }
        if swap > limit && !self.host.swap_limit {
            return Err(self.unsupported(SWAP, "the kernel does not account for swap (swapaccount=1)"));
        }
        let limit = Some(limit).filter(|limit| *limit != 0);
        let swap = match (swap, self.host.swap_limit) {
            (_, false) => None,
            (0, true) => limit,
            (swap, true) => Some(swap),
        };
        let mut memory = LinuxMemory::default();
        memory.set_limit(limit).set_swap(swap);
        Ok(Some(memory).filter(|_| limit.is_some() || swap.is_some()))
    }

    /// The kubelet sends a limit of zero for every page size of the node, also where nothing can enforce it.
    fn hugepages(&self) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
        let mut limits = Vec::new();
        for limit in &self.asked.hugepage_limits {
            if !self.host.hugepage_sizes.contains(&limit.page_size) {
                if limit.limit == 0 {
                    continue;
                }
                let why =
                    format!("the hugetlb cgroup controller does not offer pages of {:?}", limit.page_size);
                return Err(self.unsupported("hugepage_limits", why));
            }
            let mut entry = LinuxHugepageLimit::default();
            entry
                .set_page_size(limit.page_size.clone())
                .set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
            limits.push(entry);
        }
        Ok(Some(limits).filter(|limits| !limits.is_empty()))
    }

    fn unified(&self) -> Result<Option<HashMap<String, String>>, SpecError> {
        if self.asked.unified.is_empty() {
            return Ok(None);
        }
        if self.host.cgroup != CgroupMode::V2 {
            let why = "these are files of cgroup v2, and the host has v1";
            return Err(self.unsupported("unified", why));
        }
        // The runtime opens the key as a file in the container's cgroup.
        let wrong =
            |key: &&String| key.contains(['/', '\0']) || !key.contains('.') || ORDERS.contains(&key.as_str());
        match self.asked.unified.keys().find(wrong) {
            Some(key) => Err(self.invalid("unified", format!("{key:?} is not a setting of a cgroup"))),
            None => Ok(Some(self.asked.unified.clone().into_iter().collect())),
        }
    }
}
