//! How a container ended: the OOM count of its cgroup and the exit record.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use podd_monitor::protocol::Exit;

use crate::failure::Described;
use crate::sys::process::Status;

/// The count of OOM kills in the container's cgroup.
///
/// The file is held open and read whenever the kernel says that it changed, because the cgroup may be removed as soon as
/// its last process has ended, before the monitor has seen that end.
pub(crate) struct OomCounter {
    file: File,
    at_start: u64,
    now: u64,
    gone: bool,
}

impl OomCounter {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let at_start = count(&file)?;
        Ok(Self { file, at_start, now: at_start, gone: false })
    }

    /// Reads the count, as long as the cgroup exists.
    pub(crate) fn update(&mut self) {
        match count(&self.file) {
            Ok(now) => self.now = now,
            Err(_) => self.gone = true,
        }
    }

    pub(crate) fn killed(&self) -> bool {
        self.now > self.at_start
    }

    /// Whether the cgroup is gone, so that there is nothing to wait for.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }
}

impl AsRawFd for OomCounter {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn count(file: &File) -> io::Result<u64> {
    let mut text = [0u8; 512];
    let len = file.read_at(&mut text, 0)?;
    parse_count(&text[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The number in the line `oom_kill N`.
fn parse_count(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let number = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    number.trim().parse().ok()
}

/// The end of a process as it is recorded.
pub(crate) fn exit_of(pid: i32, status: Status, oom_killed: bool) -> Exit {
    let (exit_code, signal) = match status {
        Status::Exited(code) => (code, 0),
        Status::Signalled(signal) => (128 + signal, signal),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let finished_at = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    Exit { pid: pid.cast_unsigned(), exit_code, signal, oom_killed, finished_at }
}

/// Writes the exit record, whole or not at all.
pub(crate) fn write_record(path: &Path, exit: &Exit) -> Result<(), String> {
    let Exit { pid, exit_code, signal, oom_killed, finished_at } = exit;
    let text = format!(
        "{{\"version\":1,\"pid\":{pid},\"exit_code\":{exit_code},\"signal\":{signal},\
         \"oom_killed\":{oom_killed},\"finished_at\":{finished_at}}}\n"
    );
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .described(format_args!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_both_cgroup_versions() {
        assert_eq!(parse_count(b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(parse_count(b"low 0\noom 5\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(parse_count(b"oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn a_record_of_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let exit = Exit { finished_at: 5, ..exit_of(7, Status::Signalled(9), true) };
        write_record(&dir.path().join("c1"), &exit).unwrap();
        let text = r#"{"version":1,"pid":7,"exit_code":137,"signal":9,"oom_killed":true,"finished_at":5}"#;
        assert_eq!(fs::read_to_string(dir.path().join("c1")).unwrap().trim_end(), text);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
