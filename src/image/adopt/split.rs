//! Makes a layer's archive again from its files, bit for bit, by what containers-storage noted when it unpacked it
//! (github.com/vbatts/tar-split: lines of JSON, gzip-compressed).
//!
//! The same notes tell which directories the archive lists; the others have whatever metadata the other store gave them.
//!
//! A line is either a segment, whose payload is bytes of the archive (headers, padding), or a file, whose content belongs
//! there. Whoever reads this hashes it, so a false note can do no more than fail.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use tar_core::EntryType;
use tar_core::parse::{self, ParseEvent, Parser};

use super::error::AdoptError;
use crate::sys::fs;

/// A segment is a few headers; long names and attributes have their limit in the unpacking.
const LONGEST_LINE: u64 = 8 << 20;

/// Long names and attributes of one entry, in bytes.
const MOST_METADATA: usize = 2 << 20;

/// In memory at a time.
const MOST_DIRECTORIES: usize = 1_000_000;

/// A tar block.
const BLOCK: usize = 512;

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

type Lines = BufReader<MultiGzDecoder<BufReader<File>>>;

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: Option<i64>,
    payload: Option<String>,
}

/// The archive, as it is read.
pub(super) struct Split {
    lines: Lines,
    tree: OwnedFd,
    current: Part,
    size: u64,
    content: Content,
}

enum Part {
    Bytes(Cursor<Vec<u8>>),
    File(File, u64),
    /// In place of a file whose content is of no interest.
    Zeros(u64),
}

/// What becomes of files' content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Read,
    Skip,
}

impl Split {
    /// The archive of the files in `tree`.
    pub(super) fn open(notes: &Path, tree: &Path) -> Result<Self, AdoptError> {
        let fail = |source| AdoptError::Read { path: notes.to_owned(), source };
        let size = length(&mut lines(notes).map_err(fail)?).map_err(fail)?;
        let tree =
            fs::open_directory(tree).map_err(|source| AdoptError::Read { path: tree.to_owned(), source })?;
        let current = Part::Bytes(Cursor::default());
        let content = Content::Read;
        Ok(Self { lines: lines(notes).map_err(fail)?, tree, current, size, content })
    }

    /// The directories that the archive lists, by clean relative paths.
    pub(super) fn listed_directories(mut self) -> io::Result<BTreeSet<Vec<u8>>> {
        self.content = Content::Skip;
        let mut listed = BTreeSet::new();
        let mut parser = Parser::new(parse::Limits::permissive());
        parser.set_ignore_pax_errors(true);
        let (mut buffer, mut need) = (Vec::new(), BLOCK);
        loop {
            let missing = need.saturating_sub(buffer.len()) as u64;
            self.by_ref().take(missing).read_to_end(&mut buffer)?;
            let (consumed, content) = match parser.parse(&buffer).map_err(|e| invalid(&e.to_string()))? {
                ParseEvent::NeedData { min_bytes } if buffer.len() >= need && min_bytes < MOST_METADATA => {
                    need = min_bytes.max(buffer.len() + 1);
                    continue;
                }
                ParseEvent::NeedData { .. } | ParseEvent::End { .. } => return Ok(listed),
                ParseEvent::GlobalExtensions { consumed, .. } => (consumed, 0),
                ParseEvent::Entry { consumed, entry } | ParseEvent::SparseEntry { consumed, entry, .. } => {
                    if entry.is_dir() && listed.len() < MOST_DIRECTORIES {
                        listed.insert(clean(&entry.path));
                    }
                    let has_content = !matches!(
                        entry.entry_type,
                        EntryType::Directory | EntryType::Symlink | EntryType::Link
                    );
                    (consumed, if has_content { entry.padded_size() } else { 0 })
                }
            };
            buffer.drain(..consumed);
            io::copy(&mut self.by_ref().take(content), &mut io::sink())?;
            need = BLOCK;
        }
    }

    /// The length of the archive in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

impl Read for Split {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = match &mut self.current {
                Part::Bytes(bytes) => bytes.read(buffer)?,
                Part::File(file, left) => {
                    let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let count = file.read(&mut buffer[..most])?;
                    if count == 0 && *left > 0 {
                        return Err(invalid("a file has become shorter"));
                    }
                    *left -= count as u64;
                    count
                }
                Part::Zeros(left) => {
                    let count = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    buffer[..count].fill(0);
                    *left -= count as u64;
                    count
                }
            };
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match next(&mut self.lines)? {
                None => return Ok(0),
                Some(line) => self.current = part(line, &self.tree, self.content)?,
            }
        }
    }
}

/// Without empty components and `.`.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

fn lines(notes: &Path) -> io::Result<Lines> {
    Ok(BufReader::new(MultiGzDecoder::new(BufReader::new(File::open(notes)?))))
}

fn next(lines: &mut Lines) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    lines.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|e| invalid(&e.to_string()))
}

fn part(line: Line, tree: &OwnedFd, content: Content) -> io::Result<Part> {
    let size = line.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    match line.kind {
        SEGMENT => Ok(Part::Bytes(Cursor::new(bytes(line.payload)?))),
        FILE if content == Content::Skip => Ok(Part::Zeros(size)),
        FILE if size > 0 => {
            let name = match (line.name, line.name_raw) {
                (_, Some(raw)) => bytes(Some(raw))?,
                (name, None) => name.unwrap_or_default().into_bytes(),
            };
            let name: &[u8] = name.strip_prefix(b"/").unwrap_or(&name);
            Ok(Part::File(fs::open_file_beneath(tree.as_fd(), name)?.into(), size))
        }
        FILE => Ok(Part::Bytes(Cursor::default())),
        _ => Err(invalid("an entry is neither a segment nor a file")),
    }
}

fn bytes(payload: Option<String>) -> io::Result<Vec<u8>> {
    STANDARD.decode(payload.unwrap_or_default()).map_err(|e| invalid(&e.to_string()))
}

/// The length of the whole archive.
fn length(lines: &mut Lines) -> io::Result<u64> {
    let mut length = 0u64;
    while let Some(line) = next(lines)? {
        let size = match line.kind {
            SEGMENT => bytes(line.payload)?.len() as u64,
            _ => line.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        };
        length = length.checked_add(size).ok_or_else(|| invalid("its sizes are too large"))?;
    }
    Ok(length)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}
