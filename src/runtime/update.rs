//! Limits of a container that is there: `<runtime> update`.
//!
//! Tried with crun 1.8.1 and runc 1.1.5. Both set shares, quota, period, cpuset, memory, swap (in whichever order the kernel
//! takes them), pids and, on v2, unified keys, and both reset the period of v2 where only a quota is given: so limits that
//! belong together are always given together. What each of them leaves undone is [`Division::left`], for the caller.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::{Kind, Runtime, RuntimeError, TIMEOUT};
use crate::cgroup::CgroupMode;

/// The file that the runtime reads; crun's own "-" needs a `/dev/stdin`.
const FILE: &str = "resources.json";

/// The kernel's own period of a CPU quota, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Limits, by who sets them.
#[derive(Debug, Clone, PartialEq)]
pub struct Division {
    /// What the runtime sets.
    pub runtime: LinuxResources,
    /// What it would pass over, or cannot write: to be written into the cgroup's files.
    pub left: LinuxResources,
}

impl Runtime {
    /// Sets a container's limits; what is absent stays. A file is written to `dir` for it, which should be private and on
    /// tmpfs, and is removed.
    pub async fn update(&self, id: &str, limits: &LinuxResources, dir: &Path) -> Result<(), RuntimeError> {
        let path = dir.join(FILE);
        let _ = fs::remove_file(&path);
        let written = serde_json::to_vec(limits).map_err(Into::into).and_then(|text| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(&text)
        });
        let result = match written {
            Ok(()) => {
                let file = path.to_string_lossy();
                self.run("update", id, &["--resources", &file], TIMEOUT).await.map(drop)
            }
            Err(source) => Err(self.io("update", id, source)),
        };
        let _ = fs::remove_file(&path);
        result
    }

    /// Divides limits between this runtime and its caller.
    pub fn divide(&self, limits: LinuxResources, mode: CgroupMode) -> Division {
        divide(self.kind, limits, mode)
    }
}

fn divide(kind: Kind, mut limits: LinuxResources, mode: CgroupMode) -> Division {
    // A quota alone would reset the period (v2), and with crun "no quota" alone is no change.
    if let Some(cpu) = limits.cpu_mut()
        && cpu.quota().is_some()
        && cpu.period().is_none()
    {
        cpu.set_period(Some(CPU_PERIOD));
    }
    let mut left = LinuxResources::default();
    // Only crun is known to set these.
    if kind != Kind::Crun {
        left.set_hugepage_limits(limits.hugepage_limits().clone());
        limits.set_hugepage_limits(None);
    }
    // crun writes -1 as a number without a sign, which v1 refuses.
    if kind == Kind::Crun
        && mode == CgroupMode::V1
        && let Some(cpu) = limits.cpu_mut()
        && cpu.quota() == Some(-1)
    {
        cpu.set_quota(None);
        let mut unlimited = LinuxCpu::default();
        unlimited.set_quota(Some(-1));
        left.set_cpu(Some(unlimited));
    }
    Division { runtime: limits, left }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn divided(kind: Kind, mode: CgroupMode, limits: Value) -> (Value, Value) {
        let Division { runtime, left } = divide(kind, serde_json::from_value(limits).unwrap(), mode);
        (serde_json::to_value(runtime).unwrap(), serde_json::to_value(left).unwrap())
    }

    #[test]
    fn what_a_runtime_leaves_undone_is_left_to_podd() {
        let pages = json!([{"pageSize": "2MB", "limit": 4}]);
        let limits = json!({"cpu": {"quota": -1, "shares": 2}, "hugepageLimits": pages});
        let (runtime, left) = divided(Kind::Crun, CgroupMode::V1, limits.clone());
        assert_eq!(runtime, json!({"cpu": {"shares": 2, "period": 100_000}, "hugepageLimits": pages}));
        assert_eq!(left, json!({"cpu": {"quota": -1}}));
        let (runtime, left) = divided(Kind::Crun, CgroupMode::V2, limits.clone());
        let whole = json!({"cpu": {"quota": -1, "shares": 2, "period": 100_000}, "hugepageLimits": pages});
        assert_eq!((runtime, left), (whole, json!({})));
        let (runtime, left) = divided(Kind::Runc, CgroupMode::V1, limits);
        assert_eq!(runtime, json!({"cpu": {"quota": -1, "shares": 2, "period": 100_000}}));
        assert_eq!(left, json!({"hugepageLimits": pages}));
    }
}
