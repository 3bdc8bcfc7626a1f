//! `[monitor]`: the parents of the containers.

use std::path::PathBuf;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// The monitors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MonitorConfig {
    /// The `podd-monitor` binary; empty: beside podd's own.
    pub path: PathBuf,
    /// The cgroup that all monitors share, away from the daemon's; empty: where the daemon is.
    pub cgroup: String,
    /// The size that the log of each container stays within until it is rotated, in bytes; 0: no limit.
    pub log_size_max: u64,
    /// The most that a container may log in a second on the average, in bytes; 0: no limit.
    pub log_rate: u64,
    /// How much it may log at once after a quiet time, in bytes; 0: as much as in a second.
    pub log_rate_burst: u64,
}

/// Less is no use: a line of a log has up to 16 KiB, and what is dropped has to be told.
const LOG_SIZE_LEAST: u64 = 64 << 10;

impl MonitorConfig {
    pub(super) fn defaults() -> Self {
        let cgroup = "/podd-monitors".to_owned();
        Self { path: PathBuf::new(), cgroup, log_size_max: 0, log_rate: 0, log_rate_burst: 0 }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.optional_path("path", &mut self.path);
        reader.string("cgroup", &mut self.cgroup);
        reader.number_or_none("log_size_max", LOG_SIZE_LEAST, &mut self.log_size_max);
        reader.number_or_none("log_rate", 1024, &mut self.log_rate);
        reader.number_or_none("log_rate_burst", 1, &mut self.log_rate_burst);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("monitor", "the parent of each container");
        page.key("path", print::path(&self.path), "the podd-monitor binary; empty: beside podd's own");
        page.key("cgroup", print::text(&self.cgroup), "all monitors' cgroup; empty: the daemon's");
        page.key("log_size_max", self.log_size_max, "bytes of a log until it is rotated; 0: no limit");
        page.key("log_rate", self.log_rate, "bytes that a container may log in a second; 0: no limit");
        page.key("log_rate_burst", self.log_rate_burst, "bytes at once after a quiet time; 0: as log_rate");
    }
}
