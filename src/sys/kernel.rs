//! Which kernel this is, for what can only be told by its version.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use rustix::process::PidfdFlags;

/// System calls that podd stands on or is better with, as this kernel has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// `openat2`: nothing is unpacked without it.
    pub openat2: bool,
    /// `pidfd_open`: how ends of processes are waited for.
    pub pidfd: bool,
    /// `fsopen` and those that go with it: layers one by one.
    pub mount_context: bool,
}

impl Calls {
    /// Tries them in ways that change nothing: what is refused is there.
    pub fn observe() -> Self {
        let there = |errno: Option<Errno>| errno != Some(Errno::NOSYS);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
        // No file system has this name.
        let context = rustix::mount::fsopen("podd-asks", FsOpenFlags::FSOPEN_CLOEXEC);
        Self { openat2: there(opened.err()), pidfd: there(pidfd.err()), mount_context: there(context.err()) }
    }
}

/// Whether the kernel is at least Linux `major`.`minor`.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    numbers(&release()) >= (major, minor)
}

/// The kernel's own name for itself, as `uname -r`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The first two numbers of a release; what is no number is 0.
pub fn numbers(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_runs_podd_has_its_system_calls() {
        let calls = Calls::observe();
        assert!(calls.openat2 && calls.pidfd, "{calls:?}");
    }

    #[test]
    fn releases_compare_by_number() {
        assert_eq!(numbers("6.1.0-34-amd64"), (6, 1));
        assert_eq!(numbers("5.10"), (5, 10));
        assert_eq!(numbers("6.18-rc1"), (6, 18));
        assert_eq!(numbers("strange"), (0, 0));
        assert!(numbers("5.9.1") < numbers("5.10.0") && numbers("5.19.3") < numbers("6.0.0"));
        assert!(is_at_least(3, 0) && !is_at_least(1000, 0));
    }
}
