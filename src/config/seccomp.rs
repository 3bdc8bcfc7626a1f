//! `[seccomp]`: the filters of system calls.

use std::path::PathBuf;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

const UNSET: [(&str, UnsetSeccomp); 2] =
    [("unconfined", UnsetSeccomp::Unconfined), ("runtime-default", UnsetSeccomp::RuntimeDefault)];

/// What a container gets whose request says nothing of seccomp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnsetSeccomp {
    /// No filter, as the CRI says (B25).
    Unconfined,
    /// The default profile.
    RuntimeDefault,
}

/// The filters of system calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeccompConfig {
    /// The file of the RuntimeDefault profile; empty: the built-in one.
    pub profile: PathBuf,
    /// Where profiles with a relative name are.
    pub localhost_root: PathBuf,
    /// For containers whose request says nothing of seccomp.
    pub unset: UnsetSeccomp,
}

impl SeccompConfig {
    pub(super) fn defaults() -> Self {
        Self {
            profile: PathBuf::new(),
            localhost_root: "/var/lib/kubelet/seccomp".into(),
            unset: UnsetSeccomp::Unconfined,
        }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.optional_path("profile", &mut self.profile);
        reader.path("localhost_root", &mut self.localhost_root);
        reader.word("unset", &UNSET, &mut self.unset);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("seccomp", "filters of system calls");
        page.key("profile", print::path(&self.profile), "a file as RuntimeDefault; empty: built in");
        page.key("localhost_root", print::path(&self.localhost_root), "of profiles with a relative name");
        page.key("unset", print::word(&self.unset), "or runtime-default: for who asks for nothing");
    }
}
