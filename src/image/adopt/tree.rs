//! A layer's files from another runtime's directory, which is in overlayfs form already: the same whiteouts and opaque
//! marks as podd's own.
//!
//! Directories, links and devices are made anew; the content of files is shared (reflink or hard link) or copied. The
//! other store is trusted no more than an archive: nothing is opened through a link, and what an overlay would redirect
//! is refused.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use super::Mode;
use super::error::AdoptError;
use super::share::copy;
use crate::image::extract::{Extracted, FILES, Inventory, Limits, Listed, Metadata, fingerprint, is_counted};
use crate::sys::fs::{self, Stat, Timespec};

/// What file systems give out at a time; sizes are rounded up to it, as in `extract`.
const BLOCK: u64 = 4096;

/// What a directory has that no archive lists, until the layers below say otherwise; as in `extract`.
const IMPLIED_MODE: u32 = 0o755;

/// Marks by which an overlay takes a file's name or content from elsewhere.
const REDIRECTING: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// Overlay's own marks; the opaque one is set anew, the others say something about the other store.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// A larger file that takes fewer blocks than it has bytes is not read for the inventory: its holes could be of any size.
const LARGEST_WITH_HOLES: u64 = 1 << 20;

/// How a layer is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner<'a> {
    pub(super) mode: Mode,
    /// Read the content of all files for the inventory. Of copies it is read in any case, of others only the length is
    /// noted.
    pub(super) read: bool,
    pub(super) limits: &'a Limits,
}

/// One layer on its way.
struct Taker<'a> {
    tree: &'a Path,
    mode: Mode,
    read: bool,
    limits: &'a Limits,
    inventory: Inventory,
    /// Where files with more than one link were put first, by inode.
    linked: HashMap<u64, Vec<u8>>,
    from: OwnedFd,
    to: OwnedFd,
    bytes: u64,
    inodes: u64,
}

/// A directory that was filled.
struct Made {
    path: Vec<u8>,
    metadata: Metadata,
    time: Timespec,
}

/// A directory that is still to be filled.
struct Pending {
    path: Vec<u8>,
    depth: u32,
}

/// Takes the files of the layer at `tree` into `staging`, as `extract_layer` would have put them there, with an inventory.
/// Directories that are not `listed`, where that is known, have their metadata from the layers below and not from the other
/// store.
pub(super) fn take(
    tree: &Path,
    staging: &Path,
    manner: Manner<'_>,
    listed: Option<&BTreeSet<Vec<u8>>>,
    stop: &AtomicBool,
) -> Result<Extracted, AdoptError> {
    let fail = |operation, source| AdoptError::Tree {
        operation,
        tree: tree.to_owned(),
        path: String::new(),
        source,
    };
    let mut taker = Taker::new(tree, staging, manner).map_err(|e| fail("begin to take", e))?;
    let mut made = Vec::new();
    let mut pending = vec![Pending { path: Vec::new(), depth: 0 }];
    while let Some(directory) = pending.pop() {
        if stop.load(Ordering::Relaxed) {
            return Err(fail("take", io::ErrorKind::Interrupted.into()));
        }
        made.push(taker.directory(directory, &mut pending)?);
    }
    let mut implied_directories = Vec::new();
    for directory in &made {
        let path = &directory.path;
        let is_listed = listed.is_none_or(|listed| listed.contains(path));
        taker.settle(directory, is_listed).map_err(|e| taker.error("set owner, mode or time of", path, e))?;
        if !is_listed {
            implied_directories.push(fs::path_of(path).to_owned());
        }
    }
    // Parents first.
    implied_directories.sort();
    taker.inventory.finish().map_err(|e| fail("write the inventory of", e))?;
    Ok(Extracted { bytes: taker.bytes, inodes: taker.inodes, implied_directories })
}

impl<'a> Taker<'a> {
    fn new(tree: &'a Path, staging: &Path, manner: Manner<'a>) -> io::Result<Self> {
        let target = staging.join(FILES);
        std::fs::create_dir_all(&target)?;
        Ok(Self {
            tree,
            mode: manner.mode,
            read: manner.read || manner.mode == Mode::Copy,
            limits: manner.limits,
            inventory: Inventory::create(staging)?,
            linked: HashMap::new(),
            from: fs::open_directory(tree)?,
            to: fs::open_directory(&target)?,
            bytes: 0,
            inodes: 1,
        })
    }

    /// Takes what is in one directory, and its own metadata; the directories in it are left for later.
    fn directory(&mut self, directory: Pending, pending: &mut Vec<Pending>) -> Result<Made, AdoptError> {
        let path = &directory.path;
        let open = |of: &OwnedFd| fs::open_directory_beneath(of.as_fd(), path);
        let from = open(&self.from).map_err(|e| self.error("open", path, e))?;
        let to = open(&self.to).map_err(|e| self.error("open", path, e))?;
        let stat = rustix::fs::fstat(&from).map_err(|e| self.error("look up", path, e))?;
        let listing = Dir::read_from(&from).map_err(|e| self.error("list", path, e))?;
        for entry in listing {
            let entry = entry.map_err(|e| self.error("list", path, e))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let below = fs::join(path, name);
            let stat = fs::stat_at(from.as_fd(), name).map_err(|e| self.error("look up", &below, e))?;
            if fs::file_type(&stat) == FileType::Directory {
                self.count(&below, BLOCK)?;
                fs::make_directory(to.as_fd(), name, 0o700).map_err(|e| self.error("make", &below, e))?;
                self.check_depth(directory.depth + 1, &below)?;
                pending.push(Pending { path: below, depth: directory.depth + 1 });
            } else {
                self.entry(from.as_fd(), to.as_fd(), name, &below, &stat)?;
            }
        }
        fs::set_owner_and_mode(to.as_fd(), stat.st_uid, stat.st_gid, stat.st_mode)
            .map_err(|e| self.error("set owner and mode of", path, e))?;
        let metadata = metadata(&stat, self.xattrs(from.as_fd(), to.as_fd(), path)?);
        if fs::is_opaque(from.as_fd()).map_err(|e| self.error("read attributes of", path, e))? {
            fs::set_opaque(to.as_fd()).map_err(|e| self.error("make opaque", path, e))?;
        }
        Ok(Made { path: directory.path, metadata, time: time(&stat) })
    }

    /// Gives a directory what the making of its files has changed, or what an implied one has.
    fn settle(&mut self, made: &Made, is_listed: bool) -> Result<(), Errno> {
        let directory = fs::open_directory_beneath(self.to.as_fd(), &made.path)?;
        match is_listed {
            true => {
                self.inventory.listed(&made.path, &Listed::Directory(made.metadata));
                fs::set_time(directory.as_fd(), made.time)
            }
            false => {
                self.inventory.listed(&made.path, &Listed::ImpliedDirectory);
                fs::set_owner_and_mode(directory.as_fd(), 0, 0, IMPLIED_MODE)
            }
        }
    }

    /// Takes what is no directory.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), AdoptError> {
        let kind = fs::file_type(stat);
        let made = match kind {
            FileType::RegularFile => return self.file(from, to, name, path, stat),
            FileType::CharacterDevice if fs::is_whiteout(stat) => {
                self.count(path, 0)?;
                self.inventory.listed(path, &Listed::Whiteout);
                return fs::make_whiteout(to, name).map_err(|e| self.error("make", path, e));
            }
            FileType::Symlink => fs::read_link(from, name).and_then(|target| {
                fs::make_symlink(to, name, &target)?;
                Ok(Listed::Link { uid: stat.st_uid, gid: stat.st_gid, target })
            }),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let listed = Listed::Node { kind: kind.as_raw_mode(), metadata: metadata(stat, 0), device };
                fs::make_node(to, name, kind, device.0, device.1).map(|()| listed)
            }
            // No archive has one, so no layer needs it.
            FileType::Socket | FileType::Directory | FileType::Unknown => return Ok(()),
        };
        let listed = made.map_err(|e| self.error("make", path, e))?;
        self.inventory.listed(path, &listed);
        self.count(path, 0)?;
        fs::set_owner_at(to, name, stat.st_uid, stat.st_gid)
            .map_err(|e| self.error("set the owner of", path, e))?;
        if kind != FileType::Symlink {
            fs::set_mode_at(to, name, stat.st_mode).map_err(|e| self.error("set the mode of", path, e))?;
        }
        fs::set_time_at(to, name, time(stat)).map_err(|e| self.error("set the time of", path, e))
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), AdoptError> {
        if stat.st_nlink > 1 && self.mode != Mode::Hardlink {
            if let Some(first) = self.linked.get(&stat.st_ino) {
                self.inventory.hard_link(path, first);
                return fs::make_hard_link(self.to.as_fd(), first, to, name)
                    .map_err(|e| self.error("link", path, e));
            }
            self.linked.insert(stat.st_ino, path.to_vec());
        }
        let size = stat.st_size.unsigned_abs();
        self.count(path, size.next_multiple_of(BLOCK))?;
        let source = fs::open_file_beneath(from, name).map_err(|e| self.error("open", path, e))?;
        let attributes = match self.mode {
            Mode::Hardlink => {
                let names = self.attributes(source.as_fd(), path)?;
                fs::make_hard_link(from, name, to, name).map_err(|e| self.error("link", path, e))?;
                count_of(&names)
            }
            Mode::Reflink | Mode::Copy => self.new_file(source.as_fd(), to, name, path, stat)?,
        };
        let print = self.print(to, name, stat).map_err(|e| self.io_error("read", path, e))?;
        let metadata = metadata(stat, attributes);
        self.inventory.listed(path, &Listed::File { metadata, size, print });
        Ok(())
    }

    /// Makes a file with the content and metadata of another; says how many attributes it has.
    fn new_file(
        &self,
        source: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<u64, AdoptError> {
        let target = fs::create_file(to, name).map_err(|e| self.error("make", path, e))?;
        let target = target.as_fd();
        if self.mode == Mode::Reflink {
            rustix::fs::ioctl_ficlone(target, source)
                .map_err(|e| self.error("share the content of", path, e))?;
        } else {
            copy(source, target, stat.st_size.unsigned_abs()).map_err(|e| self.io_error("copy", path, e))?;
        }
        fs::set_owner_and_mode(target, stat.st_uid, stat.st_gid, stat.st_mode)
            .map_err(|e| self.error("set owner and mode of", path, e))?;
        let attributes = self.xattrs(source, target, path)?;
        fs::set_time(target, time(stat)).map_err(|e| self.error("set the time of", path, e))?;
        Ok(attributes)
    }

    /// The fingerprint of a file that was taken, where its content is of interest.
    fn print(&self, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> io::Result<Option<u64>> {
        let size = stat.st_size.unsigned_abs();
        let has_holes = stat.st_blocks.unsigned_abs().saturating_mul(512) < size;
        if !self.read || (has_holes && size > LARGEST_WITH_HOLES) {
            return Ok(None);
        }
        let file = File::from(fs::open_file_beneath(to, name)?);
        Ok(Some(fingerprint(file)?.1))
    }

    /// Sets the attributes that do not belong to the other store; says how many count for the inventory.
    fn xattrs(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &[u8]) -> Result<u64, AdoptError> {
        let names = self.attributes(from, path)?;
        for name in names.iter().filter(|name| !name.starts_with(OVERLAY)) {
            let value = fs::xattr(from, name).map_err(|e| self.error("read attributes of", path, e))?;
            if let Some(value) = value {
                fs::set_xattr(to, name, &value).map_err(|e| self.error("set an attribute of", path, e))?;
            }
        }
        Ok(count_of(&names))
    }

    /// The names of all attributes; those that lead elsewhere are refused.
    fn attributes(&self, of: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, AdoptError> {
        let names = fs::xattr_names(of).map_err(|e| self.error("read attributes of", path, e))?;
        match names.iter().any(|name| REDIRECTING.contains(&name.as_slice())) {
            true => Err(self.refused(path, "its name or content is that of another layer")),
            false => Ok(names),
        }
    }

    fn count(&mut self, path: &[u8], bytes: u64) -> Result<(), AdoptError> {
        self.inodes += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let within = self.inodes <= self.limits.max_entries && self.bytes <= self.limits.max_unpacked_bytes;
        if within {
            Ok(())
        } else {
            Err(self.refused(path, "the layer has more than a layer may have (images.max_unpacked_bytes)"))
        }
    }

    fn check_depth(&self, depth: u32, path: &[u8]) -> Result<(), AdoptError> {
        let within = depth <= self.limits.max_depth && path.len() <= self.limits.max_path_len as usize;
        if within { Ok(()) } else { Err(self.refused(path, "it is nested too deep")) }
    }

    fn refused(&self, path: &[u8], reason: &'static str) -> AdoptError {
        AdoptError::Refused {
            tree: self.tree.to_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            reason,
        }
    }

    fn error(&self, operation: &'static str, path: &[u8], source: Errno) -> AdoptError {
        self.io_error(operation, path, source.into())
    }

    fn io_error(&self, operation: &'static str, path: &[u8], source: io::Error) -> AdoptError {
        let path = String::from_utf8_lossy(path).into_owned();
        AdoptError::Tree { operation, tree: self.tree.to_owned(), path, source }
    }
}

fn metadata(stat: &Stat, attributes: u64) -> Metadata {
    Metadata { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, attributes }
}

fn count_of(attributes: &[Vec<u8>]) -> u64 {
    attributes.iter().filter(|name| is_counted(name)).count() as u64
}

fn time(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}
