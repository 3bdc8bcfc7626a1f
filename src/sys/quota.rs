//! Project quotas (quotactl(2), ioctl_xfs_fsgetxattr(2)): a file system counts what the files of a project take, and limits it.
//!
//! One form of the calls, that of XFS, serves all file systems: the kernel translates it for ext4. The file system is named by a
//! descriptor (quotactl_fd(2), Linux 5.14), so that no device has to be found.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The unit in which space is counted and limited, in bytes.
const BLOCK: u64 = 512;

/// New files in this directory belong to its project (FS_XFLAG_PROJINHERIT).
const INHERIT: u32 = 0x0000_0200;

/// FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR.
const GET_ATTRIBUTES: u32 = 0x801c_581f;
const SET_ATTRIBUTES: u32 = 0x401c_5820;

/// quotactl_fd(2) has this number on all architectures that Rust knows.
const SYS_QUOTACTL_FD: libc::c_long = 443;

const GET_QUOTA: u32 = 0x5803;
const SET_LIMITS: u32 = 0x5804;
const GET_STATE: u32 = 0x5805;
/// PRJQUOTA.
const OF_PROJECTS: u32 = 2;

const COUNTS_PROJECTS: u16 = 1 << 4;
const LIMITS_PROJECTS: u16 = 1 << 5;

const VERSION: i8 = 1;
/// FS_PROJ_QUOTA.
const FOR_A_PROJECT: i8 = 1 << 1;
/// FS_DQ_BSOFT and FS_DQ_BHARD.
const SPACE_LIMITS: u16 = 1 << 2 | 1 << 3;

/// `struct fsxattr` of <linux/fs.h>.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_disk_quota` of <linux/dqblk_xfs.h>.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    space_hard: u64,
    space_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    space: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime_hard: u64,
    realtime_soft: u64,
    realtime: u64,
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [u8; 10],
}

/// `struct fs_quota_stat` of <linux/dqblk_xfs.h>.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    padding: i8,
    files: [u64; 6],
    numbers: [u32; 4],
    warnings: [u16; 2],
}

const _: () = assert!(size_of::<Attributes>() == 28);
const _: () = assert!(size_of::<DiskQuota>() == 112);
const _: () = assert!(size_of::<State>() == 80);

/// The project that a file belongs to, and whether new files in it, where it is a directory, will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Its number; 0 is none.
    pub id: u32,
    /// Whether new files get it.
    pub inherited: bool,
}

/// What a file system does for projects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// It counts what they take.
    pub counts: bool,
    /// It refuses what goes beyond their limits.
    pub limits: bool,
}

/// What a project takes, and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Space in bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// The most bytes that it may take; 0 is no limit.
    pub limit: u64,
}

/// The project of what is open.
pub fn project(file: BorrowedFd<'_>) -> Result<Project, Errno> {
    let attributes = attributes(file)?;
    Ok(Project { id: attributes.project, inherited: attributes.flags & INHERIT != 0 })
}

/// Gives a directory to a project, with all that will be made in it.
pub fn set_project(directory: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    let mut attributes = attributes(directory)?;
    attributes.project = id;
    attributes.flags |= INHERIT;
    // SAFETY: the descriptor is open for the length of the call, and the kernel reads a `struct fsxattr`, whose size is checked
    // above, from memory that is borrowed for the call.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), SET_ATTRIBUTES as _, &raw const attributes) };
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

fn attributes(file: BorrowedFd<'_>) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    // SAFETY: the descriptor is open for the length of the call, and the kernel writes a `struct fsxattr`, whose size is checked
    // above and whose every content is valid, into memory that is borrowed for the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GET_ATTRIBUTES as _, &raw mut attributes) };
    if result < 0 { Err(last_error()) } else { Ok(attributes) }
}

/// What the file system of what is open does for projects.
pub fn abilities(file: BorrowedFd<'_>) -> Result<Abilities, Errno> {
    let mut state = State { version: VERSION, ..State::default() };
    match quotactl(file, GET_STATE, 0, &mut state) {
        Ok(()) => Ok(Abilities {
            counts: state.flags & COUNTS_PROJECTS != 0,
            limits: state.flags & LIMITS_PROJECTS != 0,
        }),
        // No quota of any kind is on.
        Err(Errno::NOSYS | Errno::SRCH) => Ok(Abilities { counts: false, limits: false }),
        Err(e) => Err(e),
    }
}

/// What a project takes on the file system of what is open.
pub fn count(file: BorrowedFd<'_>, id: u32) -> Result<Count, Errno> {
    let mut quota = DiskQuota::default();
    match quotactl(file, GET_QUOTA, id, &mut quota) {
        Ok(()) => Ok(Count {
            bytes: quota.space.saturating_mul(BLOCK),
            inodes: quota.inodes,
            limit: quota.space_hard.saturating_mul(BLOCK),
        }),
        // XFS has nothing to say of a project that never had a file.
        Err(Errno::NOENT) => Ok(Count::default()),
        Err(e) => Err(e),
    }
}

/// Limits what a project may take, in bytes, rounded up to whole blocks; 0 lifts the limit.
pub fn set_limit(file: BorrowedFd<'_>, id: u32, bytes: u64) -> Result<(), Errno> {
    let mut quota = DiskQuota {
        version: VERSION,
        flags: FOR_A_PROJECT,
        fields: SPACE_LIMITS,
        id,
        space_hard: bytes.div_ceil(BLOCK),
        ..DiskQuota::default()
    };
    quotactl(file, SET_LIMITS, id, &mut quota)
}

/// The structures that [`quotactl`] may be called with: plain numbers in the kernel's layout, valid with any content.
trait Argument {}
impl Argument for DiskQuota {}
impl Argument for State {}

fn quotactl<T: Argument>(file: BorrowedFd<'_>, command: u32, id: u32, argument: &mut T) -> Result<(), Errno> {
    let command = command << 8 | OF_PROJECTS;
    // SAFETY: the descriptor is open for the length of the call. The three commands read and write one `struct fs_disk_quota` or
    // `struct fs_quota_stat`, as their callers here pass it; the sizes are checked above, and any content is a valid value.
    let result = unsafe {
        libc::syscall(SYS_QUOTACTL_FD, file.as_raw_fd(), command, id, std::ptr::from_mut(argument))
    };
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
