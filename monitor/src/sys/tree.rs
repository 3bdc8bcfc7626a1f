//! Files of a tree whose links are not to be trusted: each path is resolved with the tree's root as `/` (openat2(2)).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// Opens the directory `path` of the tree below `root`; an empty path is the root itself. Links stay within the tree.
pub(crate) fn open_directory_in(root: &File, path: &Path) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() { OsStr::new(".") } else { path.as_os_str() };
    let path = CString::new(path.as_bytes())?;
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the path is a C string and `how` a structure of the given size; both outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    // SAFETY: a descriptor that is not -1 was just made and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(check(fd as libc::c_int)?) })
}

/// Makes the directory `name` in `directory`, of exactly that mode.
pub(crate) fn make_directory(directory: &File, name: &OsStr, mode: libc::mode_t) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    // SAFETY: umask touches no memory.
    let mask = unsafe { libc::umask(0) };
    // SAFETY: the name is a C string that outlives the call.
    let made = check(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) });
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    made.map(drop)
}

/// Makes the symbolic link `name` in `directory`.
pub(crate) fn make_link(directory: &File, name: &OsStr, target: &Path) -> io::Result<()> {
    let (name, target) = (CString::new(name.as_bytes())?, CString::new(target.as_os_str().as_bytes())?);
    // SAFETY: both are C strings that outlive the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), directory.as_raw_fd(), name.as_ptr()) }).map(drop)
}
