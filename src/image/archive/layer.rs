//! A layer's archive, made again of its files: whiteouts and opaque marks in the form of OCI, hard links, attributes and
//! devices as they are, entries in the order of their names. The same files give the same bytes.
//!
//! These are not the bytes that the layer was pulled as: nobody kept the order of entries and the details of headers.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, FileType};
use tar_core::EntryType;
use tar_core::builder::{EntryBuilder, ExtensionMode};

use crate::sys::fs::{self, Stat};

const BLOCK: u64 = 512;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What belongs to this machine and not to the image.
const OWN_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"security.selinux"];

/// Writes the archive of the layer at `files`.
pub(super) fn write_layer(files: &Path, to: &mut impl Write) -> io::Result<()> {
    let root = fs::open_directory(files)?;
    let mut writer = Writer { root, linked: HashMap::new(), to };
    // Directories still to be written, the next one last.
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let below = writer.directory(&path)?;
        pending.extend(below.into_iter().rev());
    }
    finish(to)
}

/// Ends an archive.
pub(super) fn finish(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK as usize])
}

/// Writes a regular file with these bytes.
pub(super) fn write_file(name: &str, content: &[u8], to: &mut impl Write) -> io::Result<()> {
    write_header(name, content.len() as u64, to)?;
    to.write_all(content)?;
    pad(content.len() as u64, to)
}

/// Writes the header of a regular file, whose content and padding have to follow.
pub(super) fn write_header(name: &str, size: u64, to: &mut impl Write) -> io::Result<()> {
    let mut entry = builder(name.as_bytes(), EntryType::Regular);
    entry.mode(0o644).map_err(io::Error::other)?.size(size).map_err(io::Error::other)?;
    to.write_all(&entry.finish_bytes())
}

/// Fills the last block of a content.
pub(super) fn pad(size: u64, to: &mut impl Write) -> io::Result<()> {
    let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
    to.write_all(&[0; BLOCK as usize][..padding])
}

struct Writer<'a, W> {
    root: OwnedFd,
    /// The first name of each file that has several, by inode.
    linked: HashMap<u64, Vec<u8>>,
    to: &'a mut W,
}

impl<W: Write> Writer<'_, W> {
    /// Writes a directory and all in it but the directories, which are returned in order.
    fn directory(&mut self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let directory = fs::open_directory_beneath(self.root.as_fd(), path)?;
        let mut stat = rustix::fs::fstat(&directory)?;
        if path.is_empty() {
            // Hardly any layer lists its root, whose time is then that of its making here.
            (stat.st_mtime, stat.st_mtime_nsec) = (0, 0);
        }
        let mut name = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        name.push(b'/');
        let mut entry = described(&name, EntryType::Directory, &stat)?;
        attributes(&mut entry, directory.as_fd())?;
        self.to.write_all(&entry.finish_bytes())?;
        if fs::is_opaque(directory.as_fd())? {
            self.to.write_all(&builder(&fs::join(path, OPAQUE), EntryType::Regular).finish_bytes())?;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        let mut below = Vec::new();
        for name in names {
            let stat = fs::stat_at(directory.as_fd(), &name)?;
            match fs::file_type(&stat) {
                FileType::Directory => below.push(fs::join(path, &name)),
                _ => self.entry(directory.as_fd(), path, &name, &stat)?,
            }
        }
        Ok(below)
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        parent: &[u8],
        name: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        let path = fs::join(parent, name);
        let mut entry = match fs::file_type(stat) {
            _ if fs::is_whiteout(stat) => {
                builder(&fs::join(parent, &[WHITEOUT, name].concat()), EntryType::Regular)
            }
            FileType::RegularFile => return self.file(directory, name, path, stat),
            FileType::Symlink => {
                let mut entry = described(&path, EntryType::Symlink, stat)?;
                entry.link_name(fs::read_link(directory, name)?);
                entry
            }
            FileType::Fifo => described(&path, EntryType::Fifo, stat)?,
            FileType::CharacterDevice => device(&path, EntryType::Char, stat)?,
            FileType::BlockDevice => device(&path, EntryType::Block, stat)?,
            FileType::Socket | FileType::Directory | FileType::Unknown => return Ok(()),
        };
        self.to.write_all(&entry.finish_bytes())
    }

    fn file(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: Vec<u8>, stat: &Stat) -> io::Result<()> {
        if let Some(first) = self.linked.get(&stat.st_ino) {
            let mut entry = described(&path, EntryType::Link, stat)?;
            entry.link_name(first);
            return self.to.write_all(&entry.finish_bytes());
        }
        let file = File::from(fs::open_file_beneath(directory, name)?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut entry = described(&path, EntryType::Regular, stat)?;
        entry.size(size).map_err(io::Error::other)?;
        attributes(&mut entry, file.as_fd())?;
        self.to.write_all(&entry.finish_bytes())?;
        if io::copy(&mut file.take(size), self.to)? != size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file of the layer has become shorter",
            ));
        }
        pad(size, self.to)?;
        if stat.st_nlink > 1 {
            self.linked.insert(stat.st_ino, path);
        }
        Ok(())
    }
}

fn builder(path: &[u8], kind: EntryType) -> EntryBuilder {
    let mut entry = EntryBuilder::new_ustar();
    entry.set_extension_mode(ExtensionMode::Pax);
    entry.path(path).entry_type(kind);
    // They fit in any header.
    let _ = entry.mode(0).and_then(|entry| entry.uid(0)).and_then(|entry| entry.gid(0));
    let _ = entry.size(0).and_then(|entry| entry.mtime(0));
    entry
}

/// An entry with mode, owner and time.
fn described(path: &[u8], kind: EntryType, stat: &Stat) -> io::Result<EntryBuilder> {
    let mut entry = builder(path, kind);
    entry.mode(stat.st_mode & 0o7777).map_err(io::Error::other)?;
    entry
        .uid(stat.st_uid.into())
        .map_err(io::Error::other)?
        .gid(stat.st_gid.into())
        .map_err(io::Error::other)?;
    let (seconds, nanos) = (stat.st_mtime, stat.st_mtime_nsec);
    match u64::try_from(seconds) {
        Ok(seconds) => {
            entry.mtime(seconds).map_err(io::Error::other)?;
            if nanos > 0 {
                entry.add_pax("mtime", format!("{seconds}.{nanos:09}"));
            }
        }
        // Before 1970 the fraction counts from the other side.
        Err(_) if nanos > 0 => {
            entry.add_pax("mtime", format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos));
        }
        Err(_) => {
            entry.add_pax("mtime", seconds.to_string());
        }
    }
    Ok(entry)
}

fn device(path: &[u8], kind: EntryType, stat: &Stat) -> io::Result<EntryBuilder> {
    let mut entry = described(path, kind, stat)?;
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    entry.device(major, minor).map_err(io::Error::other)?;
    Ok(entry)
}

/// Adds extended attributes, in the order of their names.
fn attributes(entry: &mut EntryBuilder, of: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = fs::xattr_names(of)?;
    names.sort();
    for name in names {
        let is_own = OWN_XATTRS.iter().any(|own| name.starts_with(own));
        // The key of a record is text.
        if let (false, Ok(key), Some(value)) = (is_own, std::str::from_utf8(&name), fs::xattr(of, &name)?) {
            entry.add_pax(&format!("SCHILY.xattr.{key}"), value);
        }
    }
    Ok(())
}
