//! `[cgroup]`: what every container's cgroup gets, whatever its pod asks for.

use serde::Serialize;

use super::print::Page;
use super::read::Reader;

/// The most that Linux can count on 64 bits (`PID_MAX_LIMIT`).
const PIDS_MAX: u64 = 4 << 20;

/// What every container's cgroup gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CgroupConfig {
    /// The most processes and threads of one container; 0: as many as its pod may have, which the kubelet limits.
    pub pids_limit: u64,
}

impl CgroupConfig {
    pub(super) fn defaults() -> Self {
        Self { pids_limit: 0 }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.number("pids_limit", 0..=PIDS_MAX, &mut self.pids_limit);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("cgroup", "what each container's cgroup gets");
        page.key("pids_limit", self.pids_limit, "processes and threads; 0: what its pod may have");
    }
}
