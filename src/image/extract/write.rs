//! Makes the file, directory, link or device that an entry describes.
//!
//! The order for each: content, owner, mode (a change of owner clears set-id bits), extended attributes (a change of owner
//! or content clears capabilities), times. A later entry of one path replaces an earlier one; a directory stays and takes
//! the new metadata. Whiteouts speak of the layers below only, so they never remove what their own layer brings, in
//! whichever order the two come.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;
use tar_core::SparseEntry;

use super::entry::{Entry, EntryPath, Kind};
use super::error::ExtractError;
use super::fingerprint::Fingerprint;
use super::stream::Stream;
use super::tree::{Dir, Missing, Tree};
use super::{Extracted, Limits, inventory};
use crate::sys::fs::{self, Timespec};

/// What file systems give out at a time; sizes are rounded up to it.
const BLOCK: u64 = 4096;

/// Writes a layer's entries under its staging directory.
pub(super) struct Writer<'a> {
    staging: &'a Path,
    limits: &'a Limits,
    tree: Tree<'a>,
    /// Directories change their times as files are made in them, so these are set at the end.
    times: Vec<(Vec<u8>, Timespec)>,
    bytes: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(tree: Tree<'a>, staging: &'a Path, limits: &'a Limits) -> Self {
        Self { staging, limits, tree, times: Vec::new(), bytes: 0 }
    }

    /// Makes one entry; its content is the next of `stream`, and is taken whole.
    pub(super) fn write(&mut self, entry: &Entry, stream: &mut Stream) -> Result<(), ExtractError> {
        match &entry.kind {
            Kind::File => return self.file(entry, None, stream),
            Kind::SparseFile { map, length } => return self.file(entry, Some((map, *length)), stream),
            Kind::Directory => self.directory(entry)?,
            Kind::Symlink { target } => {
                self.node(entry, |dir, name| fs::make_symlink(dir, name, target))?;
            }
            Kind::HardLink { target } => self.hard_link(entry, target)?,
            Kind::Node { kind, major, minor } => {
                self.node(entry, |dir, name| fs::make_node(dir, name, *kind, *major, *minor))?;
            }
            Kind::Whiteout { name } => self.whiteout(entry, name)?,
            Kind::Opaque => {
                let dir = self.tree.directory(entry.path.parent(), Missing::Make)?;
                fs::set_opaque(dir.fd()).map_err(|e| self.error("make opaque", entry, e))?;
            }
            Kind::Ignored => {}
        }
        stream.skip(entry.content)
    }

    /// Sets the times of directories and returns what was made.
    pub(super) fn finish(self) -> Result<Extracted, ExtractError> {
        for (path, time) in &self.times {
            let set = match self.tree.reopen(path) {
                Ok(Some(dir)) => fs::set_time(dir.as_fd(), *time),
                Ok(None) => Ok(()),
                Err(e) => Err(e),
            };
            set.map_err(|e| ExtractError::entry("set the time of", path, self.staging, e))?;
        }
        let (implied_directories, inodes) = self.tree.finish()?;
        Ok(Extracted { bytes: self.bytes, inodes, implied_directories })
    }

    fn file(
        &mut self,
        entry: &Entry,
        sparse: Option<(&[SparseEntry], u64)>,
        stream: &mut Stream,
    ) -> Result<(), ExtractError> {
        self.count_bytes(entry.content)?;
        let parent = self.tree.directory(entry.path.parent(), Missing::Make)?;
        let fd = self.make(entry, &parent, fs::create_file)?;
        let file = File::from(fd);
        let mut print = Fingerprint::default();
        let written = match sparse {
            None => self.content(&file, entry, stream, &mut print)?,
            Some((map, length)) => self.sparse_content(&file, map, length, entry, stream)?,
        };
        written.map_err(|e| self.io_error("write", entry, e))?;
        fs::set_owner_and_mode(file.as_fd(), entry.uid, entry.gid, entry.mode)
            .map_err(|e| self.error("set owner and mode of", entry, e))?;
        let attributes = self.xattrs(entry, |name, value| fs::set_xattr(file.as_fd(), name, value))?;
        self.tree.inventory.file(&parent.join(entry.path.name()), entry, attributes, print);
        fs::set_time(file.as_fd(), entry.time).map_err(|e| self.error("set the time of", entry, e))
    }

    /// The outer error is the stream's, the inner one the file's.
    fn content(
        &self,
        mut file: &File,
        entry: &Entry,
        stream: &mut Stream,
        print: &mut Fingerprint,
    ) -> Result<io::Result<()>, ExtractError> {
        let mut left = entry.content;
        while left > 0 {
            let chunk = stream.next(left);
            if chunk.is_empty() {
                return Err(ExtractError::Truncated("a file"));
            }
            print.update(&chunk);
            if let Err(e) = file.write_all(&chunk) {
                return Ok(Err(e));
            }
            left -= chunk.len() as u64;
        }
        Ok(Ok(()))
    }

    fn sparse_content(
        &self,
        file: &File,
        map: &[SparseEntry],
        length: u64,
        entry: &Entry,
        stream: &mut Stream,
    ) -> Result<io::Result<()>, ExtractError> {
        if length > self.limits.max_unpacked_bytes {
            return Err(self.limits.too_large());
        }
        for piece in map {
            let (mut offset, mut left) = (piece.offset, piece.length);
            while left > 0 {
                let chunk = stream.next(left);
                if chunk.is_empty() {
                    return Err(ExtractError::Truncated("a file"));
                }
                if let Err(e) = file.write_all_at(&chunk, offset) {
                    return Ok(Err(e));
                }
                offset += chunk.len() as u64;
                left -= chunk.len() as u64;
            }
        }
        debug_assert_eq!(map.iter().map(|piece| piece.length).sum::<u64>(), entry.content);
        Ok(file.set_len(length))
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let parent = self.tree.directory(entry.path.parent(), Missing::Make)?;
        let name = entry.path.name();
        let path = parent.join(name);
        let opaque = !name.is_empty() && self.make_directory(entry, &parent)?;
        let fd = fs::open_directory_beneath(parent.fd(), name).map_err(|e| self.error("open", entry, e))?;
        fs::set_owner_and_mode(fd.as_fd(), entry.uid, entry.gid, entry.mode)
            .map_err(|e| self.error("set owner and mode of", entry, e))?;
        let attributes = self.xattrs(entry, |name, value| fs::set_xattr(fd.as_fd(), name, value))?;
        self.tree.inventory.entry(&path, entry, attributes);
        if opaque {
            fs::set_opaque(fd.as_fd()).map_err(|e| self.error("make opaque", entry, e))?;
        }
        self.tree.not_implied(&path);
        self.tree.remember(&path)?;
        self.times.push((path, entry.time));
        Ok(())
    }

    /// Makes the directory unless it is there; `true` when it takes the place of a whiteout.
    fn make_directory(&mut self, entry: &Entry, parent: &Dir) -> Result<bool, ExtractError> {
        let name = entry.path.name();
        match fs::make_directory(parent.fd(), name, 0o700) {
            Ok(()) => {
                self.count_bytes(BLOCK)?;
                self.tree.count_inode()?;
                return Ok(false);
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(self.error("make", entry, e)),
        }
        let there = fs::stat_at(parent.fd(), name).map_err(|e| self.error("look up", entry, e))?;
        if fs::file_type(&there) == FileType::Directory {
            return Ok(false);
        }
        self.tree.discard(parent, name)?;
        fs::make_directory(parent.fd(), name, 0o700).map_err(|e| self.error("make", entry, e))?;
        Ok(fs::is_whiteout(&there))
    }

    fn hard_link(&mut self, entry: &Entry, target: &EntryPath) -> Result<(), ExtractError> {
        let missing = |_| {
            let target = String::from_utf8_lossy(target.as_bytes());
            let reason = format!("it is a hard link to {target:?}, which is not in this layer");
            ExtractError::refused(entry.path.as_bytes(), reason)
        };
        if entry.path == *target {
            return Ok(());
        }
        let source = match self.tree.directory(target.parent(), Missing::Fail) {
            Err(ExtractError::Entry { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(missing(Errno::NOENT));
            }
            source => source?,
        };
        let stat = fs::stat_at(source.fd(), target.name()).map_err(missing)?;
        if fs::file_type(&stat) == FileType::Directory || fs::is_whiteout(&stat) {
            return Err(missing(Errno::ISDIR));
        }
        let parent = self.tree.directory(entry.path.parent(), Missing::Make)?;
        let there = fs::stat_at(parent.fd(), entry.path.name());
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.make(entry, &parent, |dir, name| fs::make_hard_link(source.fd(), target.name(), dir, name))?;
        self.tree.inventory.hard_link(&parent.join(entry.path.name()), &source.join(target.name()));
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, name: &[u8]) -> Result<(), ExtractError> {
        let parent = self.tree.directory(entry.path.parent(), Missing::Make)?;
        self.tree.count_inode()?;
        match fs::make_whiteout(parent.fd(), name) {
            Err(Errno::EXIST) => {}
            Ok(()) => {
                self.tree.inventory.listed(&parent.join(name), &inventory::Listed::Whiteout);
                return Ok(());
            }
            Err(e) => return Err(self.error("make the whiteout", entry, e)),
        }
        // The layer has something of that name, which stays; of a directory, nothing below may show through.
        match fs::open_directory_beneath(parent.fd(), name) {
            Ok(fd) => fs::set_opaque(fd.as_fd()).map_err(|e| self.error("make opaque", entry, e)),
            Err(_) => Ok(()),
        }
    }

    /// A link or device: made, then given its metadata by name.
    fn node(
        &mut self,
        entry: &Entry,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), ExtractError> {
        let parent = self.tree.directory(entry.path.parent(), Missing::Make)?;
        let (dir, name) = (parent.fd(), entry.path.name());
        self.make(entry, &parent, make)?;
        fs::set_owner_at(dir, name, entry.uid, entry.gid)
            .map_err(|e| self.error("set the owner of", entry, e))?;
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            fs::set_mode_at(dir, name, entry.mode).map_err(|e| self.error("set the mode of", entry, e))?;
        }
        let attributes =
            self.xattrs(entry, |attribute, value| fs::set_xattr_at(dir, name, attribute, value))?;
        self.tree.inventory.entry(&parent.join(name), entry, attributes);
        fs::set_time_at(dir, name, entry.time).map_err(|e| self.error("set the time of", entry, e))
    }

    /// Makes a name, after removing what an earlier entry put there.
    fn make<T>(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, ExtractError> {
        self.tree.count_inode()?;
        let name = entry.path.name();
        let made = match make(parent.fd(), name) {
            Err(Errno::EXIST) => {
                self.tree.discard(parent, name)?;
                make(parent.fd(), name)
            }
            result => result,
        };
        made.map_err(|e| self.error("make", entry, e))
    }

    /// Returns how many count for the inventory.
    fn xattrs(
        &self,
        entry: &Entry,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) -> Result<u64, ExtractError> {
        let mut counted = BTreeSet::new();
        for (name, value) in &entry.xattrs {
            match set(name, value) {
                Ok(()) if inventory::is_counted(name) => drop(counted.insert(name)),
                Ok(()) => {}
                // Some file systems keep no user attributes, and Linux has none on links and devices. What a program's
                // rights depend on must not get lost, though.
                Err(e @ (Errno::NOTSUP | Errno::PERM)) if !name.starts_with(b"security.") => {
                    let (path, name) = (entry.path.as_bytes(), String::from_utf8_lossy(name));
                    tracing::debug!(path = %String::from_utf8_lossy(path), %name, error = %e, "attribute is not kept");
                }
                Err(e) => return Err(self.error("set an extended attribute of", entry, e)),
            }
        }
        Ok(counted.len() as u64)
    }

    fn count_bytes(&mut self, content: u64) -> Result<(), ExtractError> {
        let rounded = content.checked_next_multiple_of(BLOCK).ok_or_else(|| self.limits.too_large())?;
        self.bytes = self.bytes.saturating_add(rounded);
        if self.bytes > self.limits.max_unpacked_bytes { Err(self.limits.too_large()) } else { Ok(()) }
    }

    fn error(&self, operation: &'static str, entry: &Entry, source: Errno) -> ExtractError {
        ExtractError::entry(operation, entry.path.as_bytes(), self.staging, source)
    }

    fn io_error(&self, operation: &'static str, entry: &Entry, source: io::Error) -> ExtractError {
        match source.raw_os_error() {
            Some(code) => self.error(operation, entry, Errno::from_raw_os_error(code)),
            None => {
                let path = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
                ExtractError::Entry { operation, path, source }
            }
        }
    }
}
