//! `[network]`: the pod network (CNI).

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// The pod network (CNI).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkConfig {
    /// Network configurations; the first by name is used.
    pub conf_dir: PathBuf,
    /// Where plugins are looked up, in this order.
    pub plugin_dirs: Vec<PathBuf>,
    /// Records of attachments; survives a reboot.
    pub cache_dir: PathBuf,
    /// Where network namespaces are pinned, as `ip netns` does.
    pub netns_dir: PathBuf,
}

impl NetworkConfig {
    pub(super) fn defaults(root: &Path) -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: root.join("cni"),
            netns_dir: "/run/netns".into(),
        }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.path("conf_dir", &mut self.conf_dir);
        reader.paths("plugin_dirs", &mut self.plugin_dirs);
        reader.path("cache_dir", &mut self.cache_dir);
        reader.path("netns_dir", &mut self.netns_dir);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("network", "CNI");
        page.key("conf_dir", print::path(&self.conf_dir), "the first configuration by name is used");
        let dirs = print::list(self.plugin_dirs.iter().map(|dir| print::path(dir)));
        page.key("plugin_dirs", dirs, "searched in this order");
        page.key("cache_dir", print::path(&self.cache_dir), "records of attachments; survives a reboot");
        page.key("netns_dir", print::path(&self.netns_dir), "where network namespaces are pinned");
    }
}
