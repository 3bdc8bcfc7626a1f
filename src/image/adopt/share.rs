//! How the content of files comes from another store's directory: shared, linked or copied.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::Mode;
use super::error::AdoptError;

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

/// Tries it with two files without names.
fn can_share(directory: &Path) -> io::Result<bool> {
    let scratch = || crate::image::archive::scratch(directory);
    let (one, two): (File, File) = (scratch()?, scratch()?);
    Ok(rustix::fs::ioctl_ficlone(&one, &two).is_ok())
}

/// Copies what holds data; the holes stay holes.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<()> {
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
