//! What depends on the layers below, settled when a chain is committed.
//!
//! A directory that a layer's archive implies but does not list covers, in an overlay, the one below it with its own
//! metadata. So it takes over what the nearest lower layer has: /tmp stays 1777.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::stack::{Found, Stack};
use crate::sys::fs::{self, Timespec};

/// Overlay's own marks say something about one layer only.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Gives the implied directories of the layer at `files` the metadata that they have in the layers `below`, topmost first.
pub(super) fn settle(files: &Path, implied: &[PathBuf], below: &[PathBuf]) -> io::Result<()> {
    if implied.is_empty() || below.is_empty() {
        return Ok(());
    }
    let layer = fs::open_directory(files)?;
    let stack = Stack::open(below)?;
    // Parents come first: what is below a directory that is missing there is missing, too.
    let mut missing: Option<&Path> = None;
    for path in implied {
        if missing.is_some_and(|missing| path.starts_with(missing)) {
            continue;
        }
        let target = match fs::open_directory_beneath(layer.as_fd(), path.as_os_str().as_bytes()) {
            Ok(target) => target,
            // A later entry of the archive took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(e) => return Err(e.into()),
        };
        match directory(&stack, path)? {
            Some(source) => copy_metadata(source.top(), target.as_fd())?,
            None => missing = Some(path),
        }
    }
    Ok(())
}

/// Whether a layer hides all below it, by an opaque root.
pub(super) fn hides_below(files: &Path) -> io::Result<bool> {
    Ok(fs::is_opaque(fs::open_directory(files)?.as_fd())?)
}

/// The directory at `path`, if it is one, all the way down.
fn directory(root: &Stack, path: &Path) -> Result<Option<Stack>, Errno> {
    let mut names = path.iter().map(OsStr::as_bytes);
    let Some(first) = names.next() else {
        return root.look_up(b".").map(into_directory);
    };
    let mut found = into_directory(root.look_up(first)?);
    for name in names {
        let Some(dir) = found else { break };
        found = into_directory(dir.look_up(name)?);
    }
    Ok(found)
}

fn into_directory(found: Found) -> Option<Stack> {
    match found {
        Found::Directory(stack) => Some(stack),
        Found::Nothing | Found::Link(_) | Found::File(_) | Found::Other => None,
    }
}

fn copy_metadata(source: Option<BorrowedFd<'_>>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let Some(source) = source else { return Ok(()) };
    let stat = rustix::fs::fstat(source)?;
    fs::set_owner_and_mode(target, stat.st_uid, stat.st_gid, stat.st_mode)?;
    for name in fs::xattr_names(source)? {
        if !name.starts_with(OVERLAY)
            && let Some(value) = fs::xattr(source, &name)?
        {
            fs::set_xattr(target, &name, &value)?;
        }
    }
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    fs::set_time(target, Timespec { tv_sec: stat.st_mtime, tv_nsec: nanos })
}
