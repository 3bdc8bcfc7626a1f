//! The tools beside the daemon: each works in the same store as a running daemon, or without one.

pub(crate) mod check;
pub(crate) mod images;
