//! Archives from arbitrary bytes: each byte is a choice, so that every input is an archive and small changes of the one are
//! small changes of the other.

use std::path::Path;

/// Components of paths: few, so that entries meet each other.
const NAMES: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    "",
    ".",
    "..",
    ".wh.a",
    ".wh.b",
    ".wh..wh..opq",
    ".wh..wh.plnk",
    ".wh..",
    ".wh...",
    ".wh.",
    "\u{e4}",
    "a-longer-name-that-does-not-end-before-a-hundred-bytes-are-full-with-it-and-so-needs-an-extension-x",
];

/// Types of entries, of all kinds and of none.
const TYPES: &[u8; 16] = b"00555112234670SD";

/// Keys of PAX records.
const KEYS: [&str; 16] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.trusted.overlay.opaque",
    "SCHILY.xattr.security.capability",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.map",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.numblocks",
    "GNU.sparse.name",
];

/// Values of PAX records, besides paths.
const VALUES: [&str; 16] = [
    "0",
    "1",
    "-1",
    "7.5",
    "-0.25",
    "1e9",
    "",
    "4096",
    "18446744073709551615",
    "99999999999999999999999",
    "0,1,5,1",
    "1,1",
    "5,1,0,1",
    "\0",
    "x",
    " 8",
];

/// The choices, one byte each; zero when there are none left.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn of<'t, T: ?Sized>(&mut self, list: &[&'t T]) -> &'t T {
        list[usize::from(self.byte()) % list.len()]
    }

    /// Up to seven components; now and then many.
    fn path(&mut self) -> String {
        let shape = self.byte();
        let count = if shape == 0xff { 40 } else { 1 + usize::from(shape & 3) };
        let mut path = String::from(if shape & 4 == 4 { "/" } else { "" });
        for index in 0..count {
            path.push_str(if index == 0 { "" } else { "/" });
            path.push_str(if shape == 0xff { "d" } else { self.of(&NAMES) });
        }
        path.push_str(if shape & 8 == 8 { "/" } else { "" });
        path
    }

    /// Where a link leads: a path, up and away, or to what it must not reach.
    fn target(&mut self, outside: &Path) -> String {
        match self.byte() % 8 {
            0 => outside.display().to_string(),
            1 => format!("{}/canary", outside.display()),
            2 => "../../outside".to_owned(),
            3 => "/".to_owned(),
            4 => "..".to_owned(),
            _ => self.path(),
        }
    }
}

/// The archive that `data` describes; `outside` is a directory in which nothing must happen.
pub fn from_bytes(data: &[u8], outside: &Path) -> Vec<u8> {
    let mut choices = Choices(data);
    let mut tar = Vec::new();
    while !choices.0.is_empty() && tar.len() < 1 << 18 {
        match choices.byte() {
            0xfe => tar.extend([0; 512]),
            0xfd => tar.truncate(tar.len() - usize::from(choices.byte()).min(tar.len())),
            0xfc => damage(&mut tar, &mut choices),
            form => entry(&mut tar, form, &mut choices, outside),
        }
    }
    if data.len() % 4 != 0 {
        tar.extend([0; 1024]);
    }
    tar
}

fn entry(tar: &mut Vec<u8>, form: u8, choices: &mut Choices<'_>, outside: &Path) {
    let kind = TYPES[usize::from(choices.byte()) % TYPES.len()];
    let (path, link) = (choices.path(), choices.target(outside));
    if form & 1 == 1 {
        pax(tar, choices, outside);
    }
    if form & 2 == 2 && (path.len() > 100 || form & 4 == 4) {
        long(tar, b'L', path.as_bytes());
    }
    if form & 8 == 8 {
        long(tar, b'K', link.as_bytes());
    }
    let size = match kind {
        b'0' | b'7' | b'S' => u64::from(choices.byte()) * 13,
        _ if form & 0x70 == 0x70 => 5,
        _ => 0,
    };
    let mut header = header(kind, path.as_bytes(), size);
    put(&mut header, 157, &link.as_bytes()[..link.len().min(100)]);
    put(&mut header, 329, format!("{:07o}", choices.byte() % 3).as_bytes());
    put(&mut header, 337, format!("{:07o}", choices.byte() % 3).as_bytes());
    if kind == b'S' {
        sparse(&mut header, choices);
    }
    if form & 0x30 == 0x30 {
        // A number in base 256, which may be negative or enormous.
        let field = [100, 108, 116, 124, 136][usize::from(choices.byte()) % 5];
        let sign = [0x80, 0xff][usize::from(choices.byte()) % 2];
        put(&mut header, field, &[sign, 0, 0, choices.byte(), choices.byte(), 0, 0, choices.byte()]);
    }
    finish(tar, header);
    content(tar, size);
}

/// The extensions of one entry, or of all that follow.
fn pax(tar: &mut Vec<u8>, choices: &mut Choices<'_>, outside: &Path) {
    let mut records = Vec::new();
    let shape = choices.byte();
    for _ in 0..=shape & 3 {
        let key = choices.of(&KEYS);
        let value = match choices.byte() {
            0xff => "v".repeat(5000),
            byte if byte & 0x80 == 0x80 => choices.target(outside),
            byte => VALUES[usize::from(byte) % VALUES.len()].to_owned(),
        };
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        let length = if shape == 0xff { length + usize::from(choices.byte()) } else { length };
        records.extend(format!("{length}{rest}").into_bytes());
    }
    let kind = if shape & 0x1c == 0x1c { b'g' } else { b'x' };
    finish(tar, header(kind, b"pax", records.len() as u64));
    tar.extend(&records);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// GNU's form of a long name.
fn long(tar: &mut Vec<u8>, kind: u8, name: &[u8]) {
    finish(tar, header(kind, b"././@LongLink", name.len() as u64 + 1));
    tar.extend(name);
    tar.push(0);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Up to four pieces in GNU's old form, and the length of the whole.
fn sparse(header: &mut [u8; 512], choices: &mut Choices<'_>) {
    put(header, 257, b"ustar  \0");
    for index in 0..usize::from(choices.byte() % 5) {
        let (offset, length) = (u32::from(choices.byte()) * 7, u32::from(choices.byte()));
        put(header, 386 + index * 24, format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
    put(header, 482, &[choices.byte() & 1]);
    put(header, 483, format!("{:011o}\0", u32::from(choices.byte()) * 41).as_bytes());
}

fn header(kind: u8, path: &[u8], size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    put(&mut header, 0, &path[..path.len().min(100)]);
    put(&mut header, 100, b"0000644\0");
    put(&mut header, 108, b"0000000\0");
    put(&mut header, 116, b"0000000\0");
    put(&mut header, 124, format!("{size:011o}\0").as_bytes());
    put(&mut header, 136, b"00000000007\0");
    header[156] = kind;
    put(&mut header, 257, b"ustar\x0000");
    header
}

/// Appends a header with its checksum.
fn finish(tar: &mut Vec<u8>, mut header: [u8; 512]) {
    put(&mut header, 148, b"        ");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
}

fn content(tar: &mut Vec<u8>, size: u64) {
    tar.extend((0..size).map(|index| b'0' + (index % 10) as u8));
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Changes one byte of what is there.
fn damage(tar: &mut [u8], choices: &mut Choices<'_>) {
    let at = usize::from(choices.byte()) * 256 + usize::from(choices.byte());
    let value = choices.byte();
    let len = tar.len();
    if len > 0 {
        tar[at % len] = value;
    }
}

fn put(header: &mut [u8; 512], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}
