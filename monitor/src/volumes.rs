//! Mounts the images that a container has as volumes, beside its root and as private to it: so there is nothing of them
//! on the host that could stay behind.
//!
//! An overlay without an upper directory is read-only for good: a remount from inside the container cannot change that, and
//! whiteouts and the layers' own directories are never seen.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use podd_monitor::protocol::{Overlay, VOLUMES};

use crate::failure::Described;

/// Lies below all layers, because the kernel refuses an overlay of one directory alone that has no upper one.
const EMPTY: &str = "empty";

/// Mounts each list of layers below `mount_point`, by its place in `volumes`, each by `show`.
pub(crate) fn mount_volumes(
    volumes: &[Vec<PathBuf>],
    mount_point: &Path,
    show: impl Fn(&Overlay, &Path) -> Result<(), String>,
) -> Result<(), String> {
    if volumes.is_empty() {
        return Ok(());
    }
    let (directory, empty) = (mount_point.join(VOLUMES), mount_point.join(EMPTY));
    make(&directory)?;
    make(&empty)?;
    for (number, lower) in volumes.iter().enumerate() {
        let target = directory.join(number.to_string());
        make(&target)?;
        let lower = lower.iter().chain([&empty]).cloned().collect();
        show(&Overlay { lower, ..Overlay::default() }, &target)?;
    }
    Ok(())
}

fn make(directory: &Path) -> Result<(), String> {
    DirBuilder::new().mode(0o755).create(directory).described(format_args!("make {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::thread;

    use super::*;
    use crate::overlay::mount_overlay;
    use crate::sys::mount::{mount, unshare_mounts};

    #[test]
    fn one_layer_or_several_are_seen_as_one_tree_that_nothing_can_make_writable() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let volumes = thread::spawn(move || {
            unshare_mounts().unwrap();
            assert!(Command::new("mount").args(["--make-rprivate", "/"]).status().unwrap().success());
            mount("tmpfs", &root, b"").unwrap();
            let layer = |name: &str| {
                let layer = root.join(name);
                fs::create_dir(&layer).unwrap();
                fs::write(layer.join(name), name).unwrap();
                layer
            };
            let (below, above) = (layer("below"), layer("above"));
            mount_volumes(&[vec![below.clone()], vec![above, below]], &root, mount_overlay).unwrap();
            let volumes = root.join(VOLUMES);
            let remount = ["-o", "remount,rw"];
            let remounted = Command::new("mount").args(remount).arg(volumes.join("0")).output().unwrap();
            assert!(!remounted.status.success());
            assert!(fs::write(volumes.join("0/new"), "").is_err());
            ["0", "1"].map(|n| fs::read_dir(volumes.join(n)).unwrap().count())
        });
        assert_eq!(volumes.join().unwrap(), [1, 2]);
    }
}
