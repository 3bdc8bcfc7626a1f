//! Exec, attach and port-forward.

pub mod spdy;
