//! What a person wants to know of a node's cgroups.

use std::fs;
use std::path::Path;

use super::{CgroupMode, Cgroups, ROOT, is_cgroup2};

/// How the cgroups of this host are laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The version that containers get.
    pub mode: CgroupMode,
    /// The controllers that they get.
    pub controllers: Vec<String>,
    /// On v2, those that the topmost cgroup hands down so far.
    pub handed_down: Vec<String>,
    /// In the hybrid layout, the controllers that belong to the v2 tree beside v1, and so to no container.
    pub beside: Vec<String>,
    /// Whether they are mounted read-only, as in a container.
    pub read_only: bool,
    /// Whether, on v2, what looks like the topmost cgroup is one below it, with processes in it: then it can hand nothing down.
    pub occupied: bool,
}

impl Cgroups {
    /// Looks at the topmost cgroups.
    pub fn layout(&self) -> Layout {
        let words = |path: &Path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let read_only = |root: &Path| {
            rustix::fs::statvfs(root)
                .is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
        };
        let unified = Path::new(ROOT).join("unified");
        let hybrid = self.mode == CgroupMode::V1 && is_cgroup2(&unified);
        let root = Path::new(ROOT);
        Layout {
            mode: self.mode,
            controllers: match self.mode {
                CgroupMode::V1 => self.hierarchies.iter().flat_map(|it| it.controllers.clone()).collect(),
                CgroupMode::V2 => words(&root.join("cgroup.controllers")),
            },
            handed_down: words(&root.join("cgroup.subtree_control")),
            beside: if hybrid { words(&unified.join("cgroup.controllers")) } else { Vec::new() },
            occupied: root.join("cgroup.type").exists() && !words(&root.join("cgroup.procs")).is_empty(),
            read_only: self.hierarchies.iter().any(|hierarchy| read_only(&hierarchy.root)),
        }
    }
}
