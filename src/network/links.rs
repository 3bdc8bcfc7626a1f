//! The counters of a pod's network interfaces: `/proc/net/dev` of its namespace.
//!
//! An open file of that name stays with the namespace in which it was opened, so one visit there is enough for all later
//! readings, and each of those is one pread(2). Unlike netlink it takes none of the locks that CNI plugins hold while they
//! work. The open file keeps the namespace, so it has to be closed when the pod gives its network back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sys::namespace;

/// What a pod's own interface is called, unless its CNI configuration says otherwise.
const DEFAULT: &str = "eth0";
/// Longer lists are cut: about 400 interfaces.
const LONGEST: usize = 64 << 10;
/// The kernel reads whole lines into a page; what leaves room there for one more was the last of them.
const PAGE: usize = 4096;
const LINE: usize = 512;

/// What one interface has carried since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Link {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

/// One direction of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The open file.
pub struct Links(File);

impl Links {
    /// Opens it in the namespace that is pinned at `path`, on a thread of its own. Blocks.
    pub fn open(path: &Path) -> io::Result<Self> {
        namespace::in_namespace(path, || File::open("/proc/thread-self/net/dev"))?.map(Self)
    }

    /// The interfaces of the namespace but for `lo`, the default one first: `eth0`, or whichever comes first. `scratch` is
    /// room that is used again for the next pod.
    pub fn read(&self, scratch: &mut Vec<u8>) -> io::Result<Vec<Link>> {
        let mut length = 0;
        while length < LONGEST {
            scratch.resize(scratch.len().max(length + PAGE), 0);
            let more = self.0.read_at(&mut scratch[length..], u64::try_from(length).unwrap_or(u64::MAX))?;
            length += more;
            if more < PAGE - LINE {
                break;
            }
        }
        Ok(parse(&scratch[..length]))
    }
}

/// Whatever is not a whole line of an interface is left out.
fn parse(text: &[u8]) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    for link in text.split_inclusive(|byte| *byte == b'\n').filter_map(link) {
        // Two that look alike would be one metric twice, for which who collects metrics refuses all of them.
        if !links.iter().any(|other| other.name == link.name) {
            links.push(link);
        }
    }
    if let Some(at) = links.iter().position(|link| link.name == DEFAULT) {
        links[..=at].rotate_right(1);
    }
    links
}

/// `  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0`: bytes, packets, errors, dropped and four more, received and then sent.
fn link(line: &[u8]) -> Option<Link> {
    let line = line.strip_suffix(b"\n")?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii();
    // Any bytes but blanks and slashes may be in it, and messages hold text alone.
    let name = std::str::from_utf8(name).map_or_else(|_| name.escape_ascii().to_string(), str::to_owned);
    if name.is_empty() || name == "lo" {
        return None;
    }
    let numbers = std::str::from_utf8(&line[colon + 1..]).ok()?;
    let mut numbers = numbers.split_ascii_whitespace().map(str::parse::<u64>);
    let mut traffic = || -> Option<Traffic> {
        let mut next = || numbers.next()?.ok();
        let traffic = Traffic { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? };
        (0..4).try_for_each(|_| next().map(drop))?;
        Some(traffic)
    };
    Some(Link { name, received: traffic()?, sent: traffic()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  171836    1210    0    0    0     0          0         0   171836    1210    0    0    0     0       0          0
  net1:       7       1    0    0    0     0          0         0        9       2    0    0    0     0       0          0
  eth0:    1322      15    3    4    0     0          0         0     2028      27    6    8    0     0       0          0
";

    #[test]
    fn the_default_interface_comes_first_and_the_loopback_is_none() {
        let found = parse(TEXT.as_bytes());
        assert_eq!(found.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["eth0", "net1"]);
        assert_eq!(found[0].received, Traffic { bytes: 1322, packets: 15, errors: 3, dropped: 4 });
        assert_eq!(found[0].sent, Traffic { bytes: 2028, packets: 27, errors: 6, dropped: 8 });
        let other = TEXT.replace("eth0", "wlan");
        assert_eq!(parse(other.as_bytes())[0].name, "net1", "any other, where there is no eth0");
    }

    #[test]
    fn a_line_that_is_cut_is_left_out() {
        for length in 0..TEXT.len() {
            let whole = TEXT.as_bytes()[..length].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(parse(&TEXT.as_bytes()[..length]).len(), whole.saturating_sub(3), "{length} bytes");
        }
    }

    #[test]
    fn names_are_text_and_none_is_there_twice() {
        let line = |name: &[u8]| [name, b": 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"].concat();
        let text = [line(b"a\xff"), line(br"a\xff"), line(b"b"), line("\u{e4}".as_bytes())].concat();
        let names: Vec<_> = parse(&text).into_iter().map(|link| link.name).collect();
        assert_eq!(names, [r"a\xff", "b", "\u{e4}"]);
    }

    #[test]
    fn the_loopback_of_a_new_namespace_alone_is_no_interface() {
        let directory = tempfile::tempdir().unwrap();
        let pin = directory.path().join("net");
        let request = namespace::NamespaceRequest { net: Some(pin.clone()), ..Default::default() };
        namespace::create_pinned(&request).unwrap();
        let links = Links::open(&pin);
        namespace::unpin(&pin).unwrap();
        assert_eq!(links.unwrap().read(&mut Vec::new()).unwrap(), []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            parse(&bytes);
        }
    }
}
