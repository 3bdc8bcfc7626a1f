//! PID 1 of a pod that shares one PID namespace: takes the orphans' exit codes, and ends when it is told to.

use std::io;

use crate::sys::process::{block_signals, reap, wait_for_signal};

/// Returns at SIGTERM or SIGINT.
pub(crate) fn pause() -> io::Result<()> {
    let _children = block_signals()?;
    loop {
        while reap().is_some() {}
        if let libc::SIGTERM | libc::SIGINT = wait_for_signal(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT]) {
            return Ok(());
        }
    }
}
