//! The label of all that is in a volume, so that the container that it is for may use it.
//!
//! The walk stays in the volume: it goes by directory handles, labels a symbolic link itself and follows none, and
//! leaves what is mounted below the volume alone. What has the right label already is not written. A file that goes
//! away meanwhile is no error, and a file system that keeps no labels (NFS) is left as it is.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::sys::fs;

/// The attribute that holds a label.
const ATTRIBUTE: &[u8] = b"security.selinux";

/// Directories of the host that hold more than a volume, by the paths to which links lead: with a container's label
/// on them the host would not work any more.
const NEVER: [&str; 30] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/tmp",
];

/// A volume that cannot be labelled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RelabelError {
    /// A directory that is not to be.
    #[error(
        "{path} holds more than a volume: with a container's label the host would lose its use of it; name a directory below it"
    )]
    Host { path: PathBuf },
    /// The kernel refuses.
    #[error("cannot label {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Whether what has the right label at its top is taken to have it all through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It is: annotated so, because a walk through a large volume takes long.
    Top,
    /// It is not.
    Nothing,
}

/// Gives `label` to all of a volume: a file or a directory, whose path has no symbolic links.
pub fn relabel(volume: &Path, label: &str, trust: Trust) -> Result<(), RelabelError> {
    if NEVER.iter().any(|never| Path::new(never) == volume) {
        return Err(RelabelError::Host { path: volume.to_owned() });
    }
    let failed = |path: &[u8]| {
        let path = match path {
            [] => volume.to_owned(),
            path => volume.join(OsStr::from_bytes(path)),
        };
        move |e: Errno| RelabelError::Io { path, source: e.into() }
    };
    let top = fs::open_entry(volume).map_err(failed(b""))?;
    if trust == Trust::Top && has(top.as_fd(), label).map_err(failed(b""))? {
        return Ok(());
    }
    if !set(top.as_fd(), label).map_err(failed(b""))? || !is_directory(top.as_fd()).map_err(failed(b""))? {
        return Ok(());
    }
    // By the handle: the path may lead elsewhere by now.
    let root = fs::open_directory_beneath(top.as_fd(), b"").map_err(failed(b""))?;
    // Paths below the volume, and not handles: a deep tree must not take all that the daemon may open.
    let mut directories = vec![Vec::new()];
    while let Some(path) = directories.pop() {
        let below =
            directory(root.as_fd(), &path, label).map_err(|(name, e)| failed(&join(&path, &name))(e))?;
        directories.extend(below.iter().map(|name| join(&path, name)));
    }
    Ok(())
}

/// Gives `label` to one file that podd itself has made.
pub fn label_file(path: &Path, label: &str) -> io::Result<()> {
    set(fs::open_entry(path)?.as_fd(), label)?;
    Ok(())
}

/// Labels what is in one directory, and gives the names of the directories in it.
fn directory(root: BorrowedFd<'_>, path: &[u8], label: &str) -> Result<Vec<Vec<u8>>, (Vec<u8>, Errno)> {
    let own = |e| (Vec::new(), e);
    let Some(directory) = unless_elsewhere(fs::open_directory_beneath(root, path)).map_err(own)? else {
        return Ok(Vec::new());
    };
    let mut below = Vec::new();
    for name in fs::entries(directory.as_fd()).map_err(own)? {
        let labelled = || {
            let entry = fs::open_entry_beneath(directory.as_fd(), &name);
            let Some(entry) = unless_elsewhere(entry)? else { return Ok(false) };
            Ok(set(entry.as_fd(), label)? && is_directory(entry.as_fd())?)
        };
        if labelled().map_err(|e| (name.clone(), e))? {
            below.push(name);
        }
    }
    Ok(below)
}

/// What was opened; nothing where it has gone, has become something else, or is a mount on the volume.
fn unless_elsewhere(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Errno> {
    match opened {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        opened => opened.map(Some),
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        [] => name.to_vec(),
        path => [path, b"/", name].concat(),
    }
}

fn is_directory(entry: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fs::file_type(&fs::stat(entry)?) == rustix::fs::FileType::Directory)
}

fn has(entry: BorrowedFd<'_>, label: &str) -> Result<bool, Errno> {
    let found = fs::entry_xattr(entry, ATTRIBUTE)?;
    // The kernel gives the label with a NUL at its end, and takes it with or without.
    Ok(found.is_some_and(|found| found.strip_suffix(b"\0").unwrap_or(&found) == label.as_bytes()))
}

/// Sets a label, unless it is there already; whether the file system keeps labels.
fn set(entry: BorrowedFd<'_>, label: &str) -> Result<bool, Errno> {
    if has(entry, label)? {
        return Ok(true);
    }
    match fs::set_entry_xattr(entry, ATTRIBUTE, label.as_bytes()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::fs as files;
    use std::os::unix::fs::symlink;

    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn label_of(path: &Path) -> Option<String> {
        let entry = fs::open_entry(path).unwrap();
        let value = fs::entry_xattr(entry.as_fd(), ATTRIBUTE).unwrap()?;
        Some(String::from_utf8(value).unwrap().trim_end_matches('\0').to_owned())
    }

    #[test]
    fn a_volume_is_labelled_all_through_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        files::create_dir_all(path("volume/a/b")).unwrap();
        files::create_dir(path("outside")).unwrap();
        for file in ["volume/file", "volume/a/b/deep", "outside/file"] {
            files::write(path(file), "").unwrap();
        }
        symlink(path("outside"), path("volume/a/out")).unwrap();
        symlink(path("outside/file"), path("volume/out")).unwrap();
        relabel(&path("volume"), LABEL, Trust::Nothing).unwrap();
        for inside in ["volume", "volume/file", "volume/a", "volume/a/b", "volume/a/b/deep", "volume/out"] {
            assert_eq!(label_of(&path(inside)).as_deref(), Some(LABEL), "{inside}");
        }
        for outside in ["outside", "outside/file"] {
            assert_eq!(label_of(&path(outside)), None, "{outside}");
        }
        relabel(&path("outside/file"), LABEL, Trust::Nothing).unwrap();
        assert_eq!(label_of(&path("outside/file")).as_deref(), Some(LABEL));
        assert_eq!(label_of(&path("outside")), None);
    }

    #[test]
    fn what_has_the_label_at_its_top_is_left_alone_where_that_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        files::create_dir(&volume).unwrap();
        relabel(&volume, LABEL, Trust::Top).unwrap();
        files::write(volume.join("late"), "").unwrap();
        relabel(&volume, LABEL, Trust::Top).unwrap();
        assert_eq!(label_of(&volume.join("late")), None);
        relabel(&volume, LABEL, Trust::Nothing).unwrap();
        assert_eq!(label_of(&volume.join("late")).as_deref(), Some(LABEL));
    }

    #[test]
    fn a_tree_deeper_than_any_limit_of_open_files_is_labelled() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        let deepest = (0..1500).fold(volume.clone(), |path, _| path.join("d"));
        files::create_dir_all(&deepest).unwrap();
        relabel(&volume, LABEL, Trust::Nothing).unwrap();
        assert_eq!(label_of(&deepest).as_deref(), Some(LABEL));
    }

    #[test]
    fn directories_of_the_host_are_refused_by_name() {
        for path in NEVER {
            let error = relabel(Path::new(path), LABEL, Trust::Nothing).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{path} holds more than a volume")), "{error}");
        }
    }

    #[test]
    fn a_file_system_without_labels_is_left_as_it_is() {
        relabel(Path::new("/proc/sys/kernel/ostype"), LABEL, Trust::Nothing).unwrap();
    }

    #[test]
    fn what_is_mounted_in_a_volume_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["volume/mounted", "elsewhere"] {
            files::create_dir_all(path(name)).unwrap();
        }
        files::write(path("elsewhere/file"), "").unwrap();
        rustix::mount::mount_bind(path("elsewhere"), path("volume/mounted")).unwrap();
        let labelled = relabel(&path("volume"), LABEL, Trust::Nothing);
        rustix::mount::unmount(path("volume/mounted"), rustix::mount::UnmountFlags::DETACH).unwrap();
        labelled.unwrap();
        assert_eq!(label_of(&path("volume")).as_deref(), Some(LABEL));
        assert_eq!((label_of(&path("elsewhere")), label_of(&path("elsewhere/file"))), (None, None));
    }
}
