//! Who makes the cgroups: the OCI runtime itself in directories, or systemd at the runtime's request.
//!
//! With systemd a cgroup is a unit. The client's parent is a slice, a container is a scope in it, and podd makes nothing
//! below a slice: systemd makes what is missing, tells it what it is to allow, and removes it.

use std::path::Path;

use crate::config::CgroupDriver;

/// There where systemd is PID 1 (sd_booted(3)).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// The driver in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Directories.
    Cgroupfs,
    /// Slices and scopes.
    Systemd,
}

/// The configured driver cannot be had on this host.
#[derive(Debug, thiserror::Error)]
#[error(
    "cgroup_driver is \"systemd\", but systemd is not PID 1 here: there is no {SYSTEMD_RUNS}; use \"cgroupfs\""
)]
pub struct NoSystemd;

impl Driver {
    /// What the configuration comes to on this host.
    pub fn in_force(configured: CgroupDriver) -> Result<Self, NoSystemd> {
        Self::choose(configured, Path::new(SYSTEMD_RUNS).is_dir())
    }

    fn choose(configured: CgroupDriver, systemd: bool) -> Result<Self, NoSystemd> {
        match (configured, systemd) {
            (CgroupDriver::Cgroupfs, _) | (CgroupDriver::Auto, false) => Ok(Self::Cgroupfs),
            (CgroupDriver::Systemd | CgroupDriver::Auto, true) => Ok(Self::Systemd),
            (CgroupDriver::Systemd, false) => Err(NoSystemd),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_systemd_where_it_runs_and_systemd_is_refused_where_it_does_not() {
        let choose = |configured, systemd| Driver::choose(configured, systemd).ok();
        assert_eq!(choose(CgroupDriver::Auto, true), Some(Driver::Systemd));
        assert_eq!(choose(CgroupDriver::Auto, false), Some(Driver::Cgroupfs));
        assert_eq!(choose(CgroupDriver::Cgroupfs, true), Some(Driver::Cgroupfs));
        assert_eq!(choose(CgroupDriver::Systemd, true), Some(Driver::Systemd));
        assert_eq!(choose(CgroupDriver::Systemd, false), None);
    }
}
