//! What a pod as a whole may use: its overhead and its containers' resources together.
//!
//! The kubelet makes and limits the cgroup of each pod itself, and so may any client; podd then only remembers what it was
//! told. Limits are podd's to set where the cgroup is podd's own (`made_cgroup`, which systemd's slices never are). Several
//! pods may have been given one parent that podd made: it allows what they are allowed together.

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::Pods;
use super::error::{PodError, Stage, chain};
use super::sandbox::PodFacts;
use super::update::invalid;
use crate::api::{HugepageLimit, LinuxContainerResources as Resources, PodSandboxConfig};
use crate::cgroup::CgroupPath;
use crate::{spec, sys};

/// What a pod was said to use, as last told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    /// What the pod costs beside its containers.
    pub overhead: Option<Resources>,
    /// What its containers may use together.
    pub resources: Option<Resources>,
}

impl PodResources {
    /// As RunPodSandbox tells.
    pub(super) fn of(config: &PodSandboxConfig) -> Self {
        let linux = config.linux.clone().unwrap_or_default();
        Self { overhead: linux.overhead, resources: linux.resources }
    }

    /// What the cgroup is to allow. Without a limit for the containers there is none: overhead alone limits nothing.
    fn total(&self) -> Resources {
        let overhead = self.overhead.clone().unwrap_or_default();
        let mut total = self.resources.clone().unwrap_or_default();
        let more =
            |limit: i64, overhead: i64| if limit > 0 { limit.saturating_add(overhead.max(0)) } else { limit };
        total.memory_limit_in_bytes = more(total.memory_limit_in_bytes, overhead.memory_limit_in_bytes);
        total.memory_swap_limit_in_bytes =
            more(total.memory_swap_limit_in_bytes, overhead.memory_limit_in_bytes);
        total.cpu_quota = more(total.cpu_quota, scaled_quota(&overhead, &total));
        total.cpu_shares = total.cpu_shares.saturating_add(overhead.cpu_shares);
        for more in overhead.hugepage_limits {
            match total.hugepage_limits.iter_mut().find(|limit| limit.page_size == more.page_size) {
                Some(limit) => limit.limit = limit.limit.saturating_add(more.limit),
                None => total.hugepage_limits.push(more),
            }
        }
        for (key, value) in overhead.unified {
            total.unified.entry(key).or_insert(value);
        }
        bounded(total)
    }
}

impl Pods {
    /// Refuses what no cgroup could be told, whoever it is that limits it. `fields` are those of the message.
    pub(super) fn check_pod_resources(&self, told: &PodResources, fields: [&str; 2]) -> Result<(), PodError> {
        for (field, resources) in fields.into_iter().zip([&told.overhead, &told.resources]) {
            let Some(resources) = resources else { continue };
            spec::linux_resources(resources, &self.host, field).map_err(|error| invalid(&error))?;
            if resources.oom_score_adj != 0 {
                let text = "a pod has no process of its own that it could be for";
                return Err(PodError::invalid(format!("{field}.oom_score_adj"), text));
            }
        }
        Ok(())
    }

    /// Limits the cgroup that podd has just made for a pod, or has made before for another.
    pub(super) async fn limit_new_pod(&self, facts: &PodFacts) -> Result<(), PodError> {
        if facts.made_cgroup.is_none() {
            return Ok(());
        }
        let others = self.others_in(facts);
        let before = others.iter().cloned().reduce(|a, b| together(a, &b)).unwrap_or_default();
        let own = PodResources::of(&facts.config).total();
        let after = others.iter().fold(own, together);
        self.set_pod_limits(&facts.cgroup, &before, &after, "config.linux.resources").await
    }

    /// Limits the cgroup of a pod anew.
    pub(super) async fn limit_pod(
        &self,
        facts: &PodFacts,
        before: &PodResources,
        after: &PodResources,
    ) -> Result<(), PodError> {
        if facts.made_cgroup.is_none() {
            return Ok(());
        }
        let others = self.others_in(facts);
        let before = others.iter().fold(before.total(), together);
        let after = others.iter().fold(after.total(), together);
        self.has_room(&facts.cgroup, after.memory_limit_in_bytes, "resources.memory_limit_in_bytes")?;
        let set = self.set_pod_limits(&facts.cgroup, &before, &after, "resources").await;
        if set.is_err()
            && let Err(error) = self.set_pod_limits(&facts.cgroup, &after, &before, "resources").await
        {
            tracing::warn!(pod = %facts.id, "going back to the limits before: {}", chain(&error));
        }
        set
    }

    fn others_in(&self, facts: &PodFacts) -> Vec<Resources> {
        let pods = self.index.pods().into_iter();
        let others =
            pods.filter(|pod| pod.facts.cgroup == facts.cgroup && pod.facts.id != facts.id && pod.is_ready());
        others.map(|pod| pod.resources().total()).collect()
    }

    async fn set_pod_limits(
        &self,
        cgroup: &CgroupPath,
        before: &Resources,
        after: &Resources,
        field: &str,
    ) -> Result<(), PodError> {
        let after = lifted(before, after);
        let limits = spec::linux_resources(&after, &self.host, field).map_err(|error| invalid(&error))?;
        if limits == LinuxResources::default() {
            return Ok(());
        }
        let stage = Stage::begin("limiting the pod's cgroup", cgroup);
        let (cgroups, path) = (self.cgroups.clone(), cgroup.clone());
        stage.check(sys::blocking(move || cgroups.set_limits(&path, &limits)).await)
    }
}

/// What two pods in one cgroup may use together: as soon as one is not limited, they are not.
fn together(a: Resources, b: &Resources) -> Resources {
    let both = |a: i64, b: i64| if a > 0 && b > 0 { a.saturating_add(b) } else { 0 };
    let same = |a: String, b: &String| if a == *b { a } else { String::new() };
    let quota = scaled_quota(b, &a);
    let in_b = |page_size: &str| b.hugepage_limits.iter().find(|limit| limit.page_size == page_size);
    let pages = a.hugepage_limits.iter().filter_map(|limit| {
        let limit_in_b = in_b(&limit.page_size)?.limit;
        Some(HugepageLimit { limit: limit.limit.saturating_add(limit_in_b), ..limit.clone() })
    });
    bounded(Resources {
        cpu_quota: both(a.cpu_quota, quota),
        cpu_shares: both(a.cpu_shares, b.cpu_shares),
        memory_limit_in_bytes: both(a.memory_limit_in_bytes, b.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: both(a.memory_swap_limit_in_bytes, b.memory_swap_limit_in_bytes),
        hugepage_limits: pages.collect(),
        cpuset_cpus: same(a.cpuset_cpus, &b.cpuset_cpus),
        cpuset_mems: same(a.cpuset_mems, &b.cpuset_mems),
        unified: a.unified.into_iter().filter(|(key, value)| b.unified.get(key) == Some(value)).collect(),
        ..a
    })
}

/// The quota of one in the period of another.
fn scaled_quota(of: &Resources, period_of: &Resources) -> i64 {
    const PERIOD: i64 = 100_000;
    let period = |resources: &Resources| if resources.cpu_period > 0 { resources.cpu_period } else { PERIOD };
    let scaled = i128::from(of.cpu_quota) * i128::from(period(period_of)) / i128::from(period(of));
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

/// Sums may leave the range that each of them was in.
fn bounded(mut total: Resources) -> Resources {
    const SHARES_MAX: i64 = 262_144;
    total.cpu_shares = total.cpu_shares.min(SHARES_MAX);
    if total.memory_limit_in_bytes <= 0 {
        total.memory_swap_limit_in_bytes = total.memory_swap_limit_in_bytes.min(0);
    }
    total
}

/// With "no limit" in words where there was one before and none is told any more.
fn lifted(before: &Resources, after: &Resources) -> Resources {
    let mut lifted = after.clone();
    let lift = |before: i64, after: &mut i64| {
        if before > 0 && *after == 0 {
            *after = -1;
        }
    };
    lift(before.memory_limit_in_bytes, &mut lifted.memory_limit_in_bytes);
    lift(before.cpu_quota, &mut lifted.cpu_quota);
    lifted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(memory: i64, quota: i64, period: i64, shares: i64) -> Resources {
        Resources {
            memory_limit_in_bytes: memory,
            cpu_quota: quota,
            cpu_period: period,
            cpu_shares: shares,
            ..Default::default()
        }
    }

    #[test]
    fn a_pods_overhead_is_added_to_what_its_containers_may_use() {
        let pages = |limit| vec![HugepageLimit { page_size: "2MB".to_owned(), limit }];
        let told = PodResources {
            overhead: Some(Resources { hugepage_limits: pages(2), ..resources(10, 5_000, 50_000, 100) }),
            resources: Some(Resources { hugepage_limits: pages(4), ..resources(90, 20_000, 100_000, 512) }),
        };
        let total = told.total();
        assert_eq!(total, Resources { hugepage_limits: pages(6), ..resources(100, 30_000, 100_000, 612) });
        let unlimited = PodResources { resources: None, ..told };
        assert_eq!(unlimited.total().memory_limit_in_bytes, 0, "overhead alone limits nothing");
        assert_eq!(unlimited.total().cpu_quota, 0);
    }

    #[test]
    fn pods_in_one_cgroup_are_limited_together_or_not_at_all() {
        let (a, b) = (resources(10, 20_000, 100_000, 100), resources(5, 10_000, 50_000, 200_000));
        assert_eq!(together(a.clone(), &b), resources(15, 40_000, 100_000, 200_100));
        assert_eq!(together(a, &resources(0, 0, 0, 0)), resources(0, 0, 100_000, 0));
        let shares = together(resources(0, 0, 0, 200_000), &resources(0, 0, 0, 200_000)).cpu_shares;
        assert_eq!(shares, 262_144);
    }

    #[test]
    fn a_limit_that_is_told_no_more_is_lifted() {
        let lifted = lifted(&resources(10, 0, 0, 0), &resources(0, 0, 0, 0));
        assert_eq!((lifted.memory_limit_in_bytes, lifted.cpu_quota), (-1, 0));
    }
}
