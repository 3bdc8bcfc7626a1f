//! One entry of a layer's tar, checked and in our own terms.
//!
//! A path is relative, without empty components, `.` or `..`; the empty path is the layer's root. What OCI writes as
//! `.wh.` names is told apart here, so that no one else has to know them (OCI image-spec, "Whiteouts").

use rustix::fs::FileType;
use tar_core::parse::ParsedEntry;
use tar_core::{EntryType, PaxExtensions, SparseEntry};

use super::error::ExtractError;
use super::inventory::Metadata;
use crate::sys::fs::Timespec;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// Attributes by which an overlay steers itself: a layer that brings its own could uncover or redirect other files.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// A clean path below the layer's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    pub(super) fn parse(text: &[u8]) -> Result<Self, ExtractError> {
        let mut path = Vec::with_capacity(text.len());
        for component in text.split(|&b| b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(ExtractError::refused(text, "a path must not contain \"..\"")),
                _ if component.contains(&0) => {
                    return Err(ExtractError::refused(text, "a path must not contain NUL"));
                }
                _ => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(component);
                }
            }
        }
        Ok(Self(path))
    }

    /// The whole path.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of the directory that it lies in.
    pub(super) fn parent(&self) -> &[u8] {
        self.0.iter().rposition(|&b| b == b'/').map_or(b"", |slash| &self.0[..slash])
    }

    /// The last component; empty for the root.
    pub(super) fn name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    File,
    SparseFile {
        map: Vec<SparseEntry>,
        length: u64,
    },
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: EntryPath,
    },
    Node {
        kind: FileType,
        major: u32,
        minor: u32,
    },
    /// Hides `name` of the layers below.
    Whiteout {
        name: Vec<u8>,
    },
    /// Hides all that the layers below have in this entry's directory.
    Opaque,
    /// Says nothing about the file system.
    Ignored,
}

/// An entry, owned.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: EntryPath,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: Timespec,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The bytes that follow in the stream, without padding.
    pub(super) content: u64,
}

impl Entry {
    /// What the inventory keeps of it; `attributes` is how many were set.
    pub(super) fn metadata(&self, attributes: u64) -> Metadata {
        Metadata { mode: self.mode, uid: self.uid, gid: self.gid, attributes }
    }

    /// Checks what the parser read. `sparse` is the map and length of a sparse file.
    pub(super) fn new(
        parsed: &ParsedEntry<'_>,
        sparse: Option<(Vec<SparseEntry>, u64)>,
    ) -> Result<Self, ExtractError> {
        let path = EntryPath::parse(&parsed.path)?;
        let refuse = |reason: &str| ExtractError::refused(&parsed.path, reason);
        let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
        let mut entry = Self {
            kind: Kind::Ignored,
            mode: parsed.mode & 0o7777,
            uid: id(parsed.uid).ok_or_else(|| refuse("its owner is not a valid user ID"))?,
            gid: id(parsed.gid).ok_or_else(|| refuse("its group is not a valid group ID"))?,
            // The header's two's complement of a time before 1970 comes as a large number.
            time: Timespec { tv_sec: parsed.mtime.cast_signed(), tv_nsec: 0 },
            xattrs: Vec::new(),
            content: parsed.size,
            path,
        };
        entry.kind = entry.kind_of(parsed, sparse)?;
        if !matches!(entry.kind, Kind::File | Kind::SparseFile { .. }) && !is_file_type(parsed) {
            // As for everyone else, a size in the header of a link, directory or device means nothing.
            entry.content = 0;
        }
        entry.read_pax(parsed)?;
        Ok(entry)
    }

    fn kind_of(
        &self,
        parsed: &ParsedEntry<'_>,
        sparse: Option<(Vec<SparseEntry>, u64)>,
    ) -> Result<Kind, ExtractError> {
        let refuse = |reason: &str| ExtractError::refused(&parsed.path, reason);
        let name = self.path.name();
        if self.path.as_bytes().split(|&b| b == b'/').any(|part| part.starts_with(WHITEOUT_META)) {
            return Ok(if name == WHITEOUT_OPAQUE { Kind::Opaque } else { Kind::Ignored });
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return match hidden {
                b"" | b"." | b".." => Err(refuse("a whiteout must name a file")),
                hidden => Ok(Kind::Whiteout { name: hidden.to_vec() }),
            };
        }
        let target = parsed.link_target.as_deref().unwrap_or_default();
        let kind = match parsed.entry_type {
            _ if sparse.is_some() => {
                let (map, length) = sparse.unwrap_or_default();
                check_sparse(&map, length, parsed.size).map_err(refuse)?;
                Kind::SparseFile { map, length }
            }
            // A tar from before POSIX marks a directory by its trailing slash alone.
            EntryType::Regular if parsed.path.ends_with(b"/") && parsed.size == 0 => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink if target.is_empty() || target.contains(&0) => {
                return Err(refuse("a symbolic link must have a target without NUL"));
            }
            EntryType::Symlink => Kind::Symlink { target: target.to_vec() },
            EntryType::Link => Kind::HardLink { target: EntryPath::parse(target)? },
            EntryType::Fifo => Kind::Node { kind: FileType::Fifo, major: 0, minor: 0 },
            EntryType::Char => self.device(parsed, FileType::CharacterDevice)?,
            EntryType::Block => self.device(parsed, FileType::BlockDevice)?,
            other => return Err(refuse(&format!("tar entries of type {other:?} are not supported"))),
        };
        if name.is_empty() && kind != Kind::Directory {
            return Err(refuse("the layer's root must be a directory"));
        }
        Ok(kind)
    }

    fn device(&self, parsed: &ParsedEntry<'_>, kind: FileType) -> Result<Kind, ExtractError> {
        let (major, minor) = (parsed.dev_major.unwrap_or(0), parsed.dev_minor.unwrap_or(0));
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            let reason = "a character device 0:0 would hide files of other layers";
            return Err(ExtractError::refused(self.path.as_bytes(), reason));
        }
        Ok(Kind::Node { kind, major, minor })
    }

    /// Takes extended attributes and the exact time, and insists on numbers that the parser lets pass.
    fn read_pax(&mut self, parsed: &ParsedEntry<'_>) -> Result<(), ExtractError> {
        for (name, value) in &parsed.xattrs {
            if OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix)) {
                tracing::debug!(path = %parsed.path_lossy(), "layer brings an overlay attribute: dropped");
                continue;
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
        }
        for record in PaxExtensions::new(parsed.pax.unwrap_or_default()) {
            let record = record.map_err(|e| ExtractError::Archive(e.into()))?;
            let value = record.value().unwrap_or_default();
            match record.key_bytes() {
                b"mtime" => match parse_time(value) {
                    Some(time) => self.time = time,
                    None => {
                        tracing::debug!(path = %parsed.path_lossy(), value, "entry's time is not a number")
                    }
                },
                b"size" | b"uid" | b"gid" if value.parse::<u64>().is_err() => {
                    return Err(ExtractError::refused(&parsed.path, "its size or owner is not a number"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether content follows an entry of this type, even where it stands for a whiteout.
fn is_file_type(parsed: &ParsedEntry<'_>) -> bool {
    matches!(parsed.entry_type, EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse)
}

/// A sparse file's pieces must lie in order, within its length, and be all of its content.
fn check_sparse(map: &[SparseEntry], length: u64, content: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0, 0u64);
    for piece in map {
        let next = piece.offset.checked_add(piece.length).filter(|&next| next <= length);
        end = match next {
            Some(next) if piece.offset >= end => next,
            _ => return Err("its sparse map is out of order or beyond its length"),
        };
        sum += piece.length;
    }
    if sum == content { Ok(()) } else { Err("its sparse map does not cover its content") }
}

/// A PAX time: decimal seconds, maybe negative, with any number of decimals.
fn parse_time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits = fraction.get(..fraction.len().min(9))?;
    let mut nanos: i64 = if digits.is_empty() { 0 } else { digits.parse::<u32>().ok()?.into() };
    for _ in digits.len()..9 {
        nanos *= 10;
    }
    if whole.starts_with('-') && nanos > 0 {
        return Some(Timespec { tv_sec: seconds.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanos });
    }
    Some(Timespec { tv_sec: seconds, tv_nsec: nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_relative_and_clean() {
        for (text, clean) in
            [("./a/b", "a/b"), ("/a", "a"), ("a//b/./", "a/b"), ("./", ""), ("/", ""), ("...", "...")]
        {
            assert_eq!(EntryPath::parse(text.as_bytes()).unwrap().as_bytes(), clean.as_bytes(), "{text}");
        }
        for text in ["..", "a/../b", "/..", "a/..", "a\0b"] {
            assert!(EntryPath::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let path = EntryPath::parse(b"a/b/c").unwrap();
        assert_eq!((path.parent(), path.name()), (b"a/b".as_slice(), b"c".as_slice()));
        let root = EntryPath::parse(b"./").unwrap();
        assert_eq!((root.parent(), root.name()), (b"".as_slice(), b"".as_slice()));
    }

    #[test]
    fn times_have_nanoseconds_and_may_be_before_1970() {
        let time = |text| parse_time(text).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time("1.5"), Some((1, 500_000_000)));
        assert_eq!(time("1.0000000019"), Some((1, 1)));
        assert_eq!(time("-1"), Some((-1, 0)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.25"), Some((-1, 750_000_000)));
        assert_eq!(time("x"), None);
        assert_eq!(time("1.x"), None);
        assert_eq!(time("1.\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}"), None);
    }

    #[test]
    fn sparse_maps_are_checked() {
        let piece = |offset, length| SparseEntry { offset, length };
        assert!(check_sparse(&[piece(0, 5), piece(10, 5)], 20, 10).is_ok());
        assert!(check_sparse(&[piece(10, 5), piece(0, 5)], 20, 10).is_err());
        assert!(check_sparse(&[piece(u64::MAX, 5)], 20, 5).is_err());
        assert!(check_sparse(&[piece(0, 5)], 20, 6).is_err());
    }
}
