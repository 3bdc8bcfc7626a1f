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
}

impl MonitorConfig {
    pub(super) fn defaults() -> Self {
        Self { path: PathBuf::new(), cgroup: "/podd-monitors".to_owned() }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.optional_path("path", &mut self.path);
        reader.string("cgroup", &mut self.cgroup);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("monitor", "the parent of each container");
        page.key("path", print::path(&self.path), "the podd-monitor binary; empty: beside podd's own");
        page.key("cgroup", print::text(&self.cgroup), "all monitors' cgroup; empty: the daemon's");
    }
}
