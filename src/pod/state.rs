//! The states of a pod and of a container, and the transitions between them as pure functions.
//!
//! ```text
//!   container:   Created --started--> Running --exited--> Exited
//!                   |                                       ^
//!                   +----exited, failed to start, lost------+
//!   pod:         Ready --stopped--> NotReady
//! ```
//!
//! `Exited` is final: whatever is reported later changes nothing, but a start that returns after a short process has ended
//! still tells when it began.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use crate::sys::clock::{Nanos, now};

/// What a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    /// All its resources are there.
    Ready {
        /// Its addresses, the primary one first; none on the host's network.
        ips: Vec<IpAddr>,
    },
    /// Its network and namespaces are gone, or going.
    NotReady,
}

/// What a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Its init waits for the start.
    Created,
    /// Its init runs.
    Running {
        /// When it was started.
        started_at: Nanos,
    },
    /// Its init has ended; this is final.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When it was started; 0 while the start has not returned.
    pub started_at: Nanos,
    /// When its init ended.
    pub finished_at: Nanos,
    /// As a shell tells it: 128 and the signal's number for a signal.
    pub code: i32,
    /// Why, in the CRI's words.
    pub reason: Reason,
    /// More about it, for a person.
    pub message: String,
}

/// Why a container ended (B14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Another exit code.
    Error,
    /// The kernel killed a process of it for want of memory.
    OomKilled,
    /// Its process could not be started.
    StartError,
    /// Nobody saw it end.
    Unknown,
}

impl Reason {
    /// As the kubelet knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "ContainerStatusUnknown",
        }
    }
}

/// The exit code of a container that could not be started.
const START_ERROR: i32 = 128;
/// The exit code of a container whose end nobody saw.
const UNKNOWN: i32 = 255;

impl ContainerState {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
        }
    }

    /// The start has returned.
    pub(super) fn started(&mut self, at: Nanos) {
        match self {
            Self::Created => *self = Self::Running { started_at: at },
            Self::Exited(exit) if exit.started_at == 0 => exit.started_at = at.min(exit.finished_at),
            Self::Running { .. } | Self::Exited(_) => {}
        }
    }

    /// The start has failed, and the init was killed: whatever its exit said, this is why.
    pub(super) fn failed_to_start(&mut self, at: Nanos, message: String) {
        *self = Self::Exited(Exit {
            started_at: at,
            finished_at: now().max(at),
            code: START_ERROR,
            reason: Reason::StartError,
            message,
        });
    }

    /// The monitor has seen the init end.
    pub(super) fn exited(&mut self, finished_at: Nanos, code: i32, oom_killed: bool) {
        let reason = match code {
            _ if oom_killed => Reason::OomKilled,
            0 => Reason::Completed,
            _ => Reason::Error,
        };
        self.end(finished_at, code, reason, String::new());
    }

    /// The init is gone and nobody saw how.
    pub(super) fn lost(&mut self, message: &str) {
        self.end(now(), UNKNOWN, Reason::Unknown, message.to_owned());
    }

    fn end(&mut self, finished_at: Nanos, code: i32, reason: Reason, message: String) {
        let started_at = match self {
            Self::Created => 0,
            Self::Running { started_at } => *started_at,
            Self::Exited(_) => return,
        };
        let finished_at = finished_at.max(started_at);
        *self = Self::Exited(Exit { started_at, finished_at, code, reason, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(state: &ContainerState) -> &Exit {
        match state {
            ContainerState::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn b14_reasons_follow_the_exit() {
        for (code, oom, reason) in
            [(0, false, "Completed"), (3, false, "Error"), (137, true, "OOMKilled"), (0, true, "OOMKilled")]
        {
            let mut state = ContainerState::Running { started_at: 1 };
            state.exited(2, code, oom);
            assert_eq!(exit(&state).reason.as_str(), reason);
        }
    }

    #[test]
    fn b15_a_process_that_ends_before_its_start_returns_has_both_times() {
        let mut state = ContainerState::Created;
        state.exited(50, 0, false);
        assert_eq!(exit(&state).started_at, 0);
        state.started(60);
        assert_eq!((exit(&state).started_at, exit(&state).finished_at), (50, 50));
        state.started(10);
        assert_eq!(exit(&state).started_at, 50, "only the first start counts");
    }

    #[test]
    fn b15_times_never_run_backwards() {
        let mut state = ContainerState::Running { started_at: 100 };
        state.exited(90, 1, false);
        assert_eq!(exit(&state).finished_at, 100);
    }

    #[test]
    fn b15_a_failed_start_sets_both_times_and_is_final() {
        let mut state = ContainerState::Created;
        state.failed_to_start(5, "no such file".into());
        state.exited(9, 137, true);
        assert_eq!((exit(&state).code, exit(&state).reason), (128, Reason::StartError));
        assert!(exit(&state).started_at == 5 && exit(&state).finished_at >= 5);
    }
}
