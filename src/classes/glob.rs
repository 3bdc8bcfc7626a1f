//! Block devices of the host by patterns of paths: `*`, `?`, `[a-z]`, `[^a-z]` and `\` within one component, as in a shell.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sys;

/// A device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Device {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// A part of a component's pattern.
enum Part {
    Char(char),
    One,
    Any,
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// The whole block devices that a pattern matches, also through symbolic links. Partitions are none: the kernel limits only
/// whole devices.
pub(super) fn block_devices(pattern: &str) -> io::Result<BTreeSet<Device>> {
    let mut paths = vec![PathBuf::from("/")];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        let parts = parse(component)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is not a pattern"))?;
        paths = paths.iter().flat_map(|directory| below(directory, component, &parts)).collect();
    }
    Ok(paths.iter().filter_map(|path| block_device(path)).collect())
}

fn below(directory: &Path, component: &str, parts: &[Part]) -> Vec<PathBuf> {
    if !component.contains(['*', '?', '[', '\\']) {
        return vec![directory.join(component)];
    }
    // What is not a directory, or is just going away, holds nothing.
    let names = sys::fs::names(directory).unwrap_or_default();
    names.into_iter().filter(|name| matches(parts, name)).map(|name| directory.join(name)).collect()
}

fn block_device(path: &Path) -> Option<Device> {
    let found = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let partition = Path::new("/sys/dev/block").join(format!("{major}:{minor}/partition"));
    (!partition.exists()).then_some(Device { major, minor })
}

fn parse(component: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = component.chars();
    while let Some(c) = rest.next() {
        parts.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Char(rest.next()?),
            '[' => set(&mut rest)?,
            c => Part::Char(c),
        });
    }
    Some(parts)
}

fn set(rest: &mut std::str::Chars<'_>) -> Option<Part> {
    let negated = rest.as_str().starts_with(['^', '!']);
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        let from = match rest.next()? {
            ']' if !ranges.is_empty() => return Some(Part::Set { negated, ranges }),
            '\\' => rest.next()?,
            c => c,
        };
        let range = rest.as_str().starts_with('-') && !rest.as_str().starts_with("-]");
        let to = match range {
            true => rest.nth(1)?,
            false => from,
        };
        ranges.push((from, to));
    }
}

/// Goes back only to the last `*`, so that no pattern takes exponential time.
fn matches(parts: &[Part], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut part, mut at, mut star) = (0, 0, None);
    while at < name.len() {
        match parts.get(part) {
            Some(Part::Any) => {
                star = Some((part, at));
                part += 1;
            }
            Some(one) if one.is(name[at]) => (part, at) = (part + 1, at + 1),
            Some(_) | None => {
                let Some((last, taken)) = star else { return false };
                star = Some((last, taken + 1));
                (part, at) = (last + 1, taken + 1);
            }
        }
    }
    parts[part..].iter().all(|part| matches!(part, Part::Any))
}

impl Part {
    fn is(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One | Self::Any => true,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        matches(&parse(pattern).unwrap(), name)
    }

    #[test]
    fn a_pattern_matches_whole_names_as_in_a_shell() {
        for (pattern, name) in [
            ("vd[a-z]", "vdb"),
            ("vd?", "vdb"),
            ("*SSD*", "ata-SSD-1"),
            ("*a*b", "xaxbxb"),
            ("[^x]d[-a]", "sd-"),
            ("[!x]d\\*", "sd*"),
            ("loop0", "loop0"),
            ("*", ""),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("vd[a-z]", "vda1"), ("vd?", "vd"), ("*SSD", "SSDx"), ("[^x]d", "xd"), ("", "a"), ("a\\*", "ab")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        for pattern in ["[", "[]", "[a-", "a\\"] {
            assert!(parse(pattern).is_none(), "{pattern}");
        }
    }

    #[test]
    fn what_is_not_a_block_device_is_passed_over() {
        assert_eq!(block_devices("/dev/nul[l]").unwrap(), BTreeSet::new());
        assert_eq!(block_devices("/no/such/*").unwrap(), BTreeSet::new());
        assert!(block_devices("/dev/[").is_err());
    }
}
