//! Processes: who one is beyond its pid, signals that cannot hit another, and waiting for an end.
//!
//! A pid alone names nothing for long. A process is known by boot ID, pid and start time together; a [`ProcessHandle`]
//! holds a pidfd, which stays with its process for ever.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's random ID of this boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId(String);

impl BootId {
    /// The ID of the running boot.
    pub fn current() -> io::Result<Self> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self(id.trim().to_owned()))
    }
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`); `None` if there is no such process.
pub fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                || e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    // Field 2, the name, may hold anything but ends at the last parenthesis.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    match after_name.split_ascii_whitespace().nth(19).map(str::parse) {
        Some(Ok(ticks)) => Ok(Some(ticks)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time"))),
    }
}

/// One process, whatever becomes of its pid. Must be made and used within a tokio runtime.
#[derive(Debug)]
pub struct ProcessHandle {
    pidfd: AsyncFd<OwnedFd>,
    pid: u32,
}

impl ProcessHandle {
    /// The process with this pid and start time; `None` if it has ended, also when its pid is in use again.
    pub fn open(pid: u32, started: u64) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is no pid")));
        };
        let pidfd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        // Asked after the descriptor was opened: if it is the right process now, the descriptor is of that process.
        if start_time(pid)? != Some(started) {
            return Ok(None);
        }
        // SAFETY: an `OwnedFd` always gives the same descriptor, and `AsyncFd` closes it only after its deregistration.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        Ok(Some(Self { pidfd, pid }))
    }

    /// The pid that the process has or had.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; false if the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Resolves when the process has ended, whether or not its parent has waited for it. May be dropped at any time.
    pub async fn exited(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};
    use std::time::Duration;

    use super::*;

    #[test]
    fn start_times_are_those_of_the_kernel() {
        assert!(start_time(id()).unwrap().unwrap() > 0);
        assert_eq!(start_time(u32::MAX).unwrap(), None);
        assert_eq!(BootId::current().unwrap(), BootId::current().unwrap());
    }

    #[tokio::test]
    async fn a_process_is_signalled_and_its_end_seen() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let started = start_time(child.id()).unwrap().unwrap();
        assert!(ProcessHandle::open(child.id(), started + 1).unwrap().is_none());
        let process = ProcessHandle::open(child.id(), started).unwrap().unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), process.exited()).await;
        assert!(early.is_err(), "an end was seen of a process that runs");
        assert!(process.signal(Signal::KILL).unwrap());
        process.exited().await.unwrap();
        process.exited().await.unwrap();
        child.wait().unwrap();
        assert!(!process.signal(Signal::KILL).unwrap());
        assert!(ProcessHandle::open(child.id(), started).unwrap().is_none());
    }
}
