//! User namespaces. A process with threads can neither make nor enter one, so a child makes it, with the namespaces that it
//! is to own, and does nothing but wait until all of them have been taken from it and it is killed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::Uid;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::sys::mount;

/// How the IDs of a user namespace, from 0 on, stand for IDs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The host's ID that is 0 inside.
    pub host: u32,
    /// How many there are.
    pub count: u32,
}

/// The users and groups of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMaps {
    /// The users.
    pub uids: IdRange,
    /// The groups.
    pub gids: IdRange,
}

/// A child in a new user namespace and in new namespaces that belong to it. It ends with this value, or with its thread.
pub(super) struct Owner {
    pid: Pid,
}

impl Owner {
    /// Makes the namespaces that `flags` name, and maps the IDs.
    pub(super) fn new(flags: UnshareFlags, ids: &IdMaps) -> io::Result<Self> {
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let bits = (flags | UnshareFlags::NEWUSER).bits() | libc::SIGCHLD.cast_unsigned();
        // SAFETY: without CLONE_VM and without a stack the child runs on in a copy of this thread's memory, as after fork(2).
        // Locks that other threads hold stay locked there, so it may only make system calls, which is what `wait` does.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(bits), 0, 0, 0, 0) };
        match i32::try_from(pid).ok().map(|pid| (pid, Pid::from_raw(pid))) {
            Some((0, _)) => wait(parent),
            Some((1.., Some(pid))) => {
                let owner = Self { pid };
                owner.map("uid_map", ids.uids)?;
                owner.map("gid_map", ids.gids)?;
                Ok(owner)
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn map(&self, file: &str, ids: IdRange) -> io::Result<()> {
        let path = format!("/proc/{}/{file}", self.pid.as_raw_nonzero());
        fs::write(path, format!("0 {} {}\n", ids.host, ids.count))
    }

    /// The entry below /proc of one of its namespaces.
    pub(super) fn entry(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.pid.as_raw_nonzero())
    }

    /// Moves the calling thread into one of its namespaces, which is not the user namespace.
    pub(super) fn enter(&self, kind: &str) -> io::Result<()> {
        let namespace = File::open(self.entry(kind))?;
        let kind = match kind {
            "net" => LinkNameSpaceType::Network,
            "ipc" => LinkNameSpaceType::InterProcessCommunication,
            "uts" => LinkNameSpaceType::HostNameAndNISDomainName,
            other => return Err(io::Error::other(format!("a thread cannot enter a {other} namespace"))),
        };
        Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The whole life of the child: holds no file of the daemon's open, and never outlives it.
fn wait(parent: i32) -> ! {
    // SAFETY: plain system calls on no memory but the child's own; it returns into no frame of its parent's. The descriptors
    // that it closes are copies, which nobody uses in this process.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // The parent may have died before it was to be told.
        while libc::getppid() == parent {
            libc::pause();
        }
        libc::_exit(0)
    }
}

/// Runs `work` with the calling thread as another user.
pub(super) fn acting_as<T>(user: u32, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let become_user = |user| rustix::thread::set_thread_res_uid(None, Uid::from_raw(user), None);
    become_user(user)?;
    let done = work();
    become_user(0)?;
    done
}

/// Whether the file system of `directory` can be mounted with other owners than it has (mount_setattr(2)).
pub fn maps_owners(directory: &Path) -> io::Result<()> {
    // Any range does: nothing is ever seen through the mount.
    let ids = IdRange { host: 1 << 16, count: 1 << 16 };
    super::on_fresh_thread(|| {
        let owner = Owner::new(UnshareFlags::empty(), &IdMaps { uids: ids, gids: ids })?;
        mount::map_owners(directory, File::open(owner.entry("user"))?.as_fd())
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_its_namespaces_and_ends_with_its_value() {
        let ids = IdMaps {
            uids: IdRange { host: 100_000, count: 65_536 },
            gids: IdRange { host: 200_000, count: 10 },
        };
        let owner = Owner::new(UnshareFlags::NEWUTS, &ids).unwrap();
        let proc = format!("/proc/{}", owner.pid.as_raw_nonzero());
        let words = |file: &str| {
            let text = fs::read_to_string(format!("{proc}/{file}")).unwrap();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words("uid_map"), ["0", "100000", "65536"]);
        assert_eq!(words("gid_map"), ["0", "200000", "10"]);
        let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        for kind in ["user", "uts"] {
            assert_ne!(fs::read_link(owner.entry(kind)).unwrap(), own(kind), "{kind}");
        }
        assert_eq!(fs::read_link(owner.entry("net")).unwrap(), own("net"));
        assert!(owner.enter("user").is_err());
        drop(owner);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn ids_that_cannot_be_mapped_are_refused() {
        let ids = IdRange { host: u32::MAX, count: 2 };
        let refused = Owner::new(UnshareFlags::empty(), &IdMaps { uids: ids, gids: ids });
        assert!(refused.is_err());
    }

    #[test]
    fn proc_cannot_be_mounted_with_other_owners() {
        assert!(maps_owners(Path::new("/proc")).is_err());
        assert!(maps_owners(Path::new("/no/such/directory")).is_err());
    }
}
