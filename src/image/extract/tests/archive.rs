//! Makes archives for tests, valid or not.

use tar_core::builder::{EntryBuilder, ExtensionMode};
use tar_core::{EntryType, SparseEntry};

/// An archive that is being made.
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// An entry with any header; owner root and mode 0644 unless `change` says otherwise.
    pub(crate) fn entry(
        mut self,
        path: &str,
        kind: EntryType,
        content: &[u8],
        change: impl FnOnce(&mut EntryBuilder),
    ) -> Self {
        let mut builder = EntryBuilder::new_ustar();
        builder.set_extension_mode(ExtensionMode::Pax);
        builder.path(path).entry_type(kind);
        builder.mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap();
        builder.size(content.len() as u64).unwrap().mtime(1_000_000_000).unwrap();
        change(&mut builder);
        self.0.extend(builder.finish_bytes());
        self.content(content)
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.entry(path, EntryType::Regular, content.as_bytes(), |_| {})
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, b"", |entry| {
            entry.mode(mode).unwrap();
        })
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, b"", |entry| {
            entry.link_name(target);
        })
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, b"", |entry| {
            entry.link_name(target);
        })
    }

    pub(crate) fn device(self, path: &str, kind: EntryType, major: u32, minor: u32) -> Self {
        self.entry(path, kind, b"", |entry| {
            entry.device(major, minor).unwrap();
        })
    }

    /// An empty file with one PAX record.
    pub(crate) fn pax(self, path: &str, key: &str, value: &str) -> Self {
        self.entry(path, EntryType::Regular, b"", |entry| {
            entry.add_pax(key, value);
        })
    }

    /// An entry with an extended attribute.
    pub(crate) fn xattr(self, path: &str, kind: EntryType, name: &str, value: &[u8]) -> Self {
        self.entry(path, kind, b"", |entry| {
            entry.add_pax(&format!("SCHILY.xattr.{name}"), value);
        })
    }

    /// A sparse file in the old GNU form.
    pub(crate) fn sparse(mut self, path: &str, map: &[SparseEntry], length: u64, content: &[u8]) -> Self {
        let mut builder = EntryBuilder::new_gnu();
        builder.path(path).entry_type(EntryType::Regular);
        builder.mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap().mtime(0).unwrap();
        builder.size(content.len() as u64).unwrap();
        builder.sparse(map, length);
        self.0.extend(builder.finish_bytes());
        self.content(content)
    }

    /// The bytes so far, without an end.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
}
