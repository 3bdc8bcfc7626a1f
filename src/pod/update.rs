//! UpdateContainerResources and UpdatePodSandboxResources: other limits for what is there.
//!
//! What the request leaves out stays. All that can be refused is refused before anything is changed; what fails on the way is
//! taken back. The record keeps the limits in force, which the status shows, also after a restart of the daemon.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::Pods;
use super::container::{Container, ContainerStage};
use super::error::{Cause, PodError, Stage, chain};
use super::limits::PodResources;
use super::sandbox::PodStage;
use super::state::ContainerState;
use crate::api::LinuxContainerResources as Resources;
use crate::cgroup::{CgroupPath, Driver};
use crate::runtime::Runtime;
use crate::spec::{self, SpecError};
use crate::sys;

/// The request's field with a container's resources.
const FIELD: &str = "linux";

/// An UpdatePodSandboxResources that passed the edge; absent is as before.
#[derive(Debug, Clone)]
pub struct PodUpdate {
    /// The pod's ID or a prefix of it.
    pub id: String,
    /// What is told anew.
    pub told: PodResources,
}

impl Pods {
    /// Gives a container that has not ended other limits.
    pub async fn update_container(&self, id: &str, asked: &Resources) -> Result<(), PodError> {
        let container = self.container(id)?;
        let _transition = container.pod.transition.lock().await;
        match container.state() {
            ContainerState::Created | ContainerState::Running { .. } => {}
            state @ ContainerState::Exited(_) => {
                let (kind, id, state) = ("container", container.facts.id.to_string(), state.name());
                return Err(PodError::State { kind, id, state, wanted: "one that has ended has no limits" });
            }
        }
        let before = container.resources().unwrap_or_default();
        let after = merged(&before, asked);
        // What stands alone goes to the runtime only when it is asked for.
        let alone = Resources {
            hugepage_limits: asked.hugepage_limits.clone(),
            unified: asked.unified.clone(),
            ..after.clone()
        };
        let limits = spec::linux_resources(&alone, &self.host, FIELD).map_err(|error| invalid(&error))?;
        let score = spec::oom_score_adj(after.oom_score_adj, &self.host, FIELD).map_err(|e| invalid(&e))?;
        self.can_hold(&container.facts.cgroup, &limits, asked)?;
        self.has_room(&container.facts.cgroup, asked.memory_limit_in_bytes, "linux.memory_limit_in_bytes")?;
        if after.oom_score_adj != before.oom_score_adj {
            self.score(&container, score)?;
        }
        self.limit_container(&container, &before, limits).await?;
        container.set_resources(Some(after.clone()));
        let settled = ContainerStage::Settled { process: container.process, state: container.state() };
        let stage = Stage::begin("recording the limits", &container.facts.name);
        stage.check(self.write_container(&container.facts, Some(&after), settled))?;
        tracing::info!(container = %container.facts.id, name = %container.facts.name, "container has other limits");
        Ok(())
    }

    /// Remembers what a pod is said to use from now on, and limits its cgroup where that is podd's.
    pub async fn update_pod(&self, update: PodUpdate) -> Result<(), PodError> {
        let pod = self.pod(&update.id)?;
        let _transition = pod.transition.lock().await;
        if !pod.is_ready() {
            let (kind, id) = ("pod sandbox", pod.facts.id.to_string());
            return Err(PodError::State {
                kind,
                id,
                state: "stopped",
                wanted: "a stopped one has no limits",
            });
        }
        self.check_pod_resources(&update.told, ["overhead", "resources"])?;
        let before = pod.resources();
        let after = PodResources {
            overhead: update.told.overhead.or_else(|| before.overhead.clone()),
            resources: update.told.resources.or_else(|| before.resources.clone()),
        };
        self.limit_pod(&pod.facts, &before, &after).await?;
        pod.set_resources(Some(after));
        let stage = Stage::begin("recording the limits", &pod.facts.name);
        stage.check(self.record_pod(&pod, PodStage::Settled(pod.state())))
    }

    /// Refuses what this cgroup has no file for. systemd brings in a controller when a limit first needs it.
    fn can_hold(
        &self,
        cgroup: &CgroupPath,
        limits: &LinuxResources,
        asked: &Resources,
    ) -> Result<(), PodError> {
        match self.cgroups.absent_file(cgroup, limits) {
            Some(file) if self.driver == Driver::Cgroupfs => {
                let text = format!("the container's cgroup has no file {file}: this host cannot limit that");
                Err(PodError::invalid(field_of(&file, asked), text))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses a memory limit that is below what is in use: v2 would kill for it, v1 say no halfway.
    pub(super) fn has_room(&self, cgroup: &CgroupPath, limit: i64, field: &str) -> Result<(), PodError> {
        let Some(limit) = u64::try_from(limit).ok().filter(|limit| *limit > 0) else { return Ok(()) };
        let stage = Stage::begin("reading the memory in use", cgroup);
        match stage.check(self.cgroups.memory_in_use(cgroup))? {
            Some(used) if limit < used => {
                let text = format!("{limit} is below the {used} bytes in use, which cannot be taken back");
                Err(PodError::NotNow { field: field.to_owned(), text })
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn limit_container(
        &self,
        container: &Container,
        before: &Resources,
        limits: LinuxResources,
    ) -> Result<(), PodError> {
        let runtime = self.runtime(&container.facts.runtime).await?;
        let stage = Stage::begin("updating the container with its runtime", &container.facts.name);
        let updated = self.set_container_limits(container, runtime, limits).await;
        if updated.is_err()
            && let Ok(limits) = spec::linux_resources(&unlimited_where_silent(before), &self.host, FIELD)
            && let Err(error) = self.set_container_limits(container, runtime, limits).await
        {
            let error = chain(error.as_ref());
            tracing::warn!(container = %container.facts.id, "going back to the limits before: {error}");
        }
        stage.check(updated)
    }

    async fn set_container_limits(
        &self,
        container: &Container,
        runtime: &Runtime,
        limits: LinuxResources,
    ) -> Result<(), Cause> {
        let (facts, dir) = (&container.facts, self.paths.container(&container.facts.id).dir);
        let division = runtime.divide(limits, self.cgroups.mode());
        runtime.update(facts.id.as_str(), &division.runtime, &dir).await?;
        let (cgroups, path) = (self.cgroups.clone(), facts.cgroup.clone());
        Ok(sys::blocking(move || cgroups.set_limits(&path, &division.left)).await?)
    }

    /// The score of a command that is run in a container, where an update has changed it.
    pub(super) fn updated_score(&self, container: &Container) -> Option<i32> {
        spec::oom_score_adj(container.updated()?.oom_score_adj, &self.host, FIELD).ok()
    }

    /// Tells the kernel anew which of a container's processes are to go first when memory runs out.
    fn score(&self, container: &Container, score: i32) -> Result<(), PodError> {
        let stage = Stage::begin("setting oom_score_adj", &container.facts.name);
        let processes = stage.check(self.cgroups.processes(&container.facts.cgroup))?;
        let stage = Stage::begin("setting oom_score_adj", &container.facts.name);
        stage.check(set_oom_score_adj(&processes, score))
    }
}

fn set_oom_score_adj(processes: &BTreeSet<i32>, score: i32) -> io::Result<()> {
    for pid in processes {
        match fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
            // It has ended meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound || Errno::from_io_error(&e) == Some(Errno::SRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The request's field that comes to this file of a cgroup.
fn field_of(file: &str, asked: &Resources) -> &'static str {
    match file.split('.').next() {
        _ if asked.unified.contains_key(file) => "linux.unified",
        Some("cpuset") if file == "cpuset.mems" => "linux.cpuset_mems",
        Some("cpuset") => "linux.cpuset_cpus",
        Some("hugetlb") => "linux.hugepage_limits",
        Some("memory") => "linux.memory_limit_in_bytes",
        Some("cpu") if matches!(file, "cpu.shares" | "cpu.weight") => "linux.cpu_shares",
        Some(_) | None => "linux.cpu_quota",
    }
}

/// The limits before with what is asked for over them; zero and empty is not asked for.
fn merged(before: &Resources, asked: &Resources) -> Resources {
    let number = |before: i64, asked: i64| if asked == 0 { before } else { asked };
    let text =
        |before: &str, asked: &str| if asked.is_empty() { before.to_owned() } else { asked.to_owned() };
    let mut hugepage_limits = before.hugepage_limits.clone();
    for limit in &asked.hugepage_limits {
        hugepage_limits.retain(|known| known.page_size != limit.page_size);
        hugepage_limits.push(limit.clone());
    }
    let unified = before.unified.iter().chain(&asked.unified);
    Resources {
        cpu_period: number(before.cpu_period, asked.cpu_period),
        cpu_quota: number(before.cpu_quota, asked.cpu_quota),
        cpu_shares: number(before.cpu_shares, asked.cpu_shares),
        memory_limit_in_bytes: number(before.memory_limit_in_bytes, asked.memory_limit_in_bytes),
        oom_score_adj: number(before.oom_score_adj, asked.oom_score_adj),
        cpuset_cpus: text(&before.cpuset_cpus, &asked.cpuset_cpus),
        cpuset_mems: text(&before.cpuset_mems, &asked.cpuset_mems),
        hugepage_limits,
        unified: unified.map(|(key, value)| (key.clone(), value.clone())).collect(),
        memory_swap_limit_in_bytes: number(
            before.memory_swap_limit_in_bytes,
            asked.memory_swap_limit_in_bytes,
        ),
    }
}

/// For the way back from a change that failed halfway: what was not limited before is not to be.
fn unlimited_where_silent(before: &Resources) -> Resources {
    let number = |value: i64| if value == 0 { -1 } else { value };
    Resources {
        cpu_quota: number(before.cpu_quota),
        memory_limit_in_bytes: number(before.memory_limit_in_bytes),
        ..before.clone()
    }
}

/// A refusal of `spec` with the field that it names.
pub(super) fn invalid(error: &SpecError) -> PodError {
    match error {
        SpecError::Invalid { field, why } | SpecError::Unsupported { field, why } => {
            PodError::invalid(field.clone(), why.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HugepageLimit;

    #[test]
    fn what_an_update_leaves_out_stays() {
        let page = |size: &str, limit| HugepageLimit { page_size: size.to_owned(), limit };
        let unified = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let before = Resources {
            cpu_period: 1,
            cpu_quota: 2,
            cpu_shares: 3,
            memory_limit_in_bytes: 4,
            oom_score_adj: 5,
            cpuset_cpus: "6".to_owned(),
            cpuset_mems: "7".to_owned(),
            hugepage_limits: vec![page("2MB", 8), page("1GB", 9)],
            unified: unified(&[("a.b", "1"), ("c.d", "2")]),
            memory_swap_limit_in_bytes: 10,
        };
        assert_eq!(merged(&before, &Resources::default()), before);
        assert_eq!(merged(&Resources::default(), &before), before);
        let asked = Resources {
            cpu_quota: -1,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![page("2MB", 0)],
            unified: unified(&[("c.d", "3")]),
            ..Default::default()
        };
        let after = merged(&before, &asked);
        let expected = Resources {
            cpu_quota: -1,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![page("1GB", 9), page("2MB", 0)],
            unified: unified(&[("a.b", "1"), ("c.d", "3")]),
            ..before
        };
        assert_eq!(after, expected);
    }
}
