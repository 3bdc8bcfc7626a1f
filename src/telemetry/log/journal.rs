//! The journal's native protocol: one datagram per line, fields by name
//! (systemd, <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! A line is bounded, so that it always fits a datagram, and no file has to be passed.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::fstat;
use serde_json::Value;
use tracing::Level;

use super::line::Line;

/// The longest datagram, in bytes: half of what a socket sends by default.
const DATAGRAM_MAX: usize = 96 << 10;
/// Names that the journal gives a meaning to; a field of podd's that has one is set apart by a prefix.
const TAKEN: [&str; 8] = [
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "ERRNO",
    "SYSLOG_IDENTIFIER",
];

/// How long a line may wait for a journal that does not keep up, and how long none is tried after one that waited in vain.
const PATIENCE: Duration = Duration::from_millis(20);
const SILENCE: Duration = Duration::from_secs(1);

/// The journal.
pub(in crate::telemetry) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    // Held to read or set the time from which lines are sent again.
    silent_until: Mutex<Option<Instant>>,
}

/// Whether what is written to standard error goes to the journal (systemd.exec(5), `$JOURNAL_STREAM`).
pub(super) fn has_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

impl Journal {
    /// The socket must be there now; a journal that is restarted later is found again by its path.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, path: path.to_owned(), silent_until: Mutex::default() })
    }

    /// Sends a line. The kernel's queue may hold no more than ten, so it waits a moment where that is full; `WouldBlock` says
    /// that the line is lost.
    pub(super) fn send(&self, line: &Line<'_>) -> io::Result<()> {
        let silent = || self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        if silent().is_some_and(|until| Instant::now() < until) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sent = self.socket.send_to(&datagram(line), &self.path);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            *silent() = Some(Instant::now() + SILENCE);
        }
        sent.map(drop)
    }
}

fn datagram(line: &Line<'_>) -> Vec<u8> {
    let priority = match line.level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    };
    let mut bytes = Vec::with_capacity(512);
    push(&mut bytes, "MESSAGE", &line.message);
    push(&mut bytes, "PRIORITY", priority);
    push(&mut bytes, "SYSLOG_IDENTIFIER", "podd");
    push(&mut bytes, "TARGET", line.target);
    for (name, value) in &line.fields {
        let name = field_name(name);
        match value {
            Value::String(text) => push(&mut bytes, &name, text),
            other => push(&mut bytes, &name, &other.to_string()),
        }
    }
    bytes
}

/// In upper case, of letters, digits and underscores; the first is a letter, and there are 64 at most.
fn field_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(allowed).take(58).collect();
    match name.starts_with(|c: char| c.is_ascii_alphabetic()) && !TAKEN.contains(&name.as_str()) {
        true => name,
        false => format!("PODD_{name}"),
    }
}

/// `NAME=value`, or where the value has several lines the name, the length in 64 bits, and the value. What does not fit is
/// left out.
fn push(bytes: &mut Vec<u8>, name: &str, value: &str) {
    if bytes.len() + name.len() + value.len() + 16 > DATAGRAM_MAX {
        return;
    }
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_journal_takes() {
        let names = ["pod", "container", "message", "1st", "_hidden", "a.b-c", "errno"].map(field_name);
        let expected =
            ["POD", "CONTAINER", "PODD_MESSAGE", "PODD_1ST", "PODD__HIDDEN", "A_B_C", "PODD_ERRNO"];
        assert_eq!(names, expected);
        assert!(field_name(&"x".repeat(500)).len() <= 64);
    }
}
