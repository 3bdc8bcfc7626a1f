//! File system calls on directory handles, for trees whose content is not to be trusted.
//!
//! Whatever is opened here is opened with openat2(2) below a directory handle, and neither symbolic links nor mount points
//! are crossed on the way; a name that another process or an archive swapped for a link gives ELOOP, never another file.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

pub use rustix::fs::{FlockOperation, Gid, Stat, Timespec, Timestamps, Uid, makedev};

/// The largest extended attribute that Linux keeps (XATTR_SIZE_MAX).
const XATTR_SIZE_MAX: usize = 65_536;

/// How often [`lock_soon`] tries, and how far apart.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Where an overlay records that a directory hides those below it.
const OPAQUE: &str = "trusted.overlay.opaque";

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

/// Opens the directory at `path`, which the caller trusts.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory at `path` below `dir`; a link on the way is ELOOP, a file ENOTDIR.
pub fn open_directory_beneath(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), beneath())
}

/// Opens the regular file `name` in `dir` for reading, without waiting on a FIFO or acting on a device.
pub fn open_file_beneath(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), beneath())
}

/// Opens what is at `path`, of whatever kind, to name it and not to read it; a link on the way is ELOOP, the last is opened itself.
pub fn open_entry(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// Opens `name` in `dir`, of whatever kind, to name it and not to read it: a link itself, and no mount (EXDEV).
pub fn open_entry_beneath(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), beneath())
}

/// Creates the file `name` in `dir`, which must not exist, readable by its owner alone.
pub fn create_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, beneath())
}

/// Creates the directory `name` in `dir` with `mode`, cut by the process's umask.
pub fn make_directory(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode))
}

/// Creates the symbolic link `name` in `dir`.
pub fn make_symlink(dir: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> Result<(), Errno> {
    rustix::fs::symlinkat(target, dir, name)
}

/// Links `name` in `dir` to the file `source_name` in `source_dir`, itself even where that is a symbolic link.
pub fn make_hard_link(
    source_dir: BorrowedFd<'_>,
    source_name: &[u8],
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), Errno> {
    rustix::fs::linkat(source_dir, source_name, dir, name, AtFlags::empty())
}

/// Creates the device or FIFO `name` in `dir`.
pub fn make_node(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
    major: u32,
    minor: u32,
) -> Result<(), Errno> {
    rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
}

/// Creates an overlay whiteout: a character device 0:0.
pub fn make_whiteout(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    make_node(dir, name, FileType::CharacterDevice, 0, 0)
}

/// The metadata of `name` in `dir`, of the link itself where it is one.
pub fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether `stat` is that of an overlay whiteout.
pub fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The type of file that `stat` tells of.
pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The target of the symbolic link `name` in `dir`.
pub fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// Sets owner and mode, set-id bits included, of what is open.
pub fn set_owner_and_mode(fd: BorrowedFd<'_>, uid: u32, gid: u32, mode: u32) -> Result<(), Errno> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))
}

/// Sets the owner of `name` in `dir`, of the link itself where it is one.
pub fn set_owner_at(dir: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets the mode of `name` in `dir`, which must not be a symbolic link.
pub fn set_mode_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
}

/// Sets access and modification time of what is open to `time`.
pub fn set_time(fd: BorrowedFd<'_>, time: Timespec) -> Result<(), Errno> {
    rustix::fs::futimens(fd, &Timestamps { last_access: time, last_modification: time })
}

/// Sets both times of `name` in `dir`, of the link itself where it is one.
pub fn set_time_at(dir: BorrowedFd<'_>, name: &[u8], time: Timespec) -> Result<(), Errno> {
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets an extended attribute of what is open.
pub fn set_xattr(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
}

/// Sets an extended attribute of `entry` in `dir`, of the link itself where it is one.
pub fn set_xattr_at(dir: BorrowedFd<'_>, entry: &[u8], name: &[u8], value: &[u8]) -> Result<(), Errno> {
    // There is no setxattrat(2) before Linux 6.13; the handle's link in /proc names exactly this directory.
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(entry);
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
}

/// An extended attribute of what is open; `None` when it is not set or the file system keeps none.
pub fn xattr(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; XATTR_SIZE_MAX];
    match rustix::fs::fgetxattr(fd, name, value.as_mut_slice()) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// An extended attribute of what [`open_entry`] has opened; `None` when it is not set or the file system keeps none.
pub fn entry_xattr(entry: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; XATTR_SIZE_MAX];
    match rustix::fs::getxattr(entry_path(entry), name, value.as_mut_slice()) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets an extended attribute of what [`open_entry`] has opened.
pub fn set_entry_xattr(entry: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::setxattr(entry_path(entry), name, value, XattrFlags::empty())
}

/// The kernel takes no such handle for attributes, but its link in /proc names exactly what was opened.
fn entry_path(entry: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", entry.as_raw_fd())
}

/// The metadata of what is open.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::fstat(fd)
}

/// The names of what is in a directory.
pub fn entries(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// The names of all extended attributes of what is open.
pub fn xattr_names(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![0; XATTR_SIZE_MAX];
    match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
        Ok(len) => {
            let names = names[..len].split(|&b| b == 0).filter(|name| !name.is_empty());
            Ok(names.map(<[u8]>::to_vec).collect())
        }
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Makes a directory hide, in an overlay, what lies at its path in the layers below.
pub fn set_opaque(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    set_xattr(dir, OPAQUE.as_bytes(), b"y")
}

/// Whether a directory hides, in an overlay, what lies at its path in the layers below.
pub fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, value.as_mut_slice()) {
        Ok(len) => Ok(len == 1 && value[0] == b'y'),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Renames within one file system; a target that exists is EEXIST, never replaced.
pub fn rename_new(from: &Path, to: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE)
}

/// Lets two paths of one file system change places in one step.
pub fn exchange(one: &Path, other: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, RenameFlags::EXCHANGE)
}

/// Moves `name` from one directory into another under a new name, never over something that exists.
pub fn move_entry(
    from: BorrowedFd<'_>,
    name: &[u8],
    to: BorrowedFd<'_>,
    new_name: &[u8],
) -> Result<(), Errno> {
    rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE)
}

/// Removes the file or link `name` in `dir`; a directory is EISDIR.
pub fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
}

/// Flushes the whole file system of what is open. Reports also what could not be written since `fd` was opened, unless this
/// has reported it already (Linux 5.8).
pub fn sync_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// Flushes the names in the directory `path`.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fsync(open_directory(path)?)?)
}

/// Takes an exclusive lock for as long as `file` is open; `false` when another holds it.
pub fn try_lock(file: impl AsFd) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// [`try_lock`], again and again for a tenth of a second. Any process that is just being started holds copies of its parent's
/// locks until it is another program, even where the parent is gone. Blocks.
pub fn lock_soon(file: impl AsFd) -> io::Result<bool> {
    for _ in 0..LOCK_ATTEMPTS {
        if try_lock(&file)? {
            return Ok(true);
        }
        thread::sleep(LOCK_PAUSE);
    }
    Ok(false)
}

/// Waits for an exclusive lock of `file`, which lasts until [`unlock`] or until the file is closed.
pub fn lock(file: impl AsFd) -> io::Result<()> {
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Gives back the lock of `file`.
pub fn unlock(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::Unlock)?)
}

/// Removes everything in `dir`, going on past errors; the first of them is returned.
///
/// A subdirectory's own subdirectories are moved up into `dir` before it is removed, so that no depth of nesting costs
/// stack or handles, and an interrupted run can be taken up again at any point.
pub fn empty_directory(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mut serial = 0u64;
    loop {
        let mut failed = None;
        let (subdirectories, mut progress) = unlink_files(dir, &mut failed)?;
        for name in &subdirectories {
            match dissolve(dir, name, &mut serial) {
                Ok(()) => progress = true,
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        match failed {
            Some(e) if !progress => return Err(e.into()),
            None if subdirectories.is_empty() => return Ok(()),
            _ => {}
        }
    }
}

/// Removes the subdirectory `name`, whose own subdirectories move up into `dir`.
fn dissolve(dir: BorrowedFd<'_>, name: &[u8], serial: &mut u64) -> Result<(), Errno> {
    let child = open_directory_beneath(dir, name)?;
    let mut failed = None;
    let (grandchildren, _) = unlink_files(child.as_fd(), &mut failed)?;
    for grandchild in grandchildren {
        loop {
            *serial += 1;
            match move_entry(child.as_fd(), &grandchild, dir, format!(".removed-{serial}").as_bytes()) {
                Err(Errno::EXIST) => {}
                result => break result?,
            }
        }
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        // A listing that changes while it is read may miss names: the next round finds them.
        Err(Errno::NOTEMPTY) if failed.is_none() => Ok(()),
        result => failed.map_or(result, Err),
    }
}

/// Unlinks what is not a directory; returns the directories, and whether something was removed.
fn unlink_files(dir: BorrowedFd<'_>, failed: &mut Option<Errno>) -> Result<(Vec<Vec<u8>>, bool), Errno> {
    let mut subdirectories = Vec::new();
    let mut progress = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match unlink(dir, name) {
            Ok(()) => progress = true,
            Err(Errno::ISDIR) => subdirectories.push(name.to_vec()),
            Err(Errno::NOENT) => {}
            Err(e) => *failed = failed.or(Some(e)),
        }
    }
    Ok((subdirectories, progress))
}

/// The names in a directory, without `.` and `..`.
pub fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The content of a file of at most `limit` bytes.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    match content.len() as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes"))),
        false => Ok(content),
    }
}

/// The path of `name` in `directory`; either may be empty.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if directory.is_empty() || name.is_empty() { b"" } else { b"/" };
    [directory, separator, name].concat()
}

/// Bytes as a path.
pub fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A path as bytes.
pub fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_any_depth_is_emptied() {
        let scratch = tempfile::tempdir().unwrap();
        let top = open_directory(scratch.path()).unwrap();
        let mut dir = open_directory(scratch.path()).unwrap();
        for _ in 0..2_500 {
            make_directory(dir.as_fd(), b"d", 0o755).unwrap();
            drop(create_file(dir.as_fd(), b"f").unwrap());
            dir = open_directory_beneath(dir.as_fd(), b"d").unwrap();
        }
        drop(dir);
        make_directory(top.as_fd(), b".removed-1", 0o755).unwrap();
        empty_directory(top.as_fd()).unwrap();
        assert_eq!(names(scratch.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_opened_through_a_link_or_above() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = open_directory(scratch.path()).unwrap();
        make_symlink(dir.as_fd(), b"link", b"/etc").unwrap();
        assert_eq!(open_directory_beneath(dir.as_fd(), b"link").unwrap_err(), Errno::LOOP);
        assert_eq!(open_file_beneath(dir.as_fd(), b"link/passwd").unwrap_err(), Errno::LOOP);
        assert_eq!(open_directory_beneath(dir.as_fd(), b"..").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn a_lock_has_one_holder() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        let first = std::fs::File::create(&path).unwrap();
        let second = std::fs::File::open(&path).unwrap();
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        assert!(!lock_soon(&second).unwrap());
        let holder = thread::spawn(move || {
            thread::sleep(LOCK_PAUSE * 5);
            drop(first);
        });
        assert!(lock_soon(&second).unwrap(), "its holder leaves soon");
        holder.join().unwrap();
    }
}
