//! A tar writer that says exactly what is asked of it, honest or hostile: names with `..`, devices, whiteouts, pax records.
//!
//! The same entries give the same bytes: no clock, no users of this machine.

/// One entry of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    name: String,
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    link: String,
    device: (u32, u32),
    body: Vec<u8>,
    pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(name: &str, kind: u8, mode: u32) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            mode,
            owner: (0, 0),
            link: String::new(),
            device: (0, 0),
            body: Vec::new(),
            pax: Vec::new(),
        }
    }

    /// A regular file.
    pub fn file(name: &str, mode: u32, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new(name, b'0', mode) }
    }

    /// A directory.
    pub fn dir(name: &str, mode: u32) -> Self {
        Self::new(name, b'5', mode)
    }

    /// A symbolic link.
    pub fn symlink(name: &str, target: &str) -> Self {
        Self { link: target.to_owned(), ..Self::new(name, b'2', 0o777) }
    }

    /// A hard link to an earlier entry.
    pub fn hardlink(name: &str, target: &str) -> Self {
        Self { link: target.to_owned(), ..Self::new(name, b'1', 0o755) }
    }

    /// A character device.
    pub fn char_device(name: &str, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(name, b'3', 0o666) }
    }

    /// The whiteout of `name`: the layer below loses it.
    pub fn whiteout(name: &str) -> Self {
        let (dir, base) = name.rsplit_once('/').map_or(("", name), |(dir, base)| (dir, base));
        let slash = if dir.is_empty() { "" } else { "/" };
        Self::file(&format!("{dir}{slash}.wh.{base}"), 0o644, "")
    }

    /// An opaque mark: the layers below lose all that is in `dir`.
    pub fn opaque(dir: &str) -> Self {
        Self::file(&format!("{dir}/.wh..wh..opq"), 0o644, "")
    }

    /// The same entry, owned by `uid` and `gid`.
    pub fn owned(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// The same entry with another mode.
    pub fn with_mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The same entry with an extended attribute.
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.pax.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut pax = self.pax.clone();
        for (key, value) in [("path", &self.name), ("linkpath", &self.link)] {
            if value.len() > 100 {
                pax.push((key.to_owned(), value.clone().into_bytes()));
            }
        }
        if !pax.is_empty() {
            let records: Vec<u8> = pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            Self { body: records, ..Self::new("pax", b'x', 0o644) }.write_plain(out);
        }
        self.write_plain(out);
    }

    fn write_plain(&self, out: &mut Vec<u8>) {
        let mut header = [0u8; 512];
        put(&mut header[0..100], &self.name);
        put(&mut header[100..108], &format!("{:07o}", self.mode));
        put(&mut header[108..116], &format!("{:07o}", self.owner.0));
        put(&mut header[116..124], &format!("{:07o}", self.owner.1));
        put(&mut header[124..136], &format!("{:011o}", self.body.len()));
        put(&mut header[136..148], &format!("{:011o}", 1_700_000_000));
        header[148..156].fill(b' ');
        header[156] = self.kind;
        put(&mut header[157..257], &self.link);
        put(&mut header[257..265], "ustar\u{0}00");
        put(&mut header[329..337], &format!("{:07o}", self.device.0));
        put(&mut header[337..345], &format!("{:07o}", self.device.1));
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        put(&mut header[148..156], &format!("{sum:06o}\u{0} "));
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

/// The whole archive, with its two closing blocks.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        entry.write(&mut out);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn put(field: &mut [u8], text: &str) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}

/// `length key=value\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut total = rest + rest.to_string().len();
    if total.to_string().len() + rest != total {
        total = rest + total.to_string().len();
    }
    let mut record = format!("{total} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

#[test]
fn gnu_tar_reads_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("deep/{}/file", "x".repeat(120));
    let bytes = archive(&[
        Entry::dir("deep", 0o750).owned(7, 8),
        Entry::file(&long, 0o640, "body"),
        Entry::hardlink("again", &long),
        Entry::symlink("link", "deep"),
        Entry::file("tagged", 0o600, vec![b'y'; 700]).xattr("user.podd", b"yes"),
    ]);
    let path = dir.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    let out = std::process::Command::new("tar").args(["-tvf"]).arg(&path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("drwxr-x--- 7/8"), "{text}");
    assert!(text.contains(&format!("again link to {long}")), "{text}");
    assert!(text.contains("700 2023-11-14"), "{text}");
}
