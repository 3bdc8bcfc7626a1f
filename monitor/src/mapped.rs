//! A root filesystem for a container in a user namespace: its layers are shown with the namespace's owners.
//!
//! Nothing is changed on the disk, so pods with different mappings share layers. Each directory is cloned as a mount of its
//! own whose owners are mapped (Linux 5.12), on a tmpfs that is there only until the overlay has taken its own copies of
//! them (Linux 5.19); what the container writes is mapped back by the same mount. What the monitor itself has made on its
//! tmpfs is shown as it is: nobody sees its owners, and a tmpfs can be mapped only from Linux 6.3 on.

use std::ffi::OsStr;
use std::fs::{File, create_dir, remove_dir};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use podd_monitor::protocol::{Overlay, UserNamespace};

use crate::failure::Described;
use crate::overlay::mount_overlay;
use crate::sys::mount::{Tree, mount, unmount};
use crate::sys::process::making_files_as;

/// Where the mapped directories are, below the container's private mount point.
const MAPPED: &str = "mapped";

/// Mounts `overlay` on `target` with the owners that `namespace` maps.
pub(crate) fn mount_mapped(
    overlay: &Overlay,
    namespace: &UserNamespace,
    mount_point: &Path,
    target: &Path,
) -> Result<(), String> {
    let mapper = Mapper {
        own: mount_point,
        namespace: File::open(&namespace.path)
            .described(format_args!("open the user namespace {}", namespace.path.display()))?,
        directory: mount_point.join(MAPPED),
    };
    let directory = &mapper.directory;
    create_dir(directory).described(format_args!("make {}", directory.display()))?;
    mount("tmpfs", directory, b"mode=700,size=64k")
        .described(format_args!("mount a tmpfs on {}", directory.display()))?;
    let overlay = mapper.overlay(overlay)?;
    // overlayfs acts as who has mounted it, and through a mapped mount only those can make files whom it maps.
    let mounted = making_files_as(namespace.uid, namespace.gid, || mount_overlay(&overlay, target));
    mounted.described("become the root of the user namespace")??;
    unmount(directory).described(format_args!("unmount {}", directory.display()))?;
    remove_dir(directory).described(format_args!("remove {}", directory.display()))
}

struct Mapper<'a> {
    /// Where the monitor makes directories of its own.
    own: &'a Path,
    namespace: File,
    directory: PathBuf,
}

impl Mapper<'_> {
    /// The same layers by the paths of their mapped mounts.
    fn overlay(&self, overlay: &Overlay) -> Result<Overlay, String> {
        let lower = overlay.lower.iter().enumerate().map(|(n, layer)| self.map(layer, &n.to_string()));
        let lower = lower.collect::<Result<_, _>>()?;
        if overlay.upper.as_os_str().is_empty() {
            return Ok(Overlay { lower, ..overlay.clone() });
        }
        // Both have to be on one mount.
        let (above, upper, work) = writable(overlay)?;
        let above = self.map(above, "writable")?;
        let (upper, work) = (above.join(upper), above.join(work));
        Ok(Overlay { lower, upper, work, ..overlay.clone() })
    }

    fn map(&self, directory: &Path, name: &str) -> Result<PathBuf, String> {
        if directory.starts_with(self.own) {
            return Ok(directory.to_owned());
        }
        let target = self.directory.join(name);
        create_dir(&target).described(format_args!("make {}", target.display()))?;
        let mapped = Tree::copy(directory)
            .and_then(|tree| tree.map_owners(self.namespace.as_fd()).map(|()| tree))
            .and_then(|tree| tree.attach(&target));
        mapped.map(|()| target).map_err(|error| {
            format!(
                "show {} with the owners of the pod's user namespace (hostUsers: false), which takes Linux 5.19 and a \
                 file system that can do it: {error}",
                directory.display()
            )
        })
    }
}

/// The directory that holds the upper one and the working one, and their names.
fn writable(overlay: &Overlay) -> Result<(&Path, &OsStr, &OsStr), String> {
    let (upper, work) = (&overlay.upper, &overlay.work);
    match (upper.parent(), upper.file_name(), work.file_name()) {
        (Some(above), Some(upper), Some(name)) if work.parent() == Some(above) => Ok((above, upper, name)),
        _ => Err(format!("{} and {} are not side by side", upper.display(), work.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writable_directories_are_side_by_side() {
        let overlay = |upper: &str, work: &str| Overlay {
            upper: upper.into(),
            work: work.into(),
            ..Overlay::default()
        };
        let beside = overlay("/c/1/upper", "/c/1/work");
        assert_eq!(writable(&beside).unwrap(), (Path::new("/c/1"), OsStr::new("upper"), OsStr::new("work")));
        assert!(writable(&overlay("/c/1/upper", "/c/2/work")).is_err());
        assert!(writable(&overlay("/", "/")).is_err());
    }
}
