//! Containers' root filesystems: which directories an overlay is to be made of. Mounting it is the monitor's business.
//!
//! A container's directory `containers/<id>/` holds its writable layer and keeps the image's layers, also across restarts
//! of the daemon and when the image is removed.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::store::{Image, Stack, Store, StoreError};
use crate::id::ContainerId;
use crate::sys::fs;

/// The directories of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFs {
    /// The image's layers, topmost first; never empty.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// overlayfs's own scratch directory, on the same file system.
    pub work: PathBuf,
}

impl Store {
    /// Makes a container's writable layer above an image. What is there of an earlier attempt is replaced.
    pub fn prepare_rootfs(&self, image: &Image, container: &ContainerId) -> Result<RootFs, StoreError> {
        self.remove_rootfs(container)?;
        let prepared = self.hold(container, &image.chain).and_then(|()| self.make_rootfs(image, container));
        if prepared.is_err()
            && let Err(error) = self.remove_rootfs(container)
        {
            tracing::warn!(%container, %error, "what was made of a root filesystem stays");
        }
        prepared
    }

    /// The directories of a container's overlay as [`Store::prepare_rootfs`] made them.
    pub fn rootfs(&self, image: &Image, container: &ContainerId) -> Result<RootFs, StoreError> {
        let directory = self.inner().container(container);
        let lower = self.inner().lower(&image.chain)?;
        Ok(RootFs { lower, upper: directory.join("upper"), work: directory.join("work") })
    }

    /// Discards a container's writable layer and lets go of its image's layers; one that is not there is a success.
    pub fn remove_rootfs(&self, container: &ContainerId) -> Result<(), StoreError> {
        self.inner().discard(&self.inner().container(container))?;
        self.inner().release_container(container);
        Ok(())
    }

    /// The content of a file of the image, such as `/etc/passwd`, through links that stay in the image; `None` when there
    /// is no such regular file, an error when it is larger than `max` bytes.
    pub fn read_file(&self, image: &Image, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let lower = self.inner().lower(&image.chain).map_err(io::Error::other)?;
        Stack::open(&lower)?.read_file(path.as_bytes(), max)
    }

    fn make_rootfs(&self, image: &Image, container: &ContainerId) -> Result<RootFs, StoreError> {
        let rootfs = self.rootfs(image, container)?;
        for path in [&rootfs.upper, &rootfs.work] {
            std::fs::create_dir(path).map_err(|e| StoreError::io("create", path, e))?;
        }
        // The overlay shows its upper directory's metadata as that of the root.
        copy_root_metadata(rootfs.lower.first(), &rootfs.upper)
            .map_err(|e| StoreError::io("set owner and mode of", &rootfs.upper, e))?;
        Ok(rootfs)
    }
}

fn copy_root_metadata(source: Option<&PathBuf>, target: &Path) -> io::Result<()> {
    let Some(source) = source else { return Ok(()) };
    let stat = rustix::fs::fstat(fs::open_directory(source)?)?;
    let target = fs::open_directory(target)?;
    Ok(fs::set_owner_and_mode(target.as_fd(), stat.st_uid, stat.st_gid, stat.st_mode)?)
}
