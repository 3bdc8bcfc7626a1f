//! `[security]`: what containers have that ask for nothing.

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;
use crate::sys::namespace;

/// What containers have that ask for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecurityConfig {
    /// The capabilities of a container, before what it adds and drops.
    pub capabilities: Vec<String>,
    /// Kernel parameters of every pod, as `name=value`; those of a namespace that it shares with the node are left out.
    pub sysctls: Vec<String>,
}

impl SecurityConfig {
    pub(super) fn defaults() -> Self {
        let capabilities = crate::spec::DEFAULT_CAPABILITIES.iter().map(ToString::to_string).collect();
        Self { capabilities, sysctls: Vec::new() }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.strings("capabilities", &mut self.capabilities);
        reader.strings("sysctls", &mut self.sysctls);
    }

    pub(super) fn check(&self, problem: &mut impl FnMut(&str, String)) {
        for name in &self.capabilities {
            if crate::spec::capability(name).is_none() {
                problem("security.capabilities", format!("{name:?} is not a capability"));
            }
        }
        for entry in &self.sysctls {
            let why = match entry.split_once('=') {
                Some((name, _)) => namespace::sysctl_namespace(name).err(),
                None => Some("it is not of the form name=value"),
            };
            if let Some(why) = why {
                problem("security.sysctls", format!("{entry:?}: {why}"));
            }
        }
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("security", "what containers have that ask for nothing");
        let list = |texts: &[String]| print::list(texts.iter().map(|text| print::text(text)));
        page.key("capabilities", list(&self.capabilities), "before what a container adds and drops");
        page.key("sysctls", list(&self.sysctls), "name=value, in the namespaces of every pod");
    }
}
