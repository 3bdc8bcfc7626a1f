//! Whether a layer's files are still what was unpacked, by the inventory that was written then.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, FileType, Stat, major, minor};
use rustix::io::Errno;

use super::layer;
use crate::image::extract::{FILES, Listed, Metadata, fingerprint, is_counted, read_inventory};
use crate::sys::fs;

/// More findings than these in one layer tell nothing new.
const MOST_FINDINGS: usize = 1000;

/// Something that is wrong with one name of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The path in the layer; empty for its root or for the layer as a whole.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("is missing")]
    Missing,
    #[error("does not belong to the layer")]
    Extra,
    #[error("is {found} instead of {expected}")]
    Kind { expected: &'static str, found: &'static str },
    #[error("has mode {found:o} instead of {expected:o}")]
    Mode { expected: u32, found: u32 },
    #[error("belongs to {}:{} instead of {}:{}", found.0, found.1, expected.0, expected.1)]
    Owner { expected: (u32, u32), found: (u32, u32) },
    #[error("has {found} bytes instead of {expected}")]
    Size { expected: u64, found: u64 },
    #[error("has other content than was unpacked")]
    Content,
    #[error("leads to {found:?} instead of {expected:?}")]
    Target { expected: String, found: String },
    #[error("is device {}:{} instead of {}:{}", found.0, found.1, expected.0, expected.1)]
    Device { expected: (u32, u32), found: (u32, u32) },
    #[error("has {found} extended attributes instead of {expected}")]
    Attributes { expected: u64, found: u64 },
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("has no usable inventory: {0}")]
    Inventory(String),
    #[error("has no usable record: {0}")]
    Record(String),
}

/// Compares the layer in `directory` with its inventory. Blocks, and reads all of its files.
pub(super) fn check_layer(directory: &Path) -> Vec<Finding> {
    let whole = |problem| vec![Finding { path: String::new(), problem }];
    if !directory.exists() {
        return whole(Problem::Missing);
    }
    if let Err(error) =
        layer::read_in(directory).and_then(|info| info.ok_or_else(|| "it is missing".to_owned()))
    {
        return whole(Problem::Record(error));
    }
    let expected = match read_inventory(directory) {
        Ok(expected) => expected,
        Err(error) => return whole(Problem::Inventory(error.to_string())),
    };
    match fs::open_directory(&directory.join(FILES)) {
        Ok(root) => Walk { root, expected, findings: Vec::new(), left_out: Vec::new() }.run(),
        Err(error) => whole(Problem::Unreadable(error.to_string())),
    }
}

struct Walk {
    root: OwnedFd,
    /// What has not been found yet.
    expected: BTreeMap<Vec<u8>, Listed>,
    findings: Vec<Finding>,
    /// What cannot be looked into; nothing is said of the names below.
    left_out: Vec<Vec<u8>>,
}

impl Walk {
    fn run(mut self) -> Vec<Finding> {
        let mut pending = Vec::new();
        if let Some(listed) = self.expected.remove(&Vec::new()) {
            self.compare(b"", b".", &listed, &mut pending);
        }
        while let Some(path) = pending.pop() {
            if self.findings.len() >= MOST_FINDINGS {
                return self.findings;
            }
            if let Err(error) = self.directory(&path, &mut pending) {
                self.note(&path, Problem::Unreadable(error.to_string()));
                self.left_out.push(path);
            }
        }
        for path in std::mem::take(&mut self.expected).into_keys() {
            let is_below = |above: &Vec<u8>| path.starts_with(above) && path.get(above.len()) == Some(&b'/');
            if self.findings.len() < MOST_FINDINGS && !self.left_out.iter().any(is_below) {
                self.note(&path, Problem::Missing);
                self.left_out.push(path);
            }
        }
        self.findings
    }

    fn directory(&mut self, path: &[u8], pending: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
        let dir = fs::open_directory_beneath(self.root.as_fd(), path)?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = fs::join(path, name);
            match self.expected.remove(&path) {
                Some(listed) => self.compare_in(dir.as_fd(), &path, name, &listed, pending),
                None => self.note(&path, Problem::Extra),
            }
        }
        Ok(())
    }

    fn compare(&mut self, path: &[u8], name: &[u8], listed: &Listed, pending: &mut Vec<Vec<u8>>) {
        match self.root.try_clone() {
            Ok(root) => self.compare_in(root.as_fd(), path, name, listed, pending),
            Err(error) => self.note(path, Problem::Unreadable(error.to_string())),
        }
    }

    fn compare_in(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        listed: &Listed,
        pending: &mut Vec<Vec<u8>>,
    ) {
        let problems = match fs::stat_at(dir, name) {
            Ok(stat) => {
                let (expected, found) = (kind_of(listed), kind(&stat));
                if expected == found {
                    if expected == DIRECTORY {
                        pending.push(path.to_vec());
                    }
                    compare(dir, name, &stat, listed).unwrap_or_else(|e| vec![unreadable(e)])
                } else {
                    self.left_out.push(path.to_vec());
                    vec![Problem::Kind { expected, found }]
                }
            }
            Err(error) => vec![unreadable(error)],
        };
        for problem in problems {
            self.note(path, problem);
        }
    }

    fn note(&mut self, path: &[u8], problem: Problem) {
        self.findings.push(Finding { path: String::from_utf8_lossy(path).into_owned(), problem });
    }
}

const DIRECTORY: &str = "a directory";
const WHITEOUT: &str = "a whiteout";

fn compare(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat, listed: &Listed) -> Result<Vec<Problem>, Errno> {
    let mut problems = Vec::new();
    match listed {
        Listed::File { metadata, size, print } => {
            let file = fs::open_file_beneath(dir, name)?;
            compare_metadata(stat, metadata, Some(file.as_fd()), &mut problems)?;
            let found = stat.st_size.unsigned_abs();
            if found != *size {
                problems.push(Problem::Size { expected: *size, found });
            } else if let Some(print) = print {
                match fingerprint(File::from(file)) {
                    Ok((_, found)) if found == *print => {}
                    Ok(_) => problems.push(Problem::Content),
                    Err(error) => problems.push(Problem::Unreadable(error.to_string())),
                }
            }
        }
        Listed::Directory(metadata) => {
            let directory = fs::open_directory_beneath(dir, name)?;
            compare_metadata(stat, metadata, Some(directory.as_fd()), &mut problems)?;
        }
        Listed::Link { uid, gid, target } => {
            compare_owner(stat, (*uid, *gid), &mut problems);
            let found = fs::read_link(dir, name)?;
            if found != *target {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                problems.push(Problem::Target { expected: text(target), found: text(&found) });
            }
        }
        Listed::Node { metadata, device, .. } => {
            compare_metadata(stat, metadata, None, &mut problems)?;
            let found = (major(stat.st_rdev), minor(stat.st_rdev));
            if found != *device {
                problems.push(Problem::Device { expected: *device, found });
            }
        }
        Listed::ImpliedDirectory | Listed::Whiteout => {}
    }
    Ok(problems)
}

fn compare_metadata(
    stat: &Stat,
    metadata: &Metadata,
    open: Option<BorrowedFd<'_>>,
    problems: &mut Vec<Problem>,
) -> Result<(), Errno> {
    let mode = stat.st_mode & 0o7777;
    if mode != metadata.mode {
        problems.push(Problem::Mode { expected: metadata.mode, found: mode });
    }
    compare_owner(stat, (metadata.uid, metadata.gid), problems);
    if let Some(open) = open {
        let found = fs::xattr_names(open)?.iter().filter(|name| is_counted(name)).count() as u64;
        if found != metadata.attributes {
            problems.push(Problem::Attributes { expected: metadata.attributes, found });
        }
    }
    Ok(())
}

fn compare_owner(stat: &Stat, expected: (u32, u32), problems: &mut Vec<Problem>) {
    let found = (stat.st_uid, stat.st_gid);
    if found != expected {
        problems.push(Problem::Owner { expected, found });
    }
}

fn unreadable(error: Errno) -> Problem {
    Problem::Unreadable(std::io::Error::from(error).to_string())
}

fn kind_of(listed: &Listed) -> &'static str {
    match listed {
        Listed::File { .. } => word(FileType::RegularFile),
        Listed::Directory(_) | Listed::ImpliedDirectory => DIRECTORY,
        Listed::Link { .. } => word(FileType::Symlink),
        Listed::Node { kind, .. } => word(FileType::from_raw_mode(*kind)),
        Listed::Whiteout => WHITEOUT,
    }
}

fn kind(stat: &Stat) -> &'static str {
    if fs::is_whiteout(stat) { WHITEOUT } else { word(fs::file_type(stat)) }
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => DIRECTORY,
        FileType::Symlink => "a symbolic link",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::Unknown => "of an unknown type",
    }
}
