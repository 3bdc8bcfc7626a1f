//! A process for certain: its number alone may have passed to another (B11).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process::start_time;

/// A process by its number and the time at which it started, which no two processes of one boot share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, as the daemon's PID namespace has it.
    pub pid: u32,
    /// In clock ticks since the boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

impl Process {
    /// Whether it lives; a zombie does.
    pub fn is_alive(self) -> bool {
        start_time(self.pid).is_ok_and(|started| started == Some(self.start_time))
    }

    /// Sends it a signal; none is sent to another process that has its number by now. One that is gone is a success.
    pub fn signal(self, signal: i32) -> io::Result<()> {
        let Some(pidfd) = self.open()? else { return Ok(()) };
        // SAFETY: the descriptor is open for the length of the call, and a null siginfo pointer is allowed
        // (pidfd_send_signal(2)): the kernel fills in what kill(2) would.
        let result = unsafe {
            let info = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0)
        };
        match (result, io::Error::last_os_error()) {
            (0, _) => Ok(()),
            (_, error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            (_, error) => Err(error),
        }
    }

    /// Waits until it has ended.
    pub async fn ended(self) -> io::Result<()> {
        let Some(pidfd) = self.open()? else { return Ok(()) };
        readable(pidfd)?.readable().await.map(drop)
    }

    /// Takes hold of the process; the number is checked after, so it cannot have changed hands in between.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => Ok(self.is_alive().then_some(pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Lets the async pool wait until a descriptor, such as a pidfd, can be read.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor as long as it lives, and `AsyncFd` closes it only after its
    // deregistration.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn b11_a_process_is_signalled_and_seen_to_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process { pid: child.id(), start_time: start_time(child.id()).unwrap().unwrap() };
        assert!(process.is_alive());
        process.signal(9).unwrap();
        process.ended().await.unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        process.signal(9).unwrap();
        process.ended().await.unwrap();
    }

    #[test]
    fn b11_another_process_with_the_number_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let started = start_time(child.id()).unwrap().unwrap();
        Process { pid: child.id(), start_time: started - 1 }.signal(9).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
