//! The one door to the kernel: thin wrappers of system calls, and the only place in the daemon with `unsafe`.
#![allow(unsafe_code)]

pub mod fs;
pub mod mount;
pub mod namespace;
pub mod process;
