//! Mounts: both the file system context calls of newer kernels and mount(2).

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
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
