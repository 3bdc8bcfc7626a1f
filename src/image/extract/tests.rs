//! Layers of every form, odd and hostile ones too, unpacked on a real file system. These tests need root.

pub(crate) mod archive;
mod forms;
mod hostile;
mod oddities;
mod streams;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::archive::Tar;
use super::*;

/// A layer that was unpacked for a test.
struct Unpacked {
    scratch: tempfile::TempDir,
    extracted: Extracted,
}

impl Unpacked {
    fn path(&self, path: &str) -> PathBuf {
        self.scratch.path().join(FILES).join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    fn stat(&self, path: &str) -> std::fs::Metadata {
        self.path(path).symlink_metadata().unwrap()
    }

    /// Mode and owner.
    fn access(&self, path: &str) -> (u32, u32, u32) {
        let stat = self.stat(path);
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.mode() & 0o170_000 == 0o020_000 && stat.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        fs::is_opaque(std::os::fd::AsFd::as_fd(&fs::open_directory(&self.path(path)).unwrap())).unwrap()
    }

    fn implied(&self) -> Vec<&str> {
        self.extracted.implied_directories.iter().map(|path| path.to_str().unwrap()).collect()
    }
}

/// What a blob truly is.
fn expectation(blob: &[u8], tar: &[u8]) -> LayerExpectation {
    LayerExpectation { digest: Digest::of(blob), size: blob.len() as u64, diff_id: Digest::of(tar) }
}

fn extract(blob: &[u8], tar: &[u8], staging: &Path, limits: &Limits) -> Result<Extracted, ExtractError> {
    extract_layer(blob, Compression::None, &expectation(blob, tar), staging, limits)
}

fn unpack_bytes(tar: &[u8]) -> Result<Unpacked, ExtractError> {
    let scratch = tempfile::tempdir().unwrap();
    let extracted = extract(tar, tar, scratch.path(), &Limits::default())?;
    Ok(Unpacked { scratch, extracted })
}

fn unpack_tar(tar: Tar) -> Unpacked {
    unpack_bytes(&tar.finish()).unwrap()
}

fn refusal(tar: Tar) -> String {
    match unpack_bytes(&tar.finish()) {
        Ok(_) => panic!("the layer was unpacked"),
        Err(e) => e.to_string(),
    }
}

/// A tmpfs of 256 KiB and 60 inodes, unmounted whatever happens.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn new(path: &Path) -> Self {
        let options = ["-t", "tmpfs", "-o", "size=256k,nr_inodes=60", "podd-test"];
        assert!(Command::new("mount").args(options).arg(path).status().unwrap().success());
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
