//! The files of an OCI artifact: blobs as they are, each under the name that its title gives it.
//!
//! A title is a path of safe components below one directory. What is written is read-only, belongs to root, and is in the
//! inventory like a layer's files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::entry::{Entry, EntryPath, Kind};
use super::error::ExtractError;
use super::fingerprint::Fingerprint;
use super::inventory::Inventory;
use super::{Extracted, FILES};
use crate::image::digest::{Digest, Hasher};
use crate::sys::fs::{self, Timespec};

/// How deep titles may nest, and how long they may be.
const MOST_LEVELS: usize = 16;
const LONGEST_TITLE: usize = 1024;

/// What file systems give out at a time; sizes are rounded up to it.
const BLOCK: u64 = 4096;

/// An artifact's directory that is being filled. Blocks.
pub struct ArtifactWriter {
    root: OwnedFd,
    staging: PathBuf,
    inventory: Inventory,
    made: BTreeSet<Vec<u8>>,
    bytes: u64,
    inodes: u64,
}

impl ArtifactWriter {
    /// Makes the directory `diff` in `staging`.
    pub fn create(staging: &Path) -> Result<Self, ExtractError> {
        let files = staging.join(FILES);
        let fail = |e| ExtractError::staging("create", &files, e);
        std::fs::create_dir_all(&files).map_err(fail)?;
        let root = fs::open_directory(&files).map_err(fail)?;
        fs::set_owner_and_mode(root.as_fd(), 0, 0, 0o755).map_err(|e| fail(e.into()))?;
        let inventory = Inventory::create(staging).map_err(fail)?;
        Ok(Self { root, staging: staging.to_owned(), inventory, made: BTreeSet::new(), bytes: 0, inodes: 1 })
    }

    /// Writes one blob, and verifies it.
    pub fn file(
        &mut self,
        title: &str,
        mut input: impl Read,
        digest: &Digest,
        size: u64,
    ) -> Result<(), ExtractError> {
        let path = parse_title(title)?;
        let parent = self.parent(path.parent());
        let made = parent.and_then(|parent| fs::create_file(parent.as_fd(), path.name()));
        let file = made.map_err(|e| ExtractError::entry("make", path.as_bytes(), &self.staging, e))?;
        let file = File::from(file);
        let (found, print) = self.copy(&mut input, &file, size)?;
        if found != *digest {
            return Err(ExtractError::BlobDigest { expected: digest.clone(), actual: found });
        }
        let entry = entry(path, Kind::File, 0o444, size);
        let path = entry.path.as_bytes();
        fs::set_owner_and_mode(file.as_fd(), 0, 0, entry.mode)
            .map_err(|e| ExtractError::entry("set owner and mode of", path, &self.staging, e))?;
        self.inventory.file(path, &entry, 0, print);
        self.bytes += size.next_multiple_of(BLOCK);
        self.inodes += 1;
        Ok(())
    }

    /// Writes the blob, which must have that size.
    fn copy(
        &self,
        input: &mut impl Read,
        mut file: &File,
        size: u64,
    ) -> Result<(Digest, Fingerprint), ExtractError> {
        let (mut hasher, mut print) = (Hasher::default(), Fingerprint::default());
        let (mut buffer, mut actual) = (vec![0; 128 << 10], 0);
        loop {
            let len = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(ExtractError::Input(e)),
            };
            actual += len as u64;
            if actual > size {
                return Err(ExtractError::BlobTooLong { expected: size, actual });
            }
            hasher.update(&buffer[..len]);
            print.update(&buffer[..len]);
            file.write_all(&buffer[..len])
                .map_err(|e| ExtractError::staging("write in", &self.staging, e))?;
        }
        match actual < size {
            true => Err(ExtractError::BlobTooShort { expected: size, actual }),
            false => Ok((hasher.finish(), print)),
        }
    }

    /// Ends the inventory.
    pub fn finish(self) -> Result<Extracted, ExtractError> {
        self.inventory
            .finish()
            .map_err(|e| ExtractError::staging("write the inventory in", &self.staging, e))?;
        Ok(Extracted { bytes: self.bytes, inodes: self.inodes, implied_directories: Vec::new() })
    }

    /// Opens the directory of a title, made if need be.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut dir = fs::open_directory_beneath(self.root.as_fd(), b"")?;
        let mut at = Vec::new();
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(name);
            if self.made.insert(at.clone()) {
                fs::make_directory(dir.as_fd(), name, 0o755)?;
                self.inodes += 1;
                self.bytes += BLOCK;
            }
            let child = fs::open_directory_beneath(dir.as_fd(), name)?;
            fs::set_owner_and_mode(child.as_fd(), 0, 0, 0o755)?;
            let path = EntryPath::parse(&at).map_err(|_| Errno::INVAL)?;
            self.inventory.entry(&at, &entry(path, Kind::Directory, 0o755, 0), 0);
            dir = child;
        }
        Ok(dir)
    }
}

fn parse_title(title: &str) -> Result<EntryPath, ExtractError> {
    let refused = |reason: &str| Err(ExtractError::refused(title.as_bytes(), reason));
    if title.starts_with('/') {
        return refused("a title must not begin with \"/\"");
    }
    if title.len() > LONGEST_TITLE || title.split('/').count() > MOST_LEVELS {
        return refused("its title is too long");
    }
    let path = EntryPath::parse(title.as_bytes())?;
    if path.as_bytes().is_empty() {
        return refused("its title is empty");
    }
    Ok(path)
}

fn entry(path: EntryPath, kind: Kind, mode: u32, content: u64) -> Entry {
    let time = Timespec { tv_sec: 0, tv_nsec: 0 };
    Entry { path, kind, mode, uid: 0, gid: 0, time, xattrs: Vec::new(), content }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::extract::read_inventory;

    fn write(titles: &[&str]) -> Result<(tempfile::TempDir, Extracted), ExtractError> {
        let scratch = tempfile::tempdir().unwrap();
        let mut writer = ArtifactWriter::create(scratch.path())?;
        for title in titles {
            writer.file(title, title.as_bytes(), &Digest::of(title.as_bytes()), title.len() as u64)?;
        }
        let extracted = writer.finish()?;
        Ok((scratch, extracted))
    }

    #[test]
    fn blobs_have_their_titles() {
        let (scratch, extracted) = write(&["model.bin", "a/b/c", "a/d"]).unwrap();
        let read = |path: &str| std::fs::read_to_string(scratch.path().join(FILES).join(path)).unwrap();
        assert_eq!(
            (read("model.bin"), read("a/b/c"), read("a/d")),
            ("model.bin".into(), "a/b/c".into(), "a/d".into())
        );
        assert_eq!((extracted.inodes, extracted.bytes), (6, 5 * BLOCK));
        assert_eq!(read_inventory(scratch.path()).unwrap().len(), 6);
    }

    #[test]
    fn a_title_stays_in_the_directory_and_is_nobody_elses() {
        for titles in [
            &["/etc/x"][..],
            &["../x"],
            &["a/../../x"],
            &[""],
            &["."],
            &["a\0b"],
            &["a", "a"],
            &["a", "a/b"],
            &["a/b", "a"],
        ] {
            assert!(write(titles).is_err(), "{titles:?}");
        }
        assert!(write(&["x/".repeat(20).as_str()]).is_err());
    }

    #[test]
    fn a_blob_that_is_another_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let mut writer = ArtifactWriter::create(scratch.path()).unwrap();
        let digest = Digest::of(b"abc");
        let results = [
            writer.file("a", &b"abd"[..], &digest, 3),
            writer.file("b", &b"abcd"[..], &digest, 3),
            writer.file("c", &b"ab"[..], &digest, 3),
        ];
        assert!(matches!(results[0], Err(ExtractError::BlobDigest { .. })));
        assert!(matches!(results[1], Err(ExtractError::BlobTooLong { .. })));
        assert!(matches!(results[2], Err(ExtractError::BlobTooShort { .. })));
    }
}
