//! `[blockio]`: where the classes of block I/O are described.

use std::path::PathBuf;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// Classes of block I/O, which pods name in annotations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockIoConfig {
    /// The file of the classes; empty: there are none.
    pub config_file: PathBuf,
}

impl BlockIoConfig {
    pub(super) fn defaults() -> Self {
        Self { config_file: PathBuf::new() }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.optional_path("config_file", &mut self.config_file);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("blockio", "classes of block I/O, which pods name in annotations");
        page.key("config_file", print::path(&self.config_file), "the file of the classes; empty: none");
    }
}
