//! What a layer's files are, written down as they are unpacked, so that they can be checked later.
//!
//! `files` beside the layer's directory is a log: one record for each name that is made, replaced or linked, in that order.
//! Unpacking only appends, through one buffer and without a look at the disk; who reads it plays it back. Contents are told by
//! their [`Fingerprint`].
//!
//! ```text
//! "podd-files 1\n"  record*  'E' crc32 of all before it
//! record: tag, length of the prefix shared with the path before, length of the rest, the rest, then by tag:
//!   'F' file: mode uid gid attributes size print      'H' hard link: the target's path
//!   'S' file with holes: the same without print
//!   'D' directory: mode uid gid attributes            'L' symbolic link: uid gid, the target
//!   'N' device, FIFO: kind mode uid gid attributes major minor
//!   'I' implied directory      'W' whiteout            '-' removed, with all below it
//! ```
//!
//! Numbers are LEB128; texts have their length before them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use flate2::Crc;

use super::entry::{Entry, Kind};
use super::fingerprint::Fingerprint;

/// The inventory's file, in the layer's directory.
pub const INVENTORY: &str = "files";

const MAGIC: &[u8] = b"podd-files 1\n";

/// The most that an inventory is read of: far more than the limits of a layer allow it.
const MOST_BYTES: u64 = 4 << 30;

/// Appends to a layer's inventory. A failure is reported at the end.
pub(super) struct Inventory {
    log: BufWriter<File>,
    crc: Crc,
    last: Vec<u8>,
    record: Vec<u8>,
    failed: Option<io::Error>,
}

impl Inventory {
    /// Begins the inventory of the layer in `staging`.
    pub(super) fn create(staging: &Path) -> io::Result<Self> {
        let log = BufWriter::with_capacity(64 << 10, File::create(staging.join(INVENTORY))?);
        let (crc, last, record) = (Crc::new(), Vec::new(), MAGIC.to_vec());
        let mut inventory = Self { log, crc, last, record, failed: None };
        inventory.append();
        Ok(inventory)
    }

    /// A file with the content that `print` has seen; `attributes` were set. Of one with holes only the length is kept: to read
    /// them all could take for ever.
    pub(super) fn file(&mut self, path: &[u8], entry: &Entry, attributes: u64, print: Fingerprint) {
        let (tag, size) = match &entry.kind {
            Kind::SparseFile { length, .. } => (b'S', *length),
            _ => (b'F', entry.content),
        };
        self.begin(tag, path);
        self.metadata(entry, attributes);
        self.number(size);
        if tag == b'F' {
            self.number(print.finish().1);
        }
        self.append();
    }

    /// A directory, device, FIFO or symbolic link.
    pub(super) fn entry(&mut self, path: &[u8], entry: &Entry, attributes: u64) {
        match &entry.kind {
            Kind::Directory => {
                self.begin(b'D', path);
                self.metadata(entry, attributes);
            }
            Kind::Symlink { target } => {
                self.begin(b'L', path);
                self.number(entry.uid.into());
                self.number(entry.gid.into());
                self.text(target);
            }
            Kind::Node { kind, major, minor } => {
                self.begin(b'N', path);
                self.number(kind.as_raw_mode().into());
                self.metadata(entry, attributes);
                self.number((*major).into());
                self.number((*minor).into());
            }
            Kind::File
            | Kind::SparseFile { .. }
            | Kind::HardLink { .. }
            | Kind::Whiteout { .. }
            | Kind::Opaque
            | Kind::Ignored => return,
        }
        self.append();
    }

    /// Another name of a file, link or device.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) {
        self.begin(b'H', path);
        self.text(target);
        self.append();
    }

    /// A directory that takes its metadata from the layers below.
    pub(super) fn implied(&mut self, path: &[u8]) {
        self.begin(b'I', path);
        self.append();
    }

    /// An overlay's mark that a name is gone.
    pub(super) fn whiteout(&mut self, path: &[u8]) {
        self.begin(b'W', path);
        self.append();
    }

    /// The name makes room for a later entry.
    pub(super) fn removed(&mut self, path: &[u8]) {
        self.begin(b'-', path);
        self.append();
    }

    /// Ends the log.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.record.push(b'E');
        self.record.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.append();
        match self.failed {
            Some(failed) => Err(failed),
            None => self.log.flush(),
        }
    }

    fn begin(&mut self, tag: u8, path: &[u8]) {
        let shared = path.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        self.record.push(tag);
        self.number(shared as u64);
        self.text(&path[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
    }

    fn metadata(&mut self, entry: &Entry, attributes: u64) {
        for number in [entry.mode.into(), entry.uid.into(), entry.gid.into(), attributes] {
            self.number(number);
        }
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.record.extend_from_slice(text);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.record.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.record.push(number.to_le_bytes()[0]);
    }

    fn append(&mut self) {
        self.crc.update(&self.record);
        if self.failed.is_none() {
            self.failed = self.log.write_all(&self.record).err();
        }
        self.record.clear();
    }
}

/// What a name of a layer has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// A regular file.
    File {
        /// Mode, owner and attributes.
        metadata: Metadata,
        /// Its length in bytes.
        size: u64,
        /// The fingerprint of its content, unless it has holes.
        print: Option<u64>,
    },
    /// A directory.
    Directory(Metadata),
    /// A directory whose metadata comes from the layers below.
    ImpliedDirectory,
    /// A symbolic link.
    Link {
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Where it leads.
        target: Vec<u8>,
    },
    /// A device or FIFO.
    Node {
        /// The bits of the mode that tell the type.
        kind: u32,
        /// Mode, owner and attributes.
        metadata: Metadata,
        /// The device's major and minor number.
        device: (u32, u32),
    },
    /// An overlay's mark that the name is gone.
    Whiteout,
}

/// What files, directories and devices have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// The permission bits, set-id bits included.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How many extended attributes were set.
    pub attributes: u64,
}

/// Reads the inventory of the layer in `directory`: each name, relative to the layer's root, which is the empty one.
pub fn read_inventory(directory: &Path) -> io::Result<BTreeMap<Vec<u8>, Listed>> {
    let mut log = Vec::new();
    File::open(directory.join(INVENTORY))?.take(MOST_BYTES).read_to_end(&mut log)?;
    replay(&log).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
}

fn replay(log: &[u8]) -> Option<BTreeMap<Vec<u8>, Listed>> {
    let (records, end) = log.split_at_checked(log.len().checked_sub(5)?)?;
    let mut crc = Crc::new();
    crc.update(records);
    let stated = u32::from_le_bytes(end[1..].try_into().ok()?);
    if end[0] != b'E' || stated != crc.sum() {
        return None;
    }
    let mut log = Log(records.strip_prefix(MAGIC)?);
    let mut files = BTreeMap::from([(Vec::new(), Listed::ImpliedDirectory)]);
    let mut path = Vec::new();
    while !log.0.is_empty() {
        log.record(&mut path, &mut files)?;
    }
    Some(files)
}

/// The part of a log that is still to be read.
struct Log<'a>(&'a [u8]);

impl Log<'_> {
    fn record(&mut self, path: &mut Vec<u8>, files: &mut BTreeMap<Vec<u8>, Listed>) -> Option<()> {
        let tag = self.byte()?;
        let shared = usize::try_from(self.number()?).ok()?;
        let rest = self.text()?;
        if shared > path.len() {
            return None;
        }
        path.truncate(shared);
        path.extend_from_slice(&rest);
        let listed = match tag {
            b'F' => {
                let (metadata, size) = (self.metadata()?, self.number()?);
                Listed::File { metadata, size, print: Some(self.number()?) }
            }
            b'S' => Listed::File { metadata: self.metadata()?, size: self.number()?, print: None },
            b'D' => Listed::Directory(self.metadata()?),
            b'L' => Listed::Link { uid: self.small()?, gid: self.small()?, target: self.text()? },
            b'N' => Listed::Node {
                kind: self.small()?,
                metadata: self.metadata()?,
                device: (self.small()?, self.small()?),
            },
            b'H' => files.get(&self.text()?)?.clone(),
            b'I' => Listed::ImpliedDirectory,
            b'W' => Listed::Whiteout,
            b'-' => {
                remove(path, files);
                return Some(());
            }
            _ => return None,
        };
        files.insert(path.clone(), listed);
        Some(())
    }

    fn metadata(&mut self) -> Option<Metadata> {
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        Some(Metadata { mode, uid, gid, attributes: self.number()? })
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text.to_vec())
    }
}

/// Removes a name with all below it.
fn remove(path: &[u8], files: &mut BTreeMap<Vec<u8>, Listed>) {
    files.remove(path);
    let below = [path, b"/"].concat();
    let after = files.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
    let gone: Vec<_> = after.map(|(path, _)| path.clone()).collect();
    for path in gone {
        files.remove(&path);
    }
}

/// Whether an attribute counts: not those by which overlayfs, SELinux and ACLs add their own.
pub fn is_counted(attribute: &[u8]) -> bool {
    !(attribute.starts_with(b"trusted.overlay.")
        || attribute.starts_with(b"system.")
        || attribute == b"security.selinux")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn begun() -> (tempfile::TempDir, Inventory) {
        let scratch = tempfile::tempdir().unwrap();
        let inventory = Inventory::create(scratch.path()).unwrap();
        (scratch, inventory)
    }

    #[test]
    fn what_is_removed_takes_all_below_it_along() {
        let (scratch, mut log) = begun();
        for path in [&b"a"[..], b"a/b", b"a/b/c", b"a.b", b"ab"] {
            log.implied(path);
        }
        log.removed(b"a");
        log.whiteout(b"a");
        log.hard_link(b"link", b"a");
        log.finish().unwrap();
        let files = read_inventory(scratch.path()).unwrap();
        let names: Vec<_> = files.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["", "a", "a.b", "ab", "link"]);
        assert_eq!(files[&b"a"[..]], Listed::Whiteout);
    }

    proptest! {
        #[test]
        fn names_come_back(paths in proptest::collection::vec("[a-c/]{0,6}|.{0,200}", 0..20)) {
            let (scratch, mut log) = begun();
            for path in &paths {
                log.whiteout(path.as_bytes());
            }
            log.finish().unwrap();
            let files = read_inventory(scratch.path()).unwrap();
            prop_assert!(paths.iter().all(|path| files.get(path.as_bytes()) == Some(&Listed::Whiteout)));
        }

        #[test]
        fn damage_is_noticed_and_nothing_panics(at in 0usize..80, with in any::<u8>(), cut in 0usize..80) {
            let (scratch, mut log) = begun();
            log.implied(b"usr/lib");
            log.hard_link(b"usr/lib64", b"usr/lib");
            log.removed(b"usr/lib/x");
            log.finish().unwrap();
            let mut bytes = std::fs::read(scratch.path().join(INVENTORY)).unwrap();
            prop_assert!(replay(&bytes).is_some());
            let at = at % bytes.len();
            prop_assume!(bytes[at] != with);
            bytes[at] = with;
            prop_assert!(replay(&bytes).is_none());
            prop_assert!(replay(&bytes[..cut.min(bytes.len())]).is_none());
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut log = MAGIC.to_vec();
            log.append(&mut bytes);
            let mut crc = Crc::new();
            crc.update(&log);
            log.push(b'E');
            log.extend_from_slice(&crc.sum().to_le_bytes());
            let _ = replay(&log);
        }
    }
}
