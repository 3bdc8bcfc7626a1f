//! From what the operator names to a plain tar that can be read at any offset.
//!
//! A plain tar in a file stays where it is. What is compressed, or comes through a pipe, goes into a file without a name
//! in the store's staging directory: it is gone with the process, whatever ends that.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::ArchiveError;
use super::progress::Progress;
use crate::image::extract::Compression;
use crate::image::store::Store;

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

/// Gives a plain tar at offset 0 of a file that can be read at any place.
pub(super) fn plain_tar(
    input: File,
    store: &Store,
    limit: u64,
    progress: &Progress,
) -> Result<File, ArchiveError> {
    let stat = rustix::fs::fstat(&input).map_err(|e| ArchiveError::Read(e.into()))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let mut start = Vec::with_capacity(6);
    (&input).take(6).read_to_end(&mut start).map_err(ArchiveError::Read)?;
    let compression = Compression::detect(&start).map_err(ArchiveError::Compression)?;
    if is_file && compression.is_none() {
        return Ok(input);
    }
    let input = BufReader::with_capacity(CHUNK, Cursor::new(start).chain(input));
    let scratch = scratch(&store.inner().root.join("staging")).map_err(ArchiveError::Spool)?;
    let limit = Limit { bytes: limit, progress };
    match compression.unwrap_or(Compression::None) {
        Compression::None => copy(input, &scratch, &limit, ArchiveError::Read)?,
        Compression::Gzip => copy(MultiGzDecoder::new(input), &scratch, &limit, |e| broken("gzip", e))?,
        Compression::Zstd => {
            let decoder = zstd::Decoder::with_buffer(input).map_err(|e| broken("zstd", e))?;
            copy(decoder, &scratch, &limit, |e| broken("zstd", e))?;
        }
    }
    Ok(scratch)
}

/// How far a copy may go.
struct Limit<'a> {
    bytes: u64,
    progress: &'a Progress,
}

fn broken(format: &'static str, source: io::Error) -> ArchiveError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated(format!("its {format} stream")),
        _ => ArchiveError::Decompress { format, source },
    }
}

fn copy(
    mut from: impl Read,
    mut to: &File,
    limit: &Limit<'_>,
    fail: impl Fn(io::Error) -> ArchiveError,
) -> Result<(), ArchiveError> {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(fail(e)),
        };
        total += count as u64;
        if total > limit.bytes {
            return Err(ArchiveError::SpoolLimit { limit: limit.bytes });
        }
        if limit.progress.is_stopped() {
            return Err(ArchiveError::Read(io::ErrorKind::Interrupted.into()));
        }
        to.write_all(&chunk[..count]).map_err(ArchiveError::Spool)?;
    }
}

/// A file without a name in `directory`.
pub(in crate::image) fn scratch(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(fd.into()),
        // A file system that cannot: the name is gone at once.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let directory = crate::sys::fs::open_directory(directory)?;
            let name = format!("spool-{}", std::process::id());
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&directory, name.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
            crate::sys::fs::unlink(directory.as_fd(), name.as_bytes())?;
            Ok(fd.into())
        }
        Err(e) => Err(e.into()),
    }
}
