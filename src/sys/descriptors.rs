//! What processes have open, and may have open, as `/proc` tells it.

use std::fs;

use rustix::fs::{CWD, Dir, Mode, OFlags};

use super::process::Process;

/// Open file descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptors {
    /// All of them.
    pub files: u64,
    /// The sockets among them.
    pub sockets: u64,
}

/// What one process has open; `None` when it is gone. No more than `left` descriptors are looked at, and as many are taken
/// from it; since Linux 6.2 the kernel counts all of them itself.
pub fn of(pid: i32, left: &mut usize) -> Option<Descriptors> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty()).ok()?;
    let counted = rustix::fs::fstat(&directory).ok().and_then(|stat| u64::try_from(stat.st_size).ok());
    let (mut found, mut target) = (Descriptors::default(), [0_u8; 16]);
    for entry in Dir::read_from(&directory).ok()?.flatten() {
        if *left == 0 {
            break;
        }
        if !entry.file_name().to_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        *left -= 1;
        found.files += 1;
        let link = rustix::fs::readlinkat_raw(&directory, entry.file_name(), &mut target[..]);
        found.sockets += u64::from(link.is_ok_and(|length| target[..length].starts_with(b"socket:")));
    }
    found.files = found.files.max(counted.unwrap_or(0));
    Some(found)
}

/// How many files a process may have open: its soft limit.
pub fn max_open_files(process: Process) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/limits", process.pid)).ok()?;
    // Read before it is checked whose that was.
    process.is_alive().then(|| parse_limit(&text))?
}

fn parse_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_sockets_of_a_process_are_counted_up_to_a_bound() {
        let (_one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut left = 10_000;
        let own = of(pid, &mut left).unwrap();
        assert!(own.files >= 5 && own.sockets >= 2 && own.sockets < own.files, "{own:?}");
        let mut left = 1;
        assert!(of(pid, &mut left).unwrap().sockets <= 1);
        assert_eq!((left, of(pid, &mut left).unwrap().sockets), (0, 0));
        assert_eq!(of(-1, &mut left), None);
    }

    #[test]
    fn a_soft_limit_is_the_first_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(parse_limit(text), Some(1024));
        assert_eq!(parse_limit(&text.replace("1024 ", "unlimited")), None);
        assert_eq!(parse_limit(""), None);
    }
}
