//! The sources of volumes on the host: which directory or file is meant, and how the mount that holds it propagates.
//!
//! It only reads, but for one case: a pod's `hostPath` volume without a type may name what is not there yet, and gets a
//! directory, as with the peers. The host's mount table is read once for a container, and only where a mount propagates:
//! it has thousands of lines on a busy node.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::api;

/// Of a directory that is made because it is missing.
const MODE: u32 = 0o755;

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// The host's path, without symbolic links; of an image volume the path that the monitor gives it.
    pub path: PathBuf,
    /// How the mount that holds it propagates; `Private` where the volume asks for nothing else.
    pub propagation: SourcePropagation,
}

/// How a mount of the host propagates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcePropagation {
    /// Not at all.
    Private,
    /// It receives mounts.
    Slave,
    /// It receives and sends mounts.
    Shared,
}

/// Finds the sources of one container's mounts.
#[derive(Debug, Default)]
pub struct Sources {
    table: OnceCell<MountTable>,
}

impl Sources {
    /// The source of a mount of a host path.
    pub fn find(&self, mount: &api::Mount) -> io::Result<MountSource> {
        let path = resolve(Path::new(&mount.host_path))?;
        let propagation = match mount.propagation() {
            api::MountPropagation::PropagationPrivate => SourcePropagation::Private,
            api::MountPropagation::PropagationHostToContainer
            | api::MountPropagation::PropagationBidirectional => self.table()?.of(&path),
        };
        Ok(MountSource { path, propagation })
    }

    fn table(&self) -> io::Result<&MountTable> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let table = MountTable::parse(&fs::read_to_string("/proc/self/mountinfo")?);
        Ok(self.table.get_or_init(|| table))
    }
}

/// Links of /proc, such as a subPath that the kubelet names by its descriptor, may lead where their text does not: that has
/// no name on the host any more, or another one, and only what has one can be mounted into another mount namespace.
fn resolve(host_path: &Path) -> io::Result<PathBuf> {
    let nameless = || {
        let why = "it leads to something that has no path on the host, or another one than it says";
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    match fs::canonicalize(host_path) {
        Ok(path) if is_same(&path, host_path) => Ok(path),
        Ok(_) => Err(nameless()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match fs::metadata(host_path) {
            Ok(_) => Err(nameless()),
            Err(_) => make(host_path),
        },
        Err(e) => Err(e),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// A link that leads nowhere is left alone: whoever made it did not mean a directory of ours at its end.
fn make(host_path: &Path) -> io::Result<PathBuf> {
    let dangles = |path: &&Path| path.is_symlink() && !path.exists();
    if let Some(link) = host_path.ancestors().find(dangles) {
        let why = format!("{} is a symbolic link that leads nowhere", link.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    DirBuilder::new().recursive(true).mode(MODE).create(host_path)?;
    fs::canonicalize(host_path)
}

/// The host's mounts by their mount points; of several on one point the last, which hides the others.
#[derive(Debug)]
struct MountTable(HashMap<PathBuf, SourcePropagation>);

impl MountTable {
    fn parse(mountinfo: &str) -> Self {
        Self(mountinfo.lines().filter_map(parse_line).collect())
    }

    /// The propagation of the mount that holds `path`.
    fn of(&self, path: &Path) -> SourcePropagation {
        let found = path.ancestors().find_map(|point| self.0.get(point));
        found.copied().unwrap_or(SourcePropagation::Private)
    }
}

/// A line of proc_pid_mountinfo(5): the mount point is the fifth field; after one more come the optional ones, up to `-`.
fn parse_line(line: &str) -> Option<(PathBuf, SourcePropagation)> {
    let mut fields = line.split(' ');
    let point = unescape(fields.nth(4)?);
    let optional: Vec<_> = fields.skip(1).take_while(|field| *field != "-").collect();
    let has = |tag: &str| optional.iter().any(|field| field.starts_with(tag));
    let propagation = match (has("shared:"), has("master:")) {
        (true, _) => SourcePropagation::Shared,
        (false, true) => SourcePropagation::Slave,
        (false, false) => SourcePropagation::Private,
    };
    Some((point, propagation))
}

/// Blanks and backslashes are octal escapes in mountinfo.
fn unescape(field: &str) -> PathBuf {
    if !field.contains('\\') {
        return PathBuf::from(field);
    }
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(plain.iter().fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_innermost_and_last_mount_says_how_a_path_propagates() {
        let table = MountTable::parse(
            "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /mnt/a rw shared:7 - tmpfs t rw\n\
             3 1 0:6 / /mnt/a\\040b rw,nodev master:7 - tmpfs t rw\n4 2 0:7 / /mnt/a rw shared:8 master:7 - tmpfs t rw\n",
        );
        let of = |path: &str| table.of(Path::new(path));
        assert_eq!(of("/etc"), SourcePropagation::Private);
        assert_eq!(of("/mnt/a/x"), SourcePropagation::Shared);
        assert_eq!(of("/mnt/a b/x"), SourcePropagation::Slave);
        assert_eq!(of("/mnt/ab"), SourcePropagation::Private);
    }

    #[test]
    fn a_missing_source_is_made_as_a_directory_and_links_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b");
        assert!(resolve(&missing).unwrap().is_dir());
        symlink(&missing, dir.path().join("link")).unwrap();
        assert_eq!(resolve(&dir.path().join("link")).unwrap(), fs::canonicalize(missing).unwrap());
    }

    #[test]
    fn nothing_is_made_where_a_link_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        symlink(&target, &link).unwrap();
        for path in [link.clone(), link.join("below")] {
            let error = resolve(&path).unwrap_err().to_string();
            assert_eq!(error, format!("{} is a symbolic link that leads nowhere", link.display()));
        }
        assert!(!target.exists());
    }

    #[test]
    fn a_descriptor_of_a_process_is_what_it_has_open_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = fs::File::create(&path).unwrap();
        let link = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        assert_eq!(resolve(&link).unwrap(), fs::canonicalize(&path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(resolve(&link).unwrap_err().to_string().contains("no path on the host"));
        fs::write(format!("{} (deleted)", path.display()), "another").unwrap();
        assert!(resolve(&link).unwrap_err().to_string().contains("no path on the host"));
    }
}
