//! `[cdi]`: where devices of the Container Device Interface are described.

use std::path::PathBuf;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// Devices of the Container Device Interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CdiConfig {
    /// Directories of spec files; of two with the same device the later one wins. None: no device can be had.
    pub spec_dirs: Vec<PathBuf>,
}

impl CdiConfig {
    pub(super) fn defaults() -> Self {
        Self { spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()] }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.paths("spec_dirs", &mut self.spec_dirs);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("cdi", "Container Device Interface");
        let dirs = print::list(self.spec_dirs.iter().map(|dir| print::path(dir)));
        page.key("spec_dirs", dirs, "spec files; the later directory wins");
    }
}
