//! `[disk]`: how it is known what the containers' writable layers take.

use serde::Serialize;

use super::print::Page;
use super::read::Reader;

/// How it is known what the containers' writable layers take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskConfig {
    /// The first number that podd gives to a project.
    pub first_project: u64,
    /// How many numbers from there on are podd's; 0: project quotas are not used.
    pub projects: u64,
    /// The shortest time between two walks over one layer, in seconds.
    pub walk_interval_seconds: u64,
    /// The most files that the walks look at in a second.
    pub walk_entries: u64,
    /// The longest that the walks work in a second, in milliseconds.
    pub walk_milliseconds: u64,
}

impl DiskConfig {
    pub(super) fn defaults() -> Self {
        Self {
            first_project: 0x6000_0000,
            projects: 65_536,
            walk_interval_seconds: 10,
            walk_entries: 50_000,
            walk_milliseconds: 100,
        }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        // Together they stay below the one number that is no project's, 2^32 - 1.
        reader.number("first_project", 1..=0xf000_0000, &mut self.first_project);
        reader.number("projects", 0..=1_000_000, &mut self.projects);
        reader.number("walk_interval_seconds", 1..=86_400, &mut self.walk_interval_seconds);
        reader.number("walk_entries", 100..=10_000_000, &mut self.walk_entries);
        reader.number("walk_milliseconds", 1..=1000, &mut self.walk_milliseconds);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("disk", "what the writable layers take, and their limits");
        page.key("first_project", self.first_project, "project quotas: the first number that is podd's");
        page.key("projects", self.projects, "how many are; 0: no project quotas");
        page.key(
            "walk_interval_seconds",
            self.walk_interval_seconds,
            "without quotas: between two walks over a layer",
        );
        page.key("walk_entries", self.walk_entries, "files that are looked at in a second, at most");
        page.key("walk_milliseconds", self.walk_milliseconds, "work in a second, at most");
    }
}
