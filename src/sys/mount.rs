//! Mounts that the daemon itself makes and removes: directories with a propagation of their own, tmpfs, bind mounts.
//!
//! All of it is idempotent, because a restarted daemon finds what its predecessor made: a mount that is there is kept, one
//! that is gone is no error. Calls block; from async code they go through `spawn_blocking`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags};

/// Makes `directory`, and makes it a mount whose own mounts are seen nowhere else.
///
/// What is bind-mounted below it then costs no propagation, and no other mount namespace holds it after its removal.
pub fn ensure_private_mount(directory: &Path) -> io::Result<()> {
    ensure_mount(directory, MountPropagationFlags::PRIVATE)
}

/// Makes `directory`, and makes it a mount that shares its mounts with its copies in other mount namespaces.
///
/// That is what `ip netns` does with /run/netns, and what network agents in pods, which mount it, rely on.
pub fn ensure_shared_mount(directory: &Path) -> io::Result<()> {
    ensure_mount(directory, MountPropagationFlags::SHARED | MountPropagationFlags::REC)
}

/// The kernel refuses (EINVAL) to change the propagation of what is no mount, so asking for it first needs no look
/// into the mount table and keeps the mount of an earlier daemon.
fn ensure_mount(directory: &Path, propagation: MountPropagationFlags) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    match rustix::mount::mount_change(directory, propagation) {
        Err(Errno::INVAL) => {}
        result => return Ok(result?),
    }
    rustix::mount::mount_bind_recursive(directory, directory)?;
    Ok(rustix::mount::mount_change(directory, propagation)?)
}

/// Mounts a tmpfs of at most `size` bytes on `path`, its root with the permission bits `mode` and this owner and group.
///
/// It takes no set-user-ID programs, no devices and no programs at all, as /dev/shm on a host. All that is in it has the
/// SELinux label, if one is given.
pub fn mount_tmpfs(
    path: &Path,
    size: u64,
    mode: u32,
    (uid, gid): (u32, u32),
    label: Option<&str>,
) -> io::Result<()> {
    // In quotes, since a level has commas of its own.
    let context = label.map(|label| format!(",context=\"{label}\"")).unwrap_or_default();
    let options = format!("size={size},mode={mode:o},uid={uid},gid={gid}{context}");
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())?)
}

/// Whether `directory` can be mounted with the owners that a user namespace maps (Linux 5.12, and the file system's leave):
/// makes such a mount, attaches it nowhere and lets it go.
pub fn map_owners(directory: &Path, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, directory, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
    };
    // SAFETY: both descriptors are open for the length of the call, the path is an empty C string, and the attributes are
    // read from a struct of the size that is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Unmounts the topmost mount on `path`, at once and even while in use; no mount there is a success.
pub fn unmount(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The optional fields (`shared:1`) of the mounts on `path`, bottom first.
    fn propagation(path: &Path) -> Vec<String> {
        let path = path.canonicalize().unwrap();
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter(|line| line.split(' ').nth(4) == path.to_str())
            .map(|line| line.split(" - ").next().unwrap().split(' ').skip(6).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn a_directory_becomes_one_mount_however_often_it_is_asked_for() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("a/b");
        ensure_private_mount(&directory).unwrap();
        ensure_private_mount(&directory).unwrap();
        assert_eq!(propagation(&directory), [""]);
        unmount(&directory).unwrap();
        ensure_shared_mount(&directory).unwrap();
        ensure_shared_mount(&directory).unwrap();
        let found = propagation(&directory);
        assert!(found.len() == 1 && found[0].starts_with("shared:"), "{found:?}");
        unmount(&directory).unwrap();
        unmount(&directory).unwrap();
        assert!(propagation(&directory).is_empty());
        unmount(&directory.join("absent")).unwrap();
    }

    #[test]
    fn a_tmpfs_has_its_size_mode_and_owner() {
        use std::os::unix::fs::MetadataExt;
        let temporary = tempfile::tempdir().unwrap();
        mount_tmpfs(temporary.path(), 1 << 20, 0o1777, (7, 8), None).unwrap();
        let found = fs::metadata(temporary.path()).unwrap();
        let full = fs::write(temporary.path().join("big"), vec![1; 2 << 20]);
        unmount(temporary.path()).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o1777, 7, 8));
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
