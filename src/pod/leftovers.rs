//! What lies on the node under the names of pods and containers of which there is no record: seen from beside the daemon,
//! with it or without it, and left as it is.
//!
//! A record is there before the first thing that it stands for and goes last, so a thing without one belongs to nobody. Records
//! are read before and after the things, so that what comes or goes meanwhile is not taken for one.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::paths::Paths;
use crate::config::Config;
use crate::id::ContainerId;
use crate::{image, monitor};

/// One thing that belongs to no pod or container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// The pod's or container's ID.
    pub id: String,
    /// Where it is; a process's entry below /proc.
    pub path: PathBuf,
}

/// What can be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftoverKind {
    /// A network namespace that is pinned.
    Network,
    /// Another namespace, or a pod's `/dev/shm`.
    Mount,
    /// A monitor that lives.
    Monitor,
    /// A container's writable layer.
    WritableLayer,
    /// The record of a network attachment, with addresses that may be taken.
    Attachment,
}

/// Looks for what is left. The second value says what could not be looked at.
pub fn look(config: &Config) -> (Vec<Leftover>, Vec<String>) {
    let paths = Paths::new(&config.run_dir, &config.network.netns_dir);
    let mut unseen = Vec::new();
    let mut known = records(&paths, &mut unseen);
    if !unseen.is_empty() {
        // Without the records everything would look like a leftover.
        return (Vec::new(), unseen);
    }
    let mut found = things(config, &paths, &mut unseen);
    known.extend(records(&paths, &mut unseen));
    found.retain(|thing| !known.contains(&thing.id) && thing.path.symlink_metadata().is_ok());
    (found, unseen)
}

/// The IDs of all pods and containers that have a record.
fn records(paths: &Paths, unseen: &mut Vec<String>) -> HashSet<String> {
    let mut ids = HashSet::new();
    for directory in [paths.pods(), paths.containers()] {
        ids.extend(names(&directory, unseen));
    }
    ids
}

fn things(config: &Config, paths: &Paths, unseen: &mut Vec<String>) -> Vec<Leftover> {
    let mut found = Vec::new();
    let mut add =
        |kind, directory: &Path, id_of: &dyn Fn(&str) -> Option<String>, unseen: &mut Vec<String>| {
            for name in names(directory, unseen) {
                if let Some(id) = id_of(&name).filter(|id| id.parse::<ContainerId>().is_ok()) {
                    found.push(Leftover { kind, id, path: directory.join(&name) });
                }
            }
        };
    let whole = |name: &str| Some(name.to_owned());
    let network = |name: &str| name.strip_prefix("podd-").map(str::to_owned);
    let pin = |name: &str| name.split_once('-').map(|(_, id)| id.to_owned());
    let record = |name: &str| name.strip_suffix(".json").map(str::to_owned);
    let layers = image::places(&config.images, &config.root).containers.join("containers");
    add(LeftoverKind::Network, paths.netns_dir(), &network, unseen);
    add(LeftoverKind::Mount, &paths.namespaces(), &pin, unseen);
    add(LeftoverKind::Mount, &paths.shared_memory(), &whole, unseen);
    add(LeftoverKind::WritableLayer, &layers, &whole, unseen);
    add(LeftoverKind::Attachment, &config.network.cache_dir, &record, unseen);
    found.extend(monitors(paths));
    found
}

/// The monitors of this daemon: each has files of its container's state directory open.
fn monitors(paths: &Paths) -> Vec<Leftover> {
    let state = paths.containers();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let monitor = |entry: fs::DirEntry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let path = entry.path();
        let id = monitor::container_of(&fs::read(path.join("cmdline")).ok()?)?;
        let own = state.join(id.as_str());
        let mut files = fs::read_dir(path.join("fd")).ok()?.flatten();
        // As bytes: the name of a file that is gone has a word after it.
        let opened = |link: PathBuf| link.as_os_str().as_bytes().starts_with(own.as_os_str().as_bytes());
        files.any(|file| fs::read_link(file.path()).is_ok_and(opened)).then_some(())?;
        Some(Leftover { kind: LeftoverKind::Monitor, id: id.into(), path })
    };
    entries.filter_map(monitor).collect()
}

/// The names in a directory; one that is missing is empty.
fn names(directory: &Path, unseen: &mut Vec<String>) -> Vec<String> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            unseen.push(format!("{}: {e}", directory.display()));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PodId;

    #[test]
    fn what_has_no_record_is_left_and_what_has_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (root, run) = (dir.path().join("root"), dir.path().join("run"));
        let mut config = Config::defaults(&root, &run);
        config.network.netns_dir = dir.path().join("netns");
        assert_eq!(look(&config), (Vec::new(), Vec::new()), "nothing is there yet");

        let (pod, gone) = (PodId::generate().to_string(), PodId::generate().to_string());
        fs::create_dir_all(run.join("pods").join(&pod)).unwrap();
        let layers = image::places(&config.images, &root).containers.join("containers");
        for directory in [&config.network.netns_dir, &run.join("mnt/ns"), &config.network.cache_dir] {
            fs::create_dir_all(directory).unwrap();
        }
        for id in [&pod, &gone] {
            fs::write(config.network.netns_dir.join(format!("podd-{id}")), "").unwrap();
            fs::write(run.join("mnt/ns").join(format!("uts-{id}")), "").unwrap();
            fs::create_dir_all(run.join("mnt/shm").join(id)).unwrap();
            fs::create_dir_all(layers.join(id)).unwrap();
            fs::write(config.network.cache_dir.join(format!("{id}.json")), "").unwrap();
        }
        fs::write(config.network.netns_dir.join("blue"), "").unwrap();
        let (found, unseen) = look(&config);
        assert!(unseen.is_empty(), "{unseen:?}");
        assert!(found.iter().all(|thing| thing.id == gone), "{found:?}");
        let kinds: Vec<_> = found.iter().map(|thing| thing.kind).collect();
        use LeftoverKind::{Attachment, Mount, Network, WritableLayer};
        assert_eq!(kinds, [Network, Mount, Mount, WritableLayer, Attachment]);
    }
}
