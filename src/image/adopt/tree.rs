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
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::Mode;
use super::error::AdoptError;
use crate::image::extract::{Extracted, FILES, Limits};
use crate::sys::fs::{self, Stat, Timespec};

/// What file systems give out at a time; sizes are rounded up to it, as in `extract`.
const BLOCK: u64 = 4096;

/// What a directory has that no archive lists, until the layers below say otherwise; as in `extract`.
const IMPLIED_MODE: u32 = 0o755;

/// Marks by which an overlay takes a file's name or content from elsewhere.
const REDIRECTING: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// Overlay's own marks; the opaque one is set anew, the others say something about the other store.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// One layer on its way.
struct Taker<'a> {
    tree: &'a Path,
    mode: Mode,
    limits: Limits,
    /// Where files with more than one link were put first, by inode.
    linked: HashMap<u64, Vec<u8>>,
    from: OwnedFd,
    to: OwnedFd,
    bytes: u64,
    inodes: u64,
}

/// A directory that is still to be filled.
struct Pending {
    path: Vec<u8>,
    depth: u32,
}

/// Whether files of `tree` can be had in this way in `directory`.
fn possible(tree: &Path, directory: &Path, mode: Mode) -> io::Result<bool> {
    Ok(match mode {
        Mode::Copy => true,
        Mode::Hardlink => mount_of(tree)? == mount_of(directory)?,
        Mode::Reflink => mount_of(tree)? == mount_of(directory)? && can_share(directory)?,
    })
}

/// The mount that a directory lies on: no file is linked from one to another, even of one file system.
fn mount_of(directory: &Path) -> io::Result<(u32, u32, u64)> {
    let stat = rustix::fs::statx(rustix::fs::CWD, directory, AtFlags::empty(), StatxFlags::MNT_ID)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_mnt_id))
}

/// Takes the files of the layer at `tree` into `staging`, as `extract_layer` would have put them there. Directories that
/// are not `listed`, where that is known, have their metadata from the layers below and not from the other store.
pub(super) fn take(
    tree: &Path,
    staging: &Path,
    mode: Mode,
    listed: Option<&BTreeSet<Vec<u8>>>,
    stop: &AtomicBool,
) -> Result<Extracted, AdoptError> {
    let target = staging.join(FILES);
    let fail = |operation, source| AdoptError::Tree {
        operation,
        tree: tree.to_owned(),
        path: String::new(),
        source,
    };
    std::fs::create_dir_all(&target).map_err(|e| fail("make a directory for", e))?;
    let from = fs::open_directory(tree).map_err(|e| fail("open", e))?;
    let to = fs::open_directory(&target).map_err(|e| fail("open", e))?;
    let limits = Limits::default();
    let mut taker = Taker { tree, mode, limits, linked: HashMap::new(), from, to, bytes: 0, inodes: 1 };
    let mut made: Vec<(Vec<u8>, Timespec)> = Vec::new();
    let mut pending = vec![Pending { path: Vec::new(), depth: 0 }];
    while let Some(directory) = pending.pop() {
        if stop.load(Ordering::Relaxed) {
            return Err(fail("take", io::ErrorKind::Interrupted.into()));
        }
        let time = taker.directory(&directory, &mut pending)?;
        made.push((directory.path, time));
    }
    // Directories change their times as files are made in them.
    let mut implied_directories = Vec::new();
    let is_listed = |path: &Vec<u8>| listed.is_none_or(|listed| listed.contains(path));
    for (path, time) in &made {
        let directory = fs::open_directory_beneath(taker.to.as_fd(), path);
        let set = directory.and_then(|directory| match is_listed(path) {
            true => fs::set_time(directory.as_fd(), *time),
            false => fs::set_owner_and_mode(directory.as_fd(), 0, 0, IMPLIED_MODE),
        });
        set.map_err(|e| taker.error("set owner, mode or time of", path, e))?;
        if !is_listed(path) {
            implied_directories.push(fs::path_of(path).to_owned());
        }
    }
    // Parents first.
    implied_directories.sort();
    Ok(Extracted { bytes: taker.bytes, inodes: taker.inodes, implied_directories })
}

impl Taker<'_> {
    /// Takes what is in one directory, and its own metadata; the directories in it are left for later.
    fn directory(&mut self, directory: &Pending, pending: &mut Vec<Pending>) -> Result<Timespec, AdoptError> {
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
            let below = join(path, name);
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
        self.xattrs(from.as_fd(), to.as_fd(), path)?;
        if fs::is_opaque(from.as_fd()).map_err(|e| self.error("read attributes of", path, e))? {
            fs::set_opaque(to.as_fd()).map_err(|e| self.error("make opaque", path, e))?;
        }
        Ok(time(&stat))
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
                return fs::make_whiteout(to, name).map_err(|e| self.error("make", path, e));
            }
            FileType::Symlink => {
                fs::read_link(from, name).and_then(|target| fs::make_symlink(to, name, &target))
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                fs::make_node(to, name, kind, major, minor)
            }
            // No archive has one, so no layer needs it.
            FileType::Socket | FileType::Directory | FileType::Unknown => return Ok(()),
        };
        made.map_err(|e| self.error("make", path, e))?;
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
                return fs::make_hard_link(self.to.as_fd(), first, to, name)
                    .map_err(|e| self.error("link", path, e));
            }
            self.linked.insert(stat.st_ino, path.to_vec());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.count(path, size.next_multiple_of(BLOCK))?;
        let source = fs::open_file_beneath(from, name).map_err(|e| self.error("open", path, e))?;
        if self.mode == Mode::Hardlink {
            self.redirects(source.as_fd(), path)?;
            return fs::make_hard_link(from, name, to, name).map_err(|e| self.error("link", path, e));
        }
        let target = fs::create_file(to, name).map_err(|e| self.error("make", path, e))?;
        match self.mode {
            Mode::Reflink => {
                rustix::fs::ioctl_ficlone(&target, &source)
                    .map_err(|e| self.error("share the content of", path, e))?;
            }
            Mode::Copy | Mode::Hardlink => {
                copy(source.as_fd(), target.as_fd(), size).map_err(|e| self.io_error("copy", path, e))?;
            }
        }
        let target = target.as_fd();
        fs::set_owner_and_mode(target, stat.st_uid, stat.st_gid, stat.st_mode)
            .map_err(|e| self.error("set owner and mode of", path, e))?;
        self.xattrs(source.as_fd(), target, path)?;
        fs::set_time(target, time(stat)).map_err(|e| self.error("set the time of", path, e))
    }

    fn xattrs(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &[u8]) -> Result<(), AdoptError> {
        for name in self.redirects(from, path)? {
            if name.starts_with(OVERLAY) {
                continue;
            }
            let value = fs::xattr(from, &name).map_err(|e| self.error("read attributes of", path, e))?;
            if let Some(value) = value {
                fs::set_xattr(to, &name, &value).map_err(|e| self.error("set an attribute of", path, e))?;
            }
        }
        Ok(())
    }

    /// The names of all attributes; those that lead elsewhere are refused.
    fn redirects(&self, of: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, AdoptError> {
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
        if within { Ok(()) } else { Err(self.refused(path, "the layer is larger than any layer may be")) }
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

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn time(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Copies what holds data; the holes stay holes.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole.
            Err(Errno::NXIO) => break,
            // A file system that knows of no holes.
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(data)).unwrap_or(size).min(size);
        let (mut offset_in, mut offset_out) = (data, data);
        while offset_in < end {
            let left = usize::try_from(end - offset_in).unwrap_or(usize::MAX).min(1 << 30);
            let copied = match rustix::fs::copy_file_range(
                from,
                Some(&mut offset_in),
                to,
                Some(&mut offset_out),
                left,
            ) {
                // Between file systems of different kinds.
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL) => {
                    plain_copy(from, to, &mut offset_in, end)?
                }
                result => result?,
            };
            if copied == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
            }
            offset_out = offset_in;
        }
        at = end;
    }
    Ok(rustix::fs::ftruncate(to, size)?)
}

/// Copies some bytes at an offset, which moves on.
fn plain_copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: &mut u64, end: u64) -> io::Result<usize> {
    let mut chunk = vec![0; 256 * 1024];
    let most = chunk.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
    let count = rustix::io::pread(from, &mut chunk[..most], *at)?;
    let mut written = 0;
    while written < count {
        written += rustix::io::pwrite(to, &chunk[written..count], *at + written as u64)?;
    }
    *at += count as u64;
    Ok(count)
}

/// Tries it with two files without names.
fn can_share(directory: &Path) -> io::Result<bool> {
    let scratch = || crate::image::archive::scratch(directory);
    let (one, two): (File, File) = (scratch()?, scratch()?);
    Ok(rustix::fs::ioctl_ficlone(&one, &two).is_ok())
}

/// The first of the cheaper ways that is possible; for a mode that was asked for, why it is not.
pub(super) fn resolve(tree: &Path, directory: &Path, wanted: Option<Mode>) -> Result<Mode, AdoptError> {
    let fail = |source| AdoptError::Read { path: tree.to_owned(), source };
    match wanted {
        None => {
            for mode in [Mode::Reflink, Mode::Hardlink] {
                if possible(tree, directory, mode).map_err(fail)? {
                    return Ok(mode);
                }
            }
            Ok(Mode::Copy)
        }
        Some(mode) if possible(tree, directory, mode).map_err(fail)? => Ok(mode),
        Some(Mode::Hardlink) => Err(AdoptError::OtherFileSystem(PathBuf::from(tree))),
        Some(_) => Err(AdoptError::NoReflink(PathBuf::from(tree))),
    }
}
