//! What can go wrong with a pod's network, in words for the person who reads the pod's events.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::bandwidth::InvalidBandwidth;
use super::config::{MissingPlugin, NotReady};
use crate::record::RecordError;

/// Why a pod could not be attached to or detached from the network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The directory of the records cannot be used.
    #[error("open the directory of CNI records {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no network to attach to.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// A plugin that the record names is not installed any more.
    #[error(transparent)]
    Missing(#[from] MissingPlugin),
    /// A traffic annotation is wrong.
    #[error(transparent)]
    Bandwidth(#[from] InvalidBandwidth),
    /// A name of the pod cannot be told to plugins.
    #[error("the pod's {key} {value:?} cannot be passed in CNI_ARGS: it has ';', '=' or a control character")]
    Argument {
        /// The argument.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// All plugins succeeded, and the pod has no address.
    #[error("network {network:?} gave the pod no IP address: check the ipam section of its configuration")]
    NoAddress {
        /// The network.
        network: String,
    },
    /// The record of the attachment could not be kept.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// One run of one plugin that failed.
#[derive(Debug, thiserror::Error)]
#[error("CNI plugin {plugin:?} failed to {command} for network {network:?} after {elapsed:.1?}")]
pub struct PluginError {
    /// The plugin's type.
    pub plugin: String,
    /// The network.
    pub network: String,
    /// What was asked of it.
    pub command: Command,
    /// How long it ran.
    pub elapsed: Duration,
    /// What happened.
    #[source]
    pub failure: Box<Failure>,
}

/// An operation of the CNI specification (`CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    Add,
    Del,
    Gc,
    Status,
    Version,
}

impl Command {
    /// The value of `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The stage that a run of a plugin with it is.
    pub fn stage(self) -> &'static str {
        match self {
            Self::Add => "running CNI ADD",
            Self::Del => "running CNI DEL",
            Self::Gc => "running CNI GC",
            Self::Status => "running CNI STATUS",
            Self::Version => "running CNI VERSION",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a plugin's run failed. Texts of the plugin are printable and short.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be run.
    #[error("{} cannot be run", path.display())]
    Start {
        /// Its binary.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its time was up; it was killed with its process group.
    #[error("it was killed because the operation's time was up{}", Stderr(.stderr))]
    Timeout {
        /// The last that it wrote to stderr.
        stderr: String,
    },
    /// It wrote more than any result can be; it was killed.
    #[error("it wrote more than {limit} bytes and was killed")]
    Flood {
        /// What is read at most.
        limit: usize,
    },
    /// It said what is wrong (CNI error JSON).
    #[error("{message} (code {code}){}", Stderr(.stderr))]
    Reported {
        /// Its code: 1 to 99 are those of the specification.
        code: u64,
        /// `msg` and `details`.
        message: String,
        /// The last that it wrote to stderr.
        stderr: String,
    },
    /// It failed without an error in the form of the specification.
    #[error("it ended with {status}{}{}", Stdout(.stdout), Stderr(.stderr))]
    Exit {
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it wrote to stdout.
        stdout: String,
        /// The last that it wrote to stderr.
        stderr: String,
    },
    /// It reported success, and its output is no result.
    #[error("it reported success with an invalid result: {reason}{}", Stdout(.stdout))]
    Result {
        /// What is wrong.
        reason: String,
        /// The beginning of what it wrote to stdout.
        stdout: String,
    },
}

struct Stdout<'a>(&'a str);
struct Stderr<'a>(&'a str);

impl fmt::Display for Stdout<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; stdout: {}", self.0) }
    }
}

impl fmt::Display for Stderr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; stderr: {}", self.0) }
    }
}
