//! Mounts: both the file system context calls of newer kernels and mount(2).

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::check;

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Moves this process into a mount namespace of its own, a copy of the one that it is in.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: unshare touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    Ok(())
}

/// mount(2) of a new file system.
pub(crate) fn mount(kind: &str, target: &Path, options: &[u8]) -> io::Result<()> {
    let (kind, target, options) =
        (CString::new(kind)?, CString::new(target.as_os_str().as_bytes())?, CString::new(options)?);
    // SAFETY: all pointers are to C strings that outlive the call.
    check(unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) })?;
    Ok(())
}

/// Unmounts a mount and all below it, also while they are in use.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: the pointer is to a C string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })?;
    Ok(())
}

/// Makes another node of the null device.
pub(crate) fn make_null(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the pointer is to a C string that outlives the call.
    check(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) })?;
    Ok(())
}

/// A mount that is attached nowhere yet: open_tree(2).
pub(crate) struct Tree(File);

impl Tree {
    /// Another mount of a directory, without what is mounted below it.
    pub(crate) fn copy(directory: &Path) -> io::Result<Self> {
        let directory = CString::new(directory.as_os_str().as_bytes())?;
        let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
        // SAFETY: the pointer is to a C string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, directory.as_ptr(), flags) };
        // SAFETY: a descriptor that is not -1 was just made and belongs to nobody else.
        Ok(Self(unsafe { File::from_raw_fd(check(fd as libc::c_int)?) }))
    }

    /// Has it show the owners that a user namespace maps.
    pub(crate) fn map_owners(&self, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let attributes = MountAttributes {
            set: MOUNT_ATTR_IDMAP,
            clear: 0,
            propagation: 0,
            user_namespace: u64::from(namespace.as_raw_fd().cast_unsigned()),
        };
        // SAFETY: both descriptors are open for the length of the call, the path is an empty C string, and the attributes
        // are read from a struct of the size that is told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<MountAttributes>(),
            )
        };
        check(result as libc::c_int)?;
        Ok(())
    }

    /// Attaches it to a directory.
    pub(crate) fn attach(self, target: &Path) -> io::Result<()> {
        move_mount(&self.0, target)
    }
}

/// Attaches a mount that is attached nowhere.
fn move_mount(mount: &File, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both pointers are to C strings that outlive the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    check(moved as libc::c_int)?;
    Ok(())
}

/// A file system that is being configured: fsopen(2).
pub(crate) struct Context(File);

impl Context {
    pub(crate) fn open(kind: &str) -> io::Result<Self> {
        let kind = CString::new(kind)?;
        // SAFETY: the pointer is to a C string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
        // SAFETY: a descriptor that is not -1 was just made and belongs to nobody else.
        Ok(Self(unsafe { File::from_raw_fd(check(fd as libc::c_int)?) }))
    }

    /// Sets one parameter; without a value it is a flag.
    pub(crate) fn set(&self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        let (key, value) = (CString::new(key)?, value.map(CString::new).transpose()?);
        match &value {
            Some(value) => self.configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
            None => self.configure(FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null()),
        }
    }

    /// Makes the file system and attaches it to a directory.
    pub(crate) fn mount(&self, target: &Path) -> io::Result<()> {
        self.configure(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
        // SAFETY: fsmount touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
        // SAFETY: a descriptor that is not -1 was just made and belongs to nobody else.
        let mount = unsafe { File::from_raw_fd(check(fd as libc::c_int)?) };
        move_mount(&mount, target)
    }

    /// What the kernel has to say about the last error, if anything.
    pub(crate) fn message(&self) -> Option<String> {
        let mut text = [0u8; 512];
        let len = (&self.0).read(&mut text).ok()?;
        // A message starts with its severity: `e overlay: ...`.
        let text = String::from_utf8_lossy(&text[..len]);
        Some(text.trim_start_matches(['e', 'w', 'i']).trim().to_owned())
    }

    fn configure(&self, command: libc::c_uint, key: *const c_char, value: *const c_char) -> io::Result<()> {
        // SAFETY: the callers give null or pointers to C strings that outlive the call, as the command asks for.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        check(result as libc::c_int)?;
        Ok(())
    }
}
