//! Images as volumes of containers: which directories an overlay is to be made of, and what a path in it leads to. Mounting
//! is the monitor's business.
//!
//! An artifact is one layer with its files, and so is mounted like any other image.

use std::io;
use std::path::{Path, PathBuf};

use super::images::Images;
use super::store::{Image, Node, Stack, Store, StoreError};
use crate::id::ContainerId;
use crate::sys::fs;

/// What a path of an image leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FileKind {
    Directory,
    File,
    /// A device, FIFO or socket.
    Other,
}

impl Images {
    /// What to mount for an image volume of a container whose root filesystem has been prepared: the lower directories of a
    /// read-only overlay, topmost first. The container keeps the image's layers for as long as it is there.
    pub fn mount_source(&self, image: &Image, container: &ContainerId) -> Result<Vec<PathBuf>, StoreError> {
        self.store().mount_source(image, container)
    }

    /// Where a path of an image leads through links, which stay in the image, as a path without any and without a slash
    /// at its beginning; and to what. `None` where there is nothing.
    pub fn look_up(&self, image: &Image, path: &Path) -> io::Result<Option<(PathBuf, FileKind)>> {
        let lower = self.store().inner().lower(&image.chain).map_err(io::Error::other)?;
        let found = Stack::open(&lower)?.find(fs::bytes_of(path))?;
        Ok(found.map(|(path, node)| match node {
            Node::Directory => (path, FileKind::Directory),
            Node::File(_) => (path, FileKind::File),
            Node::Other => (path, FileKind::Other),
        }))
    }
}

impl Store {
    /// The lower directories of an image that is to be mounted read-only into a container, topmost first. The container, whose
    /// writable layer is there, keeps the image's layers until [`Store::remove_rootfs`], also across restarts.
    pub fn mount_source(&self, image: &Image, container: &ContainerId) -> Result<Vec<PathBuf>, StoreError> {
        self.hold(container, &image.chain)?;
        self.inner().lower(&image.chain)
    }
}
