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

/// How many handles of the last path's levels are kept; a level has one for each layer that it is in.
const MOST_HANDLES: usize = 128;

/// Gives the implied directories of the layer at `files` the metadata that they have in the layers `below`, topmost first.
/// They come in the order of their names.
pub(super) fn settle(files: &Path, implied: &[PathBuf], below: &[PathBuf]) -> io::Result<()> {
    if implied.is_empty() || below.is_empty() {
        return Ok(());
    }
    let layer = fs::open_directory(files)?;
    let mut descent = Descent { root: Stack::open(below)?, levels: Vec::new(), beyond: None };
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
        match descent.to(path)? {
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

/// The way to the directory that was looked up last. What the next one's way has in common with it is open already.
struct Descent<'a> {
    root: Stack,
    /// The names on the way, and what each is.
    levels: Vec<(&'a OsStr, Stack)>,
    /// Where it ended, if that is beyond the levels that are kept.
    beyond: Option<Stack>,
}

impl<'a> Descent<'a> {
    /// The directory at `path`, if it is one, all the way down.
    fn to(&mut self, path: &'a Path) -> Result<Option<&Stack>, Errno> {
        self.beyond = None;
        let common = path.iter().zip(&self.levels).take_while(|(name, level)| *name == level.0).count();
        self.levels.truncate(common);
        for name in path.iter().skip(common) {
            let Found::Directory(found) = self.end().look_up(name.as_bytes())? else { return Ok(None) };
            let kept: usize = self.levels.iter().map(|level| level.1.width()).sum();
            match self.beyond.is_none() && kept + found.width() <= MOST_HANDLES {
                true => self.levels.push((name, found)),
                false => self.beyond = Some(found),
            }
        }
        Ok(Some(self.end()))
    }

    fn end(&self) -> &Stack {
        let kept = self.levels.last().map_or(&self.root, |level| &level.1);
        self.beyond.as_ref().unwrap_or(kept)
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
