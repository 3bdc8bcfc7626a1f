//! The daemon's side of the monitors: start one, find one again, talk to it.
//!
//! A monitor is a process of its own (see the crate `podd-monitor`) that outlives the daemon. Two things tie it to the
//! container's state directory: a lock file that it holds locked for as long as it lives, and its control socket.
//!
//! ```text
//!   launch() -> Created { monitor } --commit()--> the container no longer depends on the daemon
//!      |            |
//!      |            +-- dropped without commit: the monitor undoes the container
//!      +-- dropped: likewise
//!   connect() after a restart of the daemon -> Monitor, or None when no monitor lives
//! ```
//!
//! Invariant: while a [`Monitor`] handle or its clone exists its connection stays open, and one task reads from it.

mod attach;
mod connection;
mod exit;
mod gone;
mod launch;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podd_monitor::protocol::{CONTROL_SOCKET, LOCK_FILE, ProtocolError, Stage};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::id::ContainerId;

pub use attach::{Attached, attach};
pub use connection::{Ended, InitState, Monitor};
pub use exit::{ExitRecord, read_exit};
pub use gone::gone;
pub use launch::{Created, Launch, launch};
pub use podd_monitor::protocol;

/// How long a monitor may take to answer. It answers at once unless the machine is in great trouble.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How often a monitor that lives but does not listen (yet, or any more) is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What can go wrong between the daemon and a monitor.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A file in the state directory or the binary cannot be used.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The container has a monitor already.
    #[error("a monitor is already running for {}", .0.display())]
    Busy(PathBuf),
    /// The monitor could not create the container, and has left nothing behind.
    #[error("{stage}: {text}")]
    Failed {
        /// The step that failed.
        stage: Stage,
        /// The cause in the words of the kernel or of the runtime.
        text: String,
    },
    /// The monitor did not do what it was asked.
    #[error("the monitor refused to {operation}: {text}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The monitor's reason.
        text: String,
    },
    /// The connection ended: the monitor has ended, or was killed.
    #[error("the monitor ended before it could {0}")]
    Ended(&'static str),
    /// The monitor does not answer.
    #[error("the monitor did not {operation} within {patience:?}")]
    Silent {
        /// What was asked.
        operation: &'static str,
        /// How long was waited.
        patience: Duration,
    },
    /// The monitor says what this daemon cannot understand.
    #[error("the monitor cannot be understood: {0}")]
    Protocol(String),
}

impl From<ProtocolError> for MonitorError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// Whether a monitor lives for the container with this state directory.
pub fn is_alive(state_dir: &Path) -> io::Result<bool> {
    let file = match File::open(state_dir.join(LOCK_FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The container of a monitor by the monitor's command line, as /proc has it; `None` where it is none.
pub fn container_of(command_line: &[u8]) -> Option<ContainerId> {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next()?.rsplit(|byte| *byte == b'/').next()?;
    match (program, words.next()?) {
        (b"podd-monitor", b"run") => std::str::from_utf8(words.next()?).ok()?.parse().ok(),
        _ => None,
    }
}

/// The protocol that a monitor's binary names when it is asked for its version, and whether this daemon speaks it.
pub fn speaks(version_line: &str) -> Result<(), String> {
    let protocol = version_line.trim().rsplit_once("(protocol ").and_then(|(_, rest)| rest.strip_suffix(')'));
    let major: Option<u16> = protocol.and_then(|version| version.split('.').next()?.parse().ok());
    match (protocol, major) {
        (Some(_), Some(major)) if major == protocol::VERSION.major => Ok(()),
        (Some(version), Some(_)) => {
            Err(format!("it speaks protocol {version}, this podd {}", protocol::VERSION))
        }
        _ => Err("it does not say its protocol".to_owned()),
    }
}

/// Finds the container's monitor again; `None` when none lives.
///
/// A monitor whose container was never committed is undoing it, and is waited for.
pub async fn connect(state_dir: &Path) -> Result<Option<Monitor>, MonitorError> {
    let failed =
        |operation, name: &str, source| MonitorError::Io { operation, path: state_dir.join(name), source };
    let deadline = Instant::now() + ANSWER_PATIENCE;
    loop {
        if !is_alive(state_dir).map_err(|e| failed("lock", LOCK_FILE, e))? {
            return Ok(None);
        }
        match dial(state_dir).await {
            Ok(stream) => match Monitor::greet(stream, deadline).await {
                Err(MonitorError::Ended(_)) => {}
                greeted => return greeted.map(Some),
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(e) => return Err(failed("connect to", CONTROL_SOCKET, e)),
        }
        if Instant::now() >= deadline {
            return Err(MonitorError::Silent { operation: "listen", patience: ANSWER_PATIENCE });
        }
        sleep(CONNECT_PAUSE).await;
    }
}

/// Connects through the directory's descriptor: a socket's address holds only 107 bytes of path.
async fn dial(state_dir: &Path) -> io::Result<UnixStream> {
    let directory = File::open(state_dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd())).await
}
