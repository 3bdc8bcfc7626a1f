//! The files of an archive by name: a tar, or a directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::ArchiveError;
use super::index::TarIndex;
use super::progress::Progress;
use super::spool;
use crate::image::digest::Digest;
use crate::image::store::Store;
use crate::sys::fs;

/// Where an archive's files are.
pub(in crate::image) enum Source {
    Tar { file: Arc<File>, index: TarIndex },
    Directory(OwnedFd),
}

/// The content of one file, read from its beginning.
pub(in crate::image) struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Source {
    /// Opens the archive or directory at `path`; what is compressed may take `limit` bytes on disk.
    pub(in crate::image) fn open(
        path: &Path,
        store: &Store,
        limit: u64,
        progress: &Progress,
    ) -> Result<Self, ArchiveError> {
        let fail = |source| ArchiveError::File { operation: "open", path: path.to_owned(), source };
        if path.is_dir() {
            return Ok(Self::Directory(fs::open_directory(path).map_err(fail)?));
        }
        Self::tar(File::open(path).map_err(fail)?, store, limit, progress)
    }

    /// The archive that an open file or pipe brings.
    pub(in crate::image) fn tar(
        file: File,
        store: &Store,
        limit: u64,
        progress: &Progress,
    ) -> Result<Self, ArchiveError> {
        let file = spool::plain_tar(file, store, limit, progress)?;
        let index = TarIndex::read(&file)?;
        Ok(Self::Tar { file: Arc::new(file), index })
    }

    /// The file `name`; `None` when it is not there.
    pub(in crate::image) fn find(&self, name: &str) -> Result<Option<Section>, ArchiveError> {
        match self {
            Self::Tar { file, index } => Ok(index.find(name)?.map(|(offset, size)| Section {
                file: Arc::clone(file),
                offset,
                left: size,
            })),
            Self::Directory(directory) => in_directory(directory, name),
        }
    }

    /// The file `name`, which must be there.
    pub(in crate::image) fn get(&self, name: &str) -> Result<Section, ArchiveError> {
        self.find(name)?.ok_or_else(|| ArchiveError::Missing(name.to_owned()))
    }

    /// The whole content of the file `name`, of at most `limit` bytes.
    pub(in crate::image) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut section = self.get(name)?;
        if section.len() > limit {
            return Err(ArchiveError::TooLarge { name: name.to_owned(), limit });
        }
        let mut content = Vec::new();
        section.read_to_end(&mut content).map_err(ArchiveError::Read)?;
        Ok(content)
    }

    /// The blob of an OCI layout with that digest, verified.
    pub(in crate::image) fn blob(
        &self,
        digest: &Digest,
        size: u64,
        limit: u64,
    ) -> Result<Vec<u8>, ArchiveError> {
        let name = blob_name(digest);
        let content = self.read(&name, limit)?;
        let actual = content.len() as u64;
        if actual != size {
            return Err(ArchiveError::Size { name, expected: size, actual });
        }
        match Digest::of(&content) {
            actual if actual == *digest => Ok(content),
            actual => Err(ArchiveError::Digest { name, expected: digest.clone(), actual }),
        }
    }
}

impl Section {
    /// The bytes that are still to be read.
    pub(in crate::image) fn len(&self) -> u64 {
        self.left
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive has become shorter"));
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Where an OCI layout has a blob.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn in_directory(directory: &OwnedFd, name: &str) -> Result<Option<Section>, ArchiveError> {
    let refuse = |reason| ArchiveError::Entry { name: name.to_owned(), reason };
    let fd = match fs::open_file_beneath(directory.as_fd(), name.as_bytes()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP | Errno::XDEV) => {
            return Err(refuse("links are not followed in a layout's directory"));
        }
        Err(e) => return Err(ArchiveError::Read(e.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| ArchiveError::Read(e.into()))?;
    if fs::file_type(&stat) != FileType::RegularFile {
        return Err(refuse("it is not a regular file"));
    }
    let left = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(Some(Section { file: Arc::new(fd.into()), offset: 0, left }))
}
