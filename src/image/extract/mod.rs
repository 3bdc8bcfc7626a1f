//! From a layer's blob to its files, as one stream.
//!
//! ```text
//!  blob ── sha256, count ── gunzip/unzstd ──┬── chunks ── tar ── files      the caller's thread
//!          the decoding thread              └── chunks ── sha256 (diffID)   the hashing thread
//! ```
//!
//! Nothing is stored but the files, and no more than about a megabyte is in flight. The blob is read to its very end, since
//! bytes after the end of the archive count for both digests. Only when length, blob digest and diffID agree does the
//! caller get an [`Extracted`]; otherwise the staging directory holds rubbish, to be thrown away.
//!
//! The layer is taken to be hostile: see `tree` for why nothing can be written outside the staging directory, `entry` for
//! what is refused, and [`Limits`]. Whiteouts become those of overlayfs.

mod artifact;
mod decode;
mod entry;
mod error;
mod fingerprint;
#[cfg(podd_fuzzing)]
pub mod fuzzing;
mod gunzip;
mod input;
mod inventory;
mod stream;
mod tree;
mod write;

use std::io::Read;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tar_core::parse::{self, ParseEvent, Parser};

pub use self::artifact::ArtifactWriter;
pub use self::decode::Compression;
use self::decode::Decoder;
use self::entry::Entry;
pub use self::error::ExtractError;
pub use self::fingerprint::fingerprint;
pub use self::input::ChannelReader;
use self::inventory::Inventory;
pub use self::inventory::{INVENTORY, Listed, Metadata, is_counted, read_inventory};
use self::stream::Stream;
use self::tree::Tree;
use self::write::Writer;
use crate::image::digest::Digest;
use crate::sys::fs;

/// A tar block.
const BLOCK: u64 = 512;

/// The directory of the layer's files within its staging directory.
pub const FILES: &str = "diff";

/// What manifest and configuration say about a layer.
#[derive(Debug, Clone)]
pub struct LayerExpectation {
    /// The digest of the blob.
    pub digest: Digest,
    /// The length of the blob in bytes.
    pub size: u64,
    /// The digest of the tar.
    pub diff_id: Digest,
}

/// How much a layer may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Files and directories, each time one is made.
    pub max_entries: u64,
    /// The length of a path in bytes.
    pub max_path_len: u32,
    /// How deep directories nest.
    pub max_depth: u32,
    /// The sum of the files' sizes, each rounded up to 4 KiB; and the length of the tar, with whatever follows its end, as a
    /// small blob can unpack to terabytes of nothing.
    pub max_unpacked_bytes: u64,
    /// Long names and extended attributes of one entry, in bytes.
    pub max_metadata: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 4_000_000,
            max_path_len: 4096,
            max_depth: 512,
            max_unpacked_bytes: 256 << 30,
            max_metadata: 1 << 20,
        }
    }
}

impl Limits {
    fn too_large(&self) -> ExtractError {
        let what = "unpacked bytes (images.max_unpacked_bytes)";
        ExtractError::Limit { what, limit: self.max_unpacked_bytes }
    }
}

/// A layer that is unpacked and verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// What its files take, each rounded up to 4 KiB.
    pub bytes: u64,
    /// Its files and directories.
    pub inodes: u64,
    /// Directories that it needs and does not list, relative, parents first; the empty path is its root. They have to take
    /// their metadata from the layers below.
    pub implied_directories: Vec<PathBuf>,
}

/// Unpacks the blob `input` into the directory `diff`, made in `staging`, and verifies it against `expected`.
///
/// Blocks: `input` is read on a thread of its own. When unpacking fails, `input` is dropped after the read under way, so
/// a reader fed by a channel ends its sender; a read that can wait for ever needs its own time limit.
pub fn extract_layer(
    input: impl Read + Send,
    compression: Compression,
    expected: &LayerExpectation,
    staging: &Path,
    limits: &Limits,
) -> Result<Extracted, ExtractError> {
    let writer = prepare(staging, limits)?;
    let (to_files, files) = stream::channel();
    let (to_hash, hash) = stream::channel();
    let start = |e| ExtractError::staging("start a thread for", staging, e);
    let (extracted, decoded, diff_id) = thread::scope(|scope| {
        let hashing =
            thread::Builder::new().spawn_scoped(scope, move || stream::hash(&hash)).map_err(start)?;
        let decoding = thread::Builder::new()
            .spawn_scoped(scope, move || {
                decode(input, compression, expected.size, limits, &to_files, &to_hash)
            })
            .map_err(start)?;
        let extracted = unpack(files, writer, limits);
        let decoded = decoding.join().unwrap_or_else(|panic| resume_unwind(panic));
        let diff_id = hashing.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((extracted, decoded, diff_id))
    })?;
    let (extracted, digest) = match (extracted, decoded) {
        // Where the stream broke off, why it did says more than that the archive is not whole.
        (Ok(_) | Err(ExtractError::Truncated(_)), Err(e)) | (Err(e), _) => return Err(e),
        (Ok(extracted), Ok(digest)) => (extracted, digest),
    };
    if digest != expected.digest {
        return Err(ExtractError::BlobDigest { expected: expected.digest.clone(), actual: digest });
    }
    if diff_id != expected.diff_id {
        return Err(ExtractError::DiffId { expected: expected.diff_id.clone(), actual: diff_id });
    }
    Ok(extracted)
}

fn prepare<'a>(staging: &'a Path, limits: &'a Limits) -> Result<Writer<'a>, ExtractError> {
    let files = staging.join(FILES);
    let fail = |e| ExtractError::staging("create", &files, e);
    std::fs::create_dir_all(&files).map_err(fail)?;
    let root = fs::open_directory(&files).map_err(fail)?;
    fs::set_owner_and_mode(std::os::fd::AsFd::as_fd(&root), 0, 0, 0o755).map_err(|e| fail(e.into()))?;
    let inventory = Inventory::create(staging).map_err(fail)?;
    Ok(Writer::new(Tree::new(root, inventory, staging, limits), staging, limits))
}

/// Decodes until the end of the blob, or until no one takes the chunks any more.
fn decode(
    input: impl Read,
    compression: Compression,
    size: u64,
    limits: &Limits,
    files: &SyncSender<Bytes>,
    hash: &SyncSender<Bytes>,
) -> Result<Digest, ExtractError> {
    let mut decoder = Decoder::new(input, compression, size)?;
    let mut unpacked = 0;
    while let Some(chunk) = decoder.next()? {
        unpacked += chunk.len() as u64;
        if unpacked > limits.max_unpacked_bytes {
            return Err(limits.too_large());
        }
        if hash.send(chunk.clone()).is_err() || files.send(chunk).is_err() {
            return Err(ExtractError::Truncated("its tar archive"));
        }
    }
    decoder.finish()
}

fn unpack(
    chunks: Receiver<Bytes>,
    mut writer: Writer<'_>,
    limits: &Limits,
) -> Result<Extracted, ExtractError> {
    let mut stream = Stream::new(chunks);
    let mut parser = Parser::new(parse::Limits {
        max_metadata_size: limits.max_metadata,
        max_path_len: Some(limits.max_path_len),
        ..parse::Limits::default()
    });
    // A time that is not a number is no reason to refuse an image; sizes and owners are checked in `entry`.
    parser.set_ignore_pax_errors(true);
    while let Some(entry) = next_entry(&mut parser, &mut stream, limits)? {
        writer.write(&entry, &mut stream)?;
        let padding = entry.content.next_multiple_of(BLOCK) - entry.content;
        stream.skip(padding)?;
    }
    let extracted = writer.finish()?;
    stream.drain();
    Ok(extracted)
}

/// The next entry, taken from the stream up to its content; `None` at the end of the archive.
fn next_entry(
    parser: &mut Parser,
    stream: &mut Stream,
    limits: &Limits,
) -> Result<Option<Entry>, ExtractError> {
    // Headers, long names and attributes of one entry, with room for their padding.
    let most = limits.max_metadata as usize + (1 << 20);
    let mut need = BLOCK as usize;
    loop {
        let input = stream.peek(need);
        let available = input.len();
        let (consumed, entry) = match parser.parse(input).map_err(ExtractError::Archive)? {
            ParseEvent::NeedData { min_bytes } => {
                if available < need {
                    return end_without_marker(input);
                }
                need = min_bytes.max(available + 1);
                if need > most {
                    return Err(ExtractError::Limit {
                        what: "bytes of metadata of an entry",
                        limit: most as u64,
                    });
                }
                continue;
            }
            ParseEvent::GlobalExtensions { consumed, .. } => (consumed, None),
            ParseEvent::Entry { consumed, entry } => (consumed, Some(Entry::new(&entry, None)?)),
            ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                (consumed, Some(Entry::new(&entry, Some((sparse_map, real_size)))?))
            }
            ParseEvent::End { .. } => return Ok(None),
        };
        stream.consume(consumed);
        if entry.is_some() {
            return Ok(entry);
        }
        need = BLOCK as usize;
    }
}

/// Some tools write one block of zeros at the end, or none.
fn end_without_marker(rest: &[u8]) -> Result<Option<Entry>, ExtractError> {
    match rest.iter().all(|&b| b == 0) {
        true => Ok(None),
        false => Err(ExtractError::Truncated("its tar archive")),
    }
}

#[cfg(test)]
pub(crate) mod tests;
