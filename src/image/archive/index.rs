//! What is where in a tar: one pass over its headers, so that blobs can be read in any order.
//!
//! Nothing is ever unpacked by these names; they are only looked up. Links, of which `docker save` made some, lead from
//! name to name within the archive.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tar_core::EntryType;
use tar_core::parse::{self, ParseEvent, ParsedEntry, Parser};

use super::error::ArchiveError;

const BLOCK: u64 = 512;

/// How much is read for a header that comes without extensions.
const READ: usize = 4096;

/// An archive of 1000 images of 100 layers stays below.
const MOST_ENTRIES: u64 = 200_000;

/// The names in memory, in bytes.
const MOST_NAMES: u64 = 32 << 20;

/// Long names and extended attributes of one entry, in bytes.
const MOST_METADATA: u32 = 1 << 20;

/// From link to link.
const MOST_LINKS: usize = 8;

/// The files of a tar by their names.
#[derive(Debug, Default)]
pub(in crate::image) struct TarIndex {
    members: HashMap<String, Member>,
    names: u64,
    entries: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File { offset: u64, size: u64 },
    Link { target: String },
}

impl TarIndex {
    /// Reads the headers of a whole archive.
    pub(super) fn read(file: &File) -> Result<Self, ArchiveError> {
        let length = file.metadata().map_err(ArchiveError::Read)?.len();
        let mut index = Self::default();
        let mut parser = Parser::new(parse::Limits {
            max_metadata_size: MOST_METADATA,
            max_path_len: Some(4096),
            ..parse::Limits::default()
        });
        parser.set_ignore_pax_errors(true);
        let mut buffer = Vec::new();
        let (mut at, mut need) = (0, BLOCK as usize);
        loop {
            let available = fill(file, at, need.max(READ), &mut buffer).map_err(ArchiveError::Read)?;
            match parser.parse(available).map_err(ArchiveError::Tar)? {
                ParseEvent::NeedData { min_bytes } => {
                    if available.len() < need {
                        return end(available).map(|()| index);
                    }
                    need = min_bytes.max(available.len() + 1);
                    if need > 2 * MOST_METADATA as usize {
                        let limit = u64::from(MOST_METADATA);
                        return Err(ArchiveError::Limit { what: "bytes of metadata of an entry", limit });
                    }
                }
                ParseEvent::GlobalExtensions { consumed, .. } => {
                    (at, need) = (at + consumed as u64, BLOCK as usize);
                    index.count(0)?;
                }
                ParseEvent::Entry { consumed, entry } => {
                    at = index.add(&entry, at + consumed as u64, length)?;
                    need = BLOCK as usize;
                }
                ParseEvent::SparseEntry { entry, .. } => {
                    let name = entry.path_lossy().into_owned();
                    let reason = "it is sparse: make the archive without --sparse";
                    return Err(ArchiveError::Entry { name, reason });
                }
                ParseEvent::End { .. } => return Ok(index),
            }
        }
    }

    /// Where the content of the file `name` is: offset and size. Links are followed.
    pub(super) fn find(&self, name: &str) -> Result<Option<(u64, u64)>, ArchiveError> {
        let refuse = |reason| ArchiveError::Entry { name: name.to_owned(), reason };
        let mut at = normalize(name).ok_or_else(|| refuse("a name must not lead out of the archive"))?;
        for _ in 0..MOST_LINKS {
            match self.members.get(&at) {
                None => return Ok(None),
                Some(Member::File { offset, size }) => return Ok(Some((*offset, *size))),
                Some(Member::Link { target }) => {
                    at =
                        normalize(target).ok_or_else(|| refuse("a link must not lead out of the archive"))?;
                }
            }
        }
        Err(refuse("it leads through too many links"))
    }

    /// Notes an entry whose content is at `offset`; returns where the next header is.
    fn add(&mut self, entry: &ParsedEntry<'_>, offset: u64, length: u64) -> Result<u64, ArchiveError> {
        let name = entry.path_lossy().into_owned();
        self.count(name.len() as u64)?;
        let up = name.split('/').any(|part| part == "..");
        let clean = normalize(&name).filter(|_| !up).ok_or_else(|| ArchiveError::Entry {
            name: name.clone(),
            reason: "a name must not contain \"..\"",
        })?;
        let target =
            || String::from_utf8_lossy(entry.link_target.as_deref().unwrap_or_default()).into_owned();
        let is_file = matches!(entry.entry_type, EntryType::Regular | EntryType::Continuous);
        let size = if is_file { entry.size } else { 0 };
        let end = offset.checked_add(size).filter(|&end| end <= length);
        let end = end.ok_or_else(|| ArchiveError::Truncated(format!("{name:?}")))?;
        let member = match entry.entry_type {
            _ if is_file => Some(Member::File { offset, size }),
            EntryType::Link => Some(Member::Link { target: target() }),
            EntryType::Symlink => Some(Member::Link { target: beside(&clean, &target()) }),
            _ => None,
        };
        if let Some(member) = member {
            self.insert(clean, member)?;
        }
        Ok(end.next_multiple_of(BLOCK))
    }

    fn insert(&mut self, name: String, member: Member) -> Result<(), ArchiveError> {
        match self.members.entry(name) {
            Slot::Vacant(slot) => {
                slot.insert(member);
                Ok(())
            }
            // Whoever reads a blob verifies it, so it does not matter which of two is read.
            Slot::Occupied(slot) if slot.key().starts_with("blobs/") => Ok(()),
            Slot::Occupied(slot) => {
                let reason = "it is there twice, and two readers could take it for two images";
                Err(ArchiveError::Entry { name: slot.key().clone(), reason })
            }
        }
    }

    fn count(&mut self, name: u64) -> Result<(), ArchiveError> {
        self.entries += 1;
        self.names += name;
        if self.entries > MOST_ENTRIES {
            return Err(ArchiveError::Limit { what: "entries", limit: MOST_ENTRIES });
        }
        if self.names > MOST_NAMES {
            return Err(ArchiveError::Limit { what: "bytes of names", limit: MOST_NAMES });
        }
        Ok(())
    }
}

/// A relative name without empty components and `.`; `None` where `..` leads above the root.
fn normalize(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A symbolic link's target as a name within the archive.
fn beside(link: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let parent = link.rsplit_once('/').map_or("", |(parent, _)| parent);
    format!("{parent}/{target}")
}

/// Reads `count` bytes at `offset`, or fewer at the end of the file.
fn fill<'a>(file: &File, offset: u64, count: usize, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    buffer.resize(count, 0);
    let mut filled = 0;
    while filled < count {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&buffer[..filled])
}

/// Some tools write one block of zeros at the end, or none.
fn end(rest: &[u8]) -> Result<(), ArchiveError> {
    match rest.iter().all(|&b| b == 0) {
        true => Ok(()),
        false => Err(ArchiveError::Truncated("a header".to_owned())),
    }
}
