//! A mark that all processes of one exec bear, whatever they start and wherever they go: by it a timeout finds daemons too,
//! which have left their parents, their group and their session behind (B12).
//!
//! The mark is a value of RLIMIT_LOCKS that no other exec has. The kernel hands limits on through fork(2), execve(2) and
//! setsid(2), shows them to others, and has not obeyed this one since Linux 2.4.25 (setrlimit(2)). So it costs nothing and
//! changes nothing, with either version of cgroups. A process that sets the limit anew escapes; the container's end has it.

use std::fs;

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Process};
use rustix::process::{Resource, getrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

/// The bits of a mark: with the highest of them set, all marks have the same length, and every reader of JSON takes them.
const BITS: u32 = 52;

pub(super) struct Mark(u64);

impl Mark {
    /// A new one; `None` where the daemon's own limit is too low for commands to be given it.
    pub(super) fn new() -> Option<Self> {
        let mut random = [0; 8];
        let filled = getrandom(&mut random, GetRandomFlags::empty()).is_ok_and(|count| count == random.len());
        let unlimited = getrlimit(Resource::Locks).maximum.is_none();
        let low = u64::from_le_bytes(random) & ((1 << BITS) - 1);
        (filled && unlimited).then_some(Self(1 << BITS | low))
    }

    /// Has a process, and so its descendants, bear it.
    pub(super) fn put_on(&self, process: &mut Process) {
        let limit = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitLocks);
        // A builder whose fields are all set has nothing to say no to.
        let Ok(limit) = limit.soft(self.0).hard(self.0).build() else { return };
        let mut limits = process.rlimits().clone().unwrap_or_default();
        limits.retain(|other| other.typ() != limit.typ());
        limits.push(limit);
        process.set_rlimits(Some(limits));
    }

    /// Whether a process bears it.
    pub(super) fn is_on(&self, pid: i32) -> bool {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"));
        // Either of the two: a process may lower the soft one.
        line.is_some_and(|line| line.split_whitespace().any(|word| word.parse() == Ok(self.0)))
    }
}
