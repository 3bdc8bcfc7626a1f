//! The one door to the kernel: thin wrappers of what `std` does not offer, and the only place in the monitor with `unsafe`.
#![allow(unsafe_code)]

pub(crate) mod descriptor;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod tree;

/// The result of a system call that gives -1 on error.
fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
