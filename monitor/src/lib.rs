//! The wire format between the daemon and its monitors.
//!
//! A monitor outlives the daemon that started it, also over an upgrade, so both sides take their words from here and
//! the words carry a version. Nothing else of the monitor is public: the daemon uses it as a process, not as a library.

pub mod protocol;
