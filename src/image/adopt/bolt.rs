//! Reads the databases of containerd, which are bbolt files (go.etcd.io/bbolt, file format version 2).
//!
//! ```text
//!  page 0, 1   meta: page size, root bucket, transaction, checksum; the valid one of the later transaction counts
//!  branch      (key, page)...          leaf      (key, value | bucket)...
//!  bucket      root page; 0: the leaf page follows in the value itself
//! ```
//!
//! Numbers are in the machine's own byte order. The file is taken to be hostile: every offset is checked against it, and
//! no walk visits more pages than it has. It may be written meanwhile: bbolt never changes a page that the last
//! transaction uses, so a copy is whole when the last transaction is the same before and after.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::AdoptError;
use crate::sys::fs;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
/// Of a leaf's element: its value is a bucket.
const BUCKET: u32 = 0x01;

const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const BUCKET_HEADER: usize = 16;
/// The part of a meta page that its checksum covers.
const META_BODY: usize = 56;

/// The metadata of thousands of images stays far below.
const LARGEST: u64 = 512 << 20;

/// Reads that found a transaction ending in the middle.
const MOST_ATTEMPTS: usize = 20;

const PAGE_SIZES: std::ops::RangeInclusive<usize> = 512..=1 << 20;

/// A database, read into memory.
pub(super) struct Bolt {
    bytes: Vec<u8>,
    page_size: usize,
    root: u64,
}

/// A bucket: keys with values or further buckets.
#[derive(Clone, Copy)]
pub(super) struct Bucket<'a> {
    bolt: &'a Bolt,
    page: Page<'a>,
}

/// What a key stands for.
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    Bucket(Bucket<'a>),
}

/// What is wrong with a file.
type Broken = &'static str;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: usize,
    root: u64,
    transaction: u64,
}

/// A page with its overflow.
#[derive(Clone, Copy)]
struct Page<'a> {
    bytes: &'a [u8],
    flags: u16,
    count: usize,
}

impl Bolt {
    /// Reads the database at `path`, which may be in use.
    pub(super) fn read(path: &Path) -> Result<Self, AdoptError> {
        let fail = |source| AdoptError::Read { path: path.to_owned(), source };
        let broken = |reason| AdoptError::Database { path: path.to_owned(), reason };
        for _ in 0..MOST_ATTEMPTS {
            let bytes = fs::read_bounded(path, LARGEST).map_err(fail)?;
            let meta = meta(&bytes).map_err(broken)?;
            let mut start = Vec::new();
            let file = File::open(path).map_err(fail)?;
            file.take(2 * *PAGE_SIZES.end() as u64).read_to_end(&mut start).map_err(fail)?;
            if self::meta(&start) == Ok(meta) {
                return Ok(Self { bytes, page_size: meta.page_size, root: meta.root });
            }
        }
        Err(broken("it changes too fast to be read: stop its owner"))
    }

    #[cfg(test)]
    pub(super) fn of(bytes: Vec<u8>) -> Result<Self, Broken> {
        let meta = meta(&bytes)?;
        Ok(Self { bytes, page_size: meta.page_size, root: meta.root })
    }

    pub(super) fn root(&self) -> Result<Bucket<'_>, Broken> {
        Ok(Bucket { bolt: self, page: self.page(self.root)? })
    }

    fn page(&self, number: u64) -> Result<Page<'_>, Broken> {
        let start = usize::try_from(number).ok().and_then(|number| number.checked_mul(self.page_size));
        let bytes = start.and_then(|start| self.bytes.get(start..)).ok_or("a page is beyond its end")?;
        let overflow = u32_at(bytes, 12).ok_or("a page is cut off")? as usize;
        let length = overflow.checked_add(1).and_then(|pages| pages.checked_mul(self.page_size));
        Page::new(length.and_then(|length| bytes.get(..length)).ok_or("a page is cut off")?)
    }

    /// No walk has a reason to visit more.
    fn pages(&self) -> usize {
        self.bytes.len() / self.page_size
    }
}

impl<'a> Bucket<'a> {
    /// All keys with what they stand for, in order.
    pub(super) fn entries(&self) -> Result<Vec<(&'a [u8], Value<'a>)>, Broken> {
        let mut entries = Vec::new();
        let mut pending = vec![self.page];
        let mut visited = 0;
        while let Some(page) = pending.pop() {
            visited += 1;
            if visited > self.bolt.pages() + 1 {
                return Err("its pages go in a circle");
            }
            match page.flags {
                LEAF => {
                    for index in 0..page.count {
                        let (key, flags, value) = page.leaf(index)?;
                        entries.push((key, self.value(flags, value)?));
                    }
                }
                BRANCH => {
                    for index in (0..page.count).rev() {
                        pending.push(self.bolt.page(page.branch(index)?.1)?);
                    }
                }
                _ => return Err("a page is neither branch nor leaf"),
            }
        }
        Ok(entries)
    }

    /// What a key stands for.
    pub(super) fn get(&self, wanted: &[u8]) -> Result<Option<Value<'a>>, Broken> {
        let mut page = self.page;
        for _ in 0..=self.bolt.pages() {
            if page.flags == LEAF {
                for index in 0..page.count {
                    let (key, flags, value) = page.leaf(index)?;
                    if key == wanted {
                        return self.value(flags, value).map(Some);
                    }
                }
                return Ok(None);
            }
            if page.flags != BRANCH {
                return Err("a page is neither branch nor leaf");
            }
            let mut child = None;
            for index in 0..page.count {
                let (key, number) = page.branch(index)?;
                if child.is_some() && key > wanted {
                    break;
                }
                child = Some(number);
            }
            page = self.bolt.page(child.ok_or("a branch is empty")?)?;
        }
        Err("its pages go in a circle")
    }

    /// The bucket at the end of a path of keys.
    pub(super) fn bucket(&self, path: &[&str]) -> Result<Option<Bucket<'a>>, Broken> {
        let mut at = *self;
        for name in path {
            match at.get(name.as_bytes())? {
                Some(Value::Bucket(bucket)) => at = bucket,
                Some(Value::Bytes(_)) | None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The bytes of a key.
    pub(super) fn bytes(&self, key: &str) -> Result<Option<&'a [u8]>, Broken> {
        Ok(match self.get(key.as_bytes())? {
            Some(Value::Bytes(bytes)) => Some(bytes),
            Some(Value::Bucket(_)) | None => None,
        })
    }

    fn value(&self, flags: u32, value: &'a [u8]) -> Result<Value<'a>, Broken> {
        if flags & BUCKET == 0 {
            return Ok(Value::Bytes(value));
        }
        let page = match u64_at(value, 0).ok_or("a bucket is cut off")? {
            0 => Page::new(value.get(BUCKET_HEADER..).ok_or("a bucket is cut off")?)?,
            root => self.bolt.page(root)?,
        };
        Ok(Value::Bucket(Bucket { bolt: self.bolt, page }))
    }
}

impl<'a> Page<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Broken> {
        let flags = u16_at(bytes, 8).ok_or("a page is cut off")?;
        let count = u16_at(bytes, 10).ok_or("a page is cut off")?.into();
        Ok(Self { bytes, flags, count })
    }

    /// Key and page of an element.
    fn branch(&self, index: usize) -> Result<(&'a [u8], u64), Broken> {
        let at = PAGE_HEADER + index * ELEMENT;
        let number = |offset| u32_at(self.bytes, at + offset).map(|n| n as usize);
        let (Some(position), Some(length), Some(page)) = (number(0), number(4), u64_at(self.bytes, at + 8))
        else {
            return Err("an element is cut off");
        };
        Ok((self.part(at, position, length)?, page))
    }

    /// Key, flags and value of an element.
    fn leaf(&self, index: usize) -> Result<(&'a [u8], u32, &'a [u8]), Broken> {
        let at = PAGE_HEADER + index * ELEMENT;
        let number = |offset| u32_at(self.bytes, at + offset).map(|n| n as usize);
        let (Some(flags), Some(position), Some(key), Some(value)) =
            (u32_at(self.bytes, at), number(4), number(8), number(12))
        else {
            return Err("an element is cut off");
        };
        let after = position.checked_add(key).ok_or("an element is cut off")?;
        Ok((self.part(at, position, key)?, flags, self.part(at, after, value)?))
    }

    fn part(&self, at: usize, position: usize, length: usize) -> Result<&'a [u8], Broken> {
        let start = at.checked_add(position);
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        range.and_then(|range| self.bytes.get(range)).ok_or("an element is cut off")
    }
}

/// The valid meta page of the later transaction. The second one's place depends on the page size, which only a valid
/// page tells.
fn meta(bytes: &[u8]) -> Result<Meta, Broken> {
    let first = meta_at(bytes, 0);
    let sizes = (9..=20).map(|bits| 1usize << bits);
    let second = match first {
        Some(first) => meta_at(bytes, first.page_size),
        None => sizes.into_iter().find_map(|size| meta_at(bytes, size).filter(|meta| meta.page_size == size)),
    };
    let metas = [first, second].into_iter().flatten();
    metas.max_by_key(|meta| meta.transaction).ok_or("it is not a database of bbolt, or damaged")
}

fn meta_at(bytes: &[u8], at: usize) -> Option<Meta> {
    let body = bytes.get(at..)?.get(PAGE_HEADER..PAGE_HEADER + META_BODY + 8)?;
    let is_meta =
        u16_at(bytes, at + 8)? & META != 0 && u32_at(body, 0)? == MAGIC && u32_at(body, 4)? == VERSION;
    let page_size = u32_at(body, 8)? as usize;
    let is_sane = page_size.is_power_of_two() && PAGE_SIZES.contains(&page_size);
    let is_whole = u64_at(body, META_BODY)? == fnv64a(&body[..META_BODY]);
    let meta = Meta { page_size, root: u64_at(body, 16)?, transaction: u64_at(body, 48)? };
    (is_meta && is_sane && is_whole).then_some(meta)
}

fn fnv64a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}
