//! The directories of a layer that is being unpacked: from an entry's path to a handle of its parent.
//!
//! Nothing is ever opened by a path of more than one untrusted step: each component is opened below the handle before it,
//! without following links. A symbolic link that an earlier entry of the same layer made is followed by hand, with the
//! staging directory as its root, as chroot(2) would: so `lib -> usr/lib` and `lib/foo` give `usr/lib/foo`, and a link to
//! `/etc` or `../../etc` stays inside. A directory that is needed and not there is made, and remembered as implied.
//!
//! Handles of the current path are kept, since archives list files directory by directory.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Limits;
use super::error::ExtractError;
use super::inventory::{Inventory, Listed};
use crate::sys::fs;

/// As Linux does (MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// How many levels of the current path are kept open.
const MAX_OPEN_LEVELS: usize = 64;

/// How many bytes the names of implied and listed directories may take in memory.
const MAX_REMEMBERED_BYTES: u64 = 128 << 20;

/// What an implied directory has until the layers below say otherwise.
const IMPLIED_MODE: u32 = 0o755;

/// An open directory of the layer.
pub(super) struct Dir {
    fd: OwnedFd,
    /// Where it really is, below the root and free of links.
    path: Vec<u8>,
    depth: u32,
}

impl Dir {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The path of `name` in it.
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        fs::join(&self.path, name)
    }
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Fail,
}

/// One resolution: the entry it is for, what it may make, and how many links it may still follow.
struct Walk<'a> {
    entry: &'a [u8],
    missing: Missing,
    links_left: u32,
}

/// The tree under a layer's staging directory.
pub(super) struct Tree<'a> {
    staging: &'a Path,
    limits: &'a Limits,
    root: Rc<Dir>,
    levels: Vec<(Vec<u8>, Rc<Dir>)>,
    last: Option<(Vec<u8>, Rc<Dir>)>,
    implied: BTreeSet<Vec<u8>>,
    remembered_bytes: u64,
    discarded: Option<(OwnedFd, PathBuf)>,
    discarded_count: u64,
    inodes: u64,
    /// What is made is written down by those who make it.
    pub(super) inventory: Inventory,
}

impl<'a> Tree<'a> {
    /// The tree of the empty directory `root`, which lies in `staging`.
    pub(super) fn new(root: OwnedFd, inventory: Inventory, staging: &'a Path, limits: &'a Limits) -> Self {
        Self {
            staging,
            limits,
            root: Rc::new(Dir { fd: root, path: Vec::new(), depth: 0 }),
            levels: Vec::new(),
            last: None,
            implied: BTreeSet::from([Vec::new()]),
            remembered_bytes: 0,
            discarded: None,
            discarded_count: 0,
            inodes: 1,
            inventory,
        }
    }

    /// The directory `path`.
    pub(super) fn directory(&mut self, path: &[u8], missing: Missing) -> Result<Rc<Dir>, ExtractError> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((last, dir)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(dir));
        }
        let components = path.split(|&b| b == b'/');
        let common =
            components.clone().zip(&self.levels).take_while(|(name, level)| **name == level.0).count();
        self.levels.truncate(common);
        let mut dir = self.levels.last().map_or(&self.root, |level| &level.1).clone();
        let mut walk = Walk { entry: path, missing, links_left: MAX_LINKS };
        for (index, name) in components.enumerate().skip(common) {
            dir = self.step(&dir, name, &mut walk)?;
            // The levels stay a prefix of the path without gaps, also when a step had to forget them all.
            if index < MAX_OPEN_LEVELS && self.levels.len() == index {
                self.levels.push((name.to_vec(), Rc::clone(&dir)));
            }
        }
        self.last = Some((path.to_vec(), Rc::clone(&dir)));
        Ok(dir)
    }

    /// Removes what is at `name`, because a later entry of the layer replaces it.
    pub(super) fn discard(&mut self, dir: &Dir, name: &[u8]) -> Result<(), ExtractError> {
        let fail = |e| ExtractError::entry("replace", name, self.staging, e);
        // The kept handles may lead through what goes away now.
        self.levels.clear();
        self.last = None;
        self.inventory.removed(&dir.join(name));
        match fs::unlink(dir.fd(), name) {
            Err(Errno::ISDIR) => {}
            result => return result.map_err(fail),
        }
        self.discarded_count += 1;
        let new_name = self.discarded_count.to_string();
        let discarded = self.discarded_directory()?;
        fs::move_entry(dir.fd(), name, discarded, new_name.as_bytes())
            .map_err(|e| ExtractError::entry("replace", name, self.staging, e))
    }

    /// Counts a new file or directory.
    pub(super) fn count_inode(&mut self) -> Result<(), ExtractError> {
        self.inodes += 1;
        match self.inodes > self.limits.max_entries {
            true => Err(ExtractError::Limit { what: "files", limit: self.limits.max_entries }),
            false => Ok(()),
        }
    }

    /// Counts what is kept in memory for one directory.
    pub(super) fn remember(&mut self, path: &[u8]) -> Result<(), ExtractError> {
        self.remembered_bytes += path.len() as u64 + 64;
        match self.remembered_bytes > MAX_REMEMBERED_BYTES {
            true => {
                Err(ExtractError::Limit { what: "bytes of directory names", limit: MAX_REMEMBERED_BYTES })
            }
            false => Ok(()),
        }
    }

    /// The archive lists this directory after all.
    pub(super) fn not_implied(&mut self, path: &[u8]) {
        self.implied.remove(path);
    }

    /// Opens a directory by its real path, if it is still there.
    pub(super) fn reopen(&self, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        match fs::open_directory_beneath(self.root.fd(), path) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Ends the unpacking: what was replaced is deleted; returns the implied directories, parents first, and the count
    /// of inodes.
    pub(super) fn finish(self) -> Result<(Vec<PathBuf>, u64), ExtractError> {
        if let Some((fd, path)) = self.discarded {
            fs::empty_directory(fd.as_fd())
                .and_then(|()| std::fs::remove_dir(&path))
                .map_err(|e| ExtractError::staging("empty", &path, e))?;
        }
        self.inventory
            .finish()
            .map_err(|e| ExtractError::staging("write the inventory in", self.staging, e))?;
        let implied = self.implied.iter().map(|path| fs::path_of(path).to_owned()).collect();
        Ok((implied, self.inodes))
    }

    /// One component further.
    fn step(&mut self, at: &Rc<Dir>, name: &[u8], walk: &mut Walk<'_>) -> Result<Rc<Dir>, ExtractError> {
        let fail = |operation, e| ExtractError::entry(operation, walk.entry, self.staging, e);
        match fs::open_directory_beneath(at.fd(), name) {
            Ok(fd) => self.child(at, name, fd, walk),
            Err(Errno::NOENT) if walk.missing == Missing::Make => self.make(at, name, walk),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let stat = fs::stat_at(at.fd(), name).map_err(|e| fail("look up", e))?;
                if fs::file_type(&stat) == FileType::Symlink {
                    let target = fs::read_link(at.fd(), name).map_err(|e| fail("read a link to", e))?;
                    return self.follow(at, &target, walk);
                }
                if fs::is_whiteout(&stat) && walk.missing == Missing::Make {
                    // The layer hides the directory of the layers below and has one of that name: an opaque one.
                    self.discard(at, name)?;
                    let dir = self.make(at, name, walk)?;
                    fs::set_opaque(dir.fd())
                        .map_err(|e| ExtractError::entry("make opaque", walk.entry, self.staging, e))?;
                    self.implied.remove(&dir.path);
                    return Ok(dir);
                }
                Err(ExtractError::refused(walk.entry, "a part of its path is not a directory"))
            }
            Err(e) => Err(fail("open the directory of", e)),
        }
    }

    /// Follows a link that was found in `at`, never above the root.
    fn follow(&mut self, at: &Rc<Dir>, target: &[u8], walk: &mut Walk<'_>) -> Result<Rc<Dir>, ExtractError> {
        walk.links_left = walk.links_left.checked_sub(1).ok_or_else(|| {
            ExtractError::refused(walk.entry, "its path goes through too many symbolic links")
        })?;
        let mut dir = Rc::clone(if target.starts_with(b"/") { &self.root } else { at });
        for name in target.split(|&b| b == b'/') {
            dir = match name {
                b"" | b"." => continue,
                b".." => self.parent(&dir, walk)?,
                name => self.step(&dir, name, walk)?,
            };
        }
        Ok(dir)
    }

    fn parent(&self, dir: &Rc<Dir>, walk: &Walk<'_>) -> Result<Rc<Dir>, ExtractError> {
        let Some(slash) = dir.path.iter().rposition(|&b| b == b'/') else {
            return Ok(Rc::clone(&self.root));
        };
        let path = dir.path[..slash].to_vec();
        let fd = fs::open_directory_beneath(self.root.fd(), &path)
            .map_err(|e| ExtractError::entry("open the directory of", walk.entry, self.staging, e))?;
        Ok(Rc::new(Dir { fd, path, depth: dir.depth - 1 }))
    }

    fn make(&mut self, at: &Rc<Dir>, name: &[u8], walk: &Walk<'_>) -> Result<Rc<Dir>, ExtractError> {
        let staging = self.staging;
        let fail = |e| ExtractError::entry("make the directory of", walk.entry, staging, e);
        self.count_inode()?;
        fs::make_directory(at.fd(), name, IMPLIED_MODE).map_err(fail)?;
        let fd = fs::open_directory_beneath(at.fd(), name).map_err(fail)?;
        fs::set_owner_and_mode(fd.as_fd(), 0, 0, IMPLIED_MODE).map_err(fail)?;
        let dir = self.child(at, name, fd, walk)?;
        self.remember(&dir.path)?;
        self.inventory.listed(&dir.path, &Listed::ImpliedDirectory);
        self.implied.insert(dir.path.clone());
        Ok(dir)
    }

    fn child(
        &self,
        at: &Rc<Dir>,
        name: &[u8],
        fd: OwnedFd,
        walk: &Walk<'_>,
    ) -> Result<Rc<Dir>, ExtractError> {
        let dir = Dir { fd, path: at.join(name), depth: at.depth + 1 };
        // A link may lead deeper than any one entry's path is long.
        if dir.depth > self.limits.max_depth || dir.path.len() > self.limits.max_path_len as usize {
            let reason = format!("its directory is nested deeper than {}", self.limits.max_depth);
            return Err(ExtractError::refused(walk.entry, reason));
        }
        Ok(Rc::new(dir))
    }

    fn discarded_directory(&mut self) -> Result<BorrowedFd<'_>, ExtractError> {
        if self.discarded.is_none() {
            let path = self.staging.join("discarded");
            let fd = std::fs::create_dir(&path)
                .and_then(|()| fs::open_directory(&path))
                .map_err(|e| ExtractError::staging("create", &path, e))?;
            self.discarded = Some((fd, path));
        }
        match &self.discarded {
            Some((fd, _)) => Ok(fd.as_fd()),
            None => unreachable!("it was made above"),
        }
    }
}
