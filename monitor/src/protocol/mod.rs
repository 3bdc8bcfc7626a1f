//! Frames, messages and settings, as the daemon and a monitor exchange them over a unix stream socket.
//!
//! ```text
//!   daemon                                   monitor
//!     Hello, Settings  ------------------->
//!                      <-------------------  Hello
//!                      <-------------------  Warning*            what was refused but is not needed
//!                      <-------------------  Timing              where the time of the creation went
//!                      <-------------------  Created | Failed    Failed is the last word
//!     Commit           ------------------->                      from here on the monitor needs no daemon
//!     ReopenLog ...    ------------------->
//!                      <-------------------  Done | Refused | State | Attached, one per request, in order
//!                      <-------------------  Exited              the last word
//! ```
//!
//! A connection to the control socket starts with Hello both ways and goes on after the line of Commit.
//!
//! Versions: a different [`Version::major`] is an error on both sides. A different minor version is none: a request
//! that a monitor does not know is refused, a report that a daemon does not know is skipped, and so is an unknown
//! settings tag, unless its sender marked it as critical (see [`Settings`]).

mod frame;
mod message;
mod settings;
#[cfg(test)]
mod tests;

pub use frame::{Frames, MAX_CONTROL_FRAME, MAX_SETTINGS_FRAME};
pub use message::{Exit, MAX_TEXT, Report, Request, Stage, Timing, Version};
pub use settings::{Overlay, Settings, UserNamespace};

/// What this build speaks.
pub const VERSION: Version = Version { major: 1, minor: 2 };

/// The control socket's name in a container's state directory.
pub const CONTROL_SOCKET: &str = "ctl";

/// The lock file's name in a container's state directory: locked with flock(2) for as long as the monitor lives.
pub const LOCK_FILE: &str = "monitor.lock";

/// The argument of `<runtime> create` that the monitor replaces by the path of its console socket.
pub const CONSOLE_SOCKET: &str = "@console-socket@";

/// The directory below [`Settings::mount_point`] on which the root filesystem is mounted.
pub const ROOTFS: &str = "rootfs";

/// The directory below [`Settings::mount_point`] that has a directory for each of [`Settings::volumes`].
pub const VOLUMES: &str = "volumes";

/// A frame or message that breaks the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// A frame is longer than its receiver takes.
    TooLong {
        /// The length that the frame announces.
        length: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A payload ends before its fields do.
    Truncated,
    /// A text is not UTF-8.
    NotText,
    /// A setting that the sender calls critical is not known here.
    UnknownCriticalSetting(u16),
    /// A setting that must be there is not.
    MissingSetting(&'static str),
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong { length, limit } => {
                write!(f, "a frame of {length} bytes exceeds the limit of {limit}")
            }
            Self::Truncated => f.write_str("a message ends before its fields do"),
            Self::NotText => f.write_str("a text is not utf-8"),
            Self::UnknownCriticalSetting(tag) => {
                write!(f, "setting {tag:#06x} is critical, and this version does not know it")
            }
            Self::MissingSetting(name) => write!(f, "setting {name} is missing"),
        }
    }
}

impl std::error::Error for ProtocolError {}
