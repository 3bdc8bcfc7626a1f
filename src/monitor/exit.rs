//! The exit record that a monitor leaves behind.

use std::path::Path;

use podd_monitor::protocol::Exit;
use serde::{Deserialize, Serialize};

use crate::record::{self, RecordError};

/// How a container's init ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The init's pid.
    pub pid: u32,
    /// The exit code; 128 + signal where a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// When it ended, in nanoseconds since 1970.
    pub finished_at: i64,
}

impl From<Exit> for ExitRecord {
    fn from(exit: Exit) -> Self {
        let Exit { pid, exit_code, signal, oom_killed, finished_at } = exit;
        Self { pid, exit_code, signal, oom_killed, finished_at }
    }
}

/// Reads the record that a monitor wrote to `path`; `None` while there is none.
pub fn read_exit(path: &Path) -> Result<Option<ExitRecord>, RecordError> {
    record::read(path)
}
