//! `[selinux]`: the labels of pods and containers, where the host has SELinux.

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

const USES: [(&str, UseSelinux); 2] = [("auto", UseSelinux::Auto), ("never", UseSelinux::Never)];

/// Whether labels are given at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UseSelinux {
    /// Where the kernel has SELinux enabled.
    Auto,
    /// Nowhere.
    Never,
}

/// The labels of pods and containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SelinuxConfig {
    /// Whether labels are given at all.
    pub enabled: UseSelinux,
    /// The type of processes.
    pub process_type: String,
    /// The type of processes that begin with systemd or another init.
    pub init_type: String,
    /// The type of files.
    pub file_type: String,
    /// How many categories there are to tell pods apart.
    pub mcs_range: u64,
    /// Whether processes on the host's network run without a label.
    pub host_network_disable_selinux: bool,
}

impl SelinuxConfig {
    pub(super) fn defaults() -> Self {
        Self {
            enabled: UseSelinux::Auto,
            process_type: "container_t".to_owned(),
            init_type: "container_init_t".to_owned(),
            file_type: "container_file_t".to_owned(),
            mcs_range: 1024,
            host_network_disable_selinux: true,
        }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.word("enabled", &USES, &mut self.enabled);
        reader.string("process_type", &mut self.process_type);
        reader.string("init_type", &mut self.init_type);
        reader.string("file_type", &mut self.file_type);
        // The reference policy has 1024 categories.
        reader.number("mcs_range", 2..=1024, &mut self.mcs_range);
        reader.flag("host_network_disable_selinux", &mut self.host_network_disable_selinux);
    }

    pub(super) fn check(&self, problem: &mut impl FnMut(&str, String)) {
        let types = [
            ("selinux.process_type", &self.process_type),
            ("selinux.init_type", &self.init_type),
            ("selinux.file_type", &self.file_type),
        ];
        for (key, name) in types {
            if !crate::selinux::is_name(name) {
                problem(key, format!("{name:?} is not the name of a type"));
            }
        }
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("selinux", "labels, where the host has SELinux");
        page.key("enabled", print::word(&self.enabled), "auto: where the kernel has it on; or never");
        page.key("process_type", print::text(&self.process_type), "of containers");
        page.key("init_type", print::text(&self.init_type), "of containers that run systemd or /sbin/init");
        page.key("file_type", print::text(&self.file_type), "of their files");
        page.key("mcs_range", self.mcs_range, "categories to tell pods apart");
        let host = self.host_network_disable_selinux;
        page.key("host_network_disable_selinux", host, "no label for processes on the host's network");
    }
}
