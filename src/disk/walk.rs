//! One walk over the files of a directory, as du(1) does it, but in steps and with bounded means.
//!
//! Two directories are open at any time, of whatever depth. The way back leads through `..`, to a directory that must be
//! the one that the walk came from: a container moves its files while they are counted. Nothing is followed: no symbolic link,
//! no mount. Of a file with several names each name counts for its share, which needs no memory and comes to the whole, since all
//! the names are in one layer.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;

use crate::sys::fs;

/// The deepest level that is looked at; each costs 16 bytes of memory.
const MAX_DEPTH: usize = 500_000;

/// What a directory is read into. When the walk comes back from a subdirectory it is read anew from there on, so a large
/// buffer would be filled in vain.
const BUFFER: usize = 4096;

/// The time is looked at after so many entries.
const ENTRIES_AT_ONCE: u64 = 64;

/// What was found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    /// Both in units of 2^-32, for the shares.
    bytes: u128,
    inodes: u128,
}

impl Sum {
    fn add(&mut self, stat: &Stat) {
        let names = match fs::file_type(stat) {
            FileType::Directory => 1,
            _ => u128::from(stat.st_nlink).max(1),
        };
        let blocks = u128::from(stat.st_blocks.unsigned_abs());
        self.bytes += ((blocks * 512) << 32) / names;
        self.inodes += (1 << 32) / names;
    }

    pub(super) fn bytes(&self) -> u64 {
        whole(self.bytes)
    }

    pub(super) fn inodes(&self) -> u64 {
        whole(self.inodes)
    }
}

fn whole(shares: u128) -> u64 {
    u64::try_from((shares + (1 << 31)) >> 32).unwrap_or(u64::MAX)
}

/// How far a walk may go before it has to pause.
pub(super) struct Budget<'a> {
    /// So many files.
    entries: u64,
    /// Until then.
    until: Instant,
    /// Or until this is set.
    gone: &'a AtomicBool,
    used_up: bool,
}

impl<'a> Budget<'a> {
    pub(super) fn new(entries: u64, until: Instant, gone: &'a AtomicBool) -> Self {
        Self { entries, until, gone, used_up: false }
    }

    /// How many files are left.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Takes one file of it; `false` when it is used up.
    fn spend(&mut self) -> bool {
        self.entries = self.entries.saturating_sub(1);
        let in_time = !self.entries.is_multiple_of(ENTRIES_AT_ONCE) || Instant::now() < self.until;
        self.used_up |= self.entries == 0 || !in_time || self.gone.load(Ordering::Relaxed);
        !self.used_up
    }
}

/// Why a walk ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// A directory was moved while the walk was in it.
    Moved,
    /// It cannot be read.
    Io(Errno),
}

impl From<Errno> for Broken {
    fn from(error: Errno) -> Self {
        Self::Io(error)
    }
}

/// A walk under way.
pub(super) struct Walk {
    here: OwnedFd,
    inode: u64,
    /// Nothing more is to be read in it.
    at_end: bool,
    device: u64,
    above: Vec<Above>,
    /// What was found so far.
    pub(super) sum: Sum,
}

/// A directory that the walk will come back to.
struct Above {
    inode: u64,
    /// Where to go on reading it.
    position: u64,
}

/// What comes after the entries that were looked at.
enum Next {
    Down(OwnedFd, Above),
    Up,
    Pause,
}

impl Walk {
    /// Begins at a directory, which counts itself.
    pub(super) fn begin(top: OwnedFd, mut sum: Sum) -> Result<Self, Broken> {
        let stat = fs::stat(top.as_fd())?;
        sum.add(&stat);
        Ok(Self { here: top, inode: stat.st_ino, at_end: false, device: stat.st_dev, above: Vec::new(), sum })
    }

    /// Goes on until the end, which is `true`, or until the budget is used up.
    pub(super) fn go_on(&mut self, budget: &mut Budget<'_>) -> Result<bool, Broken> {
        while !budget.used_up {
            match self.look(budget)? {
                Next::Down(directory, above) => {
                    self.inode = fs::stat(directory.as_fd())?.st_ino;
                    (self.here, self.at_end) = (directory, false);
                    self.above.push(above);
                }
                Next::Up => match self.above.pop() {
                    Some(above) => self.go_up(&above)?,
                    None => return Ok(true),
                },
                Next::Pause => break,
            }
        }
        Ok(false)
    }

    /// Looks at entries, up to the next directory.
    fn look(&mut self, budget: &mut Budget<'_>) -> Result<Next, Broken> {
        if self.at_end {
            return Ok(Next::Up);
        }
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(&self.here, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                // The directory was deleted.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let (name, position) = (entry.file_name().to_bytes(), entry.next_entry_cookie());
            if name == b"." || name == b".." {
                continue;
            }
            let more = budget.spend();
            if let Some(stat) = there(fs::stat_at(self.here.as_fd(), name))?
                && stat.st_dev == self.device
            {
                self.sum.add(&stat);
                if fs::file_type(&stat) == FileType::Directory
                    && self.above.len() < MAX_DEPTH
                    && let Some(directory) = there(fs::open_directory_beneath(self.here.as_fd(), name))?
                {
                    return Ok(Next::Down(directory, Above { inode: self.inode, position }));
                }
            }
            if !more {
                self.at_end = !seek(&self.here, position)?;
                return Ok(Next::Pause);
            }
        }
        Ok(Next::Up)
    }

    fn go_up(&mut self, above: &Above) -> Result<(), Broken> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(&self.here, "..", flags, Mode::empty())?;
        let stat = fs::stat(parent.as_fd())?;
        if (stat.st_dev, stat.st_ino) != (self.device, above.inode) {
            return Err(Broken::Moved);
        }
        self.at_end = !seek(&parent, above.position)?;
        (self.here, self.inode) = (parent, above.inode);
        Ok(())
    }
}

/// Goes on in a directory where it was left; `false` if it was deleted meanwhile, and so ends before that.
fn seek(directory: &OwnedFd, position: u64) -> Result<bool, Broken> {
    match rustix::fs::seek(directory, SeekFrom::Start(position)) {
        Ok(_) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What was deleted or exchanged since its name was read is passed over.
fn there<T>(result: Result<T, Errno>) -> Result<Option<T>, Broken> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
