//! `[apparmor]`: the profile of containers that ask for none.

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppArmorConfig {
    /// The default profile: podd's own, or one that somebody else loads; empty or `unconfined`: none.
    pub profile: String,
}

impl AppArmorConfig {
    pub(super) fn defaults() -> Self {
        Self { profile: crate::apparmor::OWN_PROFILE.to_owned() }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.string("profile", &mut self.profile);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("apparmor", "AppArmor, where the kernel has it");
        page.key("profile", print::text(&self.profile), "podd-default, a loaded one, or empty: none");
    }
}
