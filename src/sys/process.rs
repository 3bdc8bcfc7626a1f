//! Processes: who one is beyond its pid, signals that cannot hit another, and waiting for an end.
//!
//! A pid alone names nothing for long: within a boot a process is known by pid and start time together (B11).

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
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

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

    /// Whether a signal would not reach the program of a container whose init it is: that neither catches nor blocks it, or has
    /// not replaced the runtime's own yet. Not known counts as no.
    pub fn is_deaf_to(self, signal: i32) -> bool {
        is_deaf(&fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default(), signal)
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

/// One of the signal masks in proc_pid_status(5).
fn signal_mask(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Lets the async pool wait until a descriptor, such as a pidfd, can be read.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor as long as it lives, and `AsyncFd` closes it only after its
    // deregistration.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? })
}

/// [`Process::is_deaf_to`], by what proc_pid_status(5) says.
fn is_deaf(status: &str, signal: i32) -> bool {
    let Ok(bit) = u32::try_from(signal - 1) else { return false };
    if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
        return false; // they cannot be caught and need not be
    }
    let unheard = |name| signal_mask(status, name).is_some_and(|mask| mask >> bit & 1 == 0);
    is_runtimes_own(status) || (unheard("SigCgt") && unheard("SigBlk"))
}

/// Whether a container's init is still the runtime's: runc and youki call it `runc:[2:INIT]` until it executes the command. It
/// catches every signal and hands none on.
fn is_runtimes_own(status: &str) -> bool {
    status.lines().next().is_some_and(|name| name.ends_with(":INIT]"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio, id};

    use super::*;

    #[test]
    fn start_times_are_those_of_the_kernel() {
        assert!(start_time(id()).unwrap().unwrap() > 0);
        assert_eq!(start_time(u32::MAX).unwrap(), None);
        assert_eq!(BootId::current().unwrap(), BootId::current().unwrap());
    }

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
    fn a_process_is_deaf_to_what_it_neither_catches_nor_blocks() {
        let mut shell = Command::new("bash");
        let mut child = shell
            .args(["-c", "trap : TERM; echo ready; read"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let started = start_time(child.id()).unwrap().unwrap();
        let process = Process { pid: child.id(), start_time: started };
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let deaf_to = [libc::SIGTERM, libc::SIGUSR1, libc::SIGKILL, libc::SIGSTOP, 64, 0]
            .map(|n| process.is_deaf_to(n));
        assert_eq!(deaf_to, [false, true, false, false, true, false]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_deaf_to(libc::SIGUSR1), "nobody is there to be deaf");
    }

    #[test]
    fn b9_an_init_that_is_still_the_runtimes_is_deaf_whatever_it_catches() {
        let status =
            |name: &str| format!("Name:\t{name}\nSigBlk:\t0000000000000000\nSigCgt:\tfffffffdfffbfeff\n");
        assert!(is_deaf(&status("runc:[2:INIT]"), libc::SIGTERM));
        assert!(!is_deaf(&status("runc:[2:INIT]"), libc::SIGKILL));
        assert!(!is_deaf(&status("server"), libc::SIGTERM));
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
