//! The cgroup limits of a container: zero and empty mean "not asked for", as in the CRI.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{HostFacts, SpecError};
use crate::api;
use crate::cgroup::CgroupMode;

const FIELD: &str = "linux.resources";

/// The runtime's form of CRI resources, without device rules; also what an update of a running container needs.
pub fn linux_resources(
    asked: &api::LinuxContainerResources,
    host: &HostFacts,
) -> Result<LinuxResources, SpecError> {
    let mut resources = LinuxResources::default();
    resources
        .set_cpu(cpu(asked)?)
        .set_memory(memory(asked, host)?)
        .set_hugepage_limits(hugepages(asked, host)?)
        .set_unified(unified(asked, host)?);
    Ok(resources)
}

fn cpu(asked: &api::LinuxContainerResources) -> Result<Option<LinuxCpu>, SpecError> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", asked.cpu_shares)?)
        .set_period(positive("cpu_period", asked.cpu_period)?)
        .set_quota(Some(asked.cpu_quota).filter(|quota| *quota != 0))
        .set_cpus(Some(asked.cpuset_cpus.clone()).filter(|cpus| !cpus.is_empty()))
        .set_mems(Some(asked.cpuset_mems.clone()).filter(|mems| !mems.is_empty()));
    Ok(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
}

/// A memory limit without a swap limit allows no swap, where the host can limit swap at all.
fn memory(asked: &api::LinuxContainerResources, host: &HostFacts) -> Result<Option<LinuxMemory>, SpecError> {
    let limit = Some(asked.memory_limit_in_bytes).filter(|limit| *limit != 0);
    let swap = match asked.memory_swap_limit_in_bytes {
        0 if host.swap_limit => limit,
        0 => None,
        swap => Some(swap),
    };
    if let (Some(limit), Some(swap)) = (limit, swap)
        && limit > 0
        && (0..limit).contains(&swap)
    {
        let why = format!("{swap} is less than the memory limit {limit}, which it includes");
        return Err(SpecError::invalid(format!("{FIELD}.memory_swap_limit_in_bytes"), why));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap);
    Ok(Some(memory).filter(|_| limit.is_some() || swap.is_some()))
}

/// The kubelet sends a limit of zero for every page size of the node, also where nothing can enforce it.
fn hugepages(
    asked: &api::LinuxContainerResources,
    host: &HostFacts,
) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
    let mut limits = Vec::new();
    for limit in &asked.hugepage_limits {
        if !host.hugepage_sizes.contains(&limit.page_size) {
            if limit.limit == 0 {
                continue;
            }
            let why = format!("the hugetlb cgroup controller does not offer pages of {:?}", limit.page_size);
            return Err(SpecError::unsupported(format!("{FIELD}.hugepage_limits"), why));
        }
        let mut entry = LinuxHugepageLimit::default();
        entry
            .set_page_size(limit.page_size.clone())
            .set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
        limits.push(entry);
    }
    Ok(Some(limits).filter(|limits| !limits.is_empty()))
}

fn unified(
    asked: &api::LinuxContainerResources,
    host: &HostFacts,
) -> Result<Option<HashMap<String, String>>, SpecError> {
    let field = || format!("{FIELD}.unified");
    if asked.unified.is_empty() {
        return Ok(None);
    }
    if host.cgroup != CgroupMode::V2 {
        return Err(SpecError::unsupported(field(), "these are files of cgroup v2, and the host has v1"));
    }
    // The runtime opens the key as a file in the container's cgroup.
    match asked.unified.keys().find(|key| key.contains(['/', '\0']) || !key.contains('.')) {
        Some(key) => Err(SpecError::invalid(field(), format!("{key:?} is not the name of a cgroup file"))),
        None => Ok(Some(asked.unified.clone().into_iter().collect())),
    }
}

fn positive(name: &str, value: i64) -> Result<Option<u64>, SpecError> {
    match u64::try_from(value) {
        Ok(value) => Ok(Some(value).filter(|value| *value != 0)),
        Err(_) => Err(SpecError::invalid(format!("{FIELD}.{name}"), format!("{value} is negative"))),
    }
}
