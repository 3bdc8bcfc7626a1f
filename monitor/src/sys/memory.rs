//! Mapped buffers, and C functions on bytes that `std` has no fast equivalent of.

use std::ffi::CStr;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A buffer of zeroed memory of its own, outside the heap. Pages that were never touched cost nothing.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

impl Buffer {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address that the kernel chooses touches no memory in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Gives the pages back to the kernel; the buffer then reads as zeroes.
    pub(crate) fn release(&mut self) {
        // SAFETY: the range is exactly the mapping that `self` owns, it is private and anonymous, and `&mut self` says that
        // nobody looks at its bytes meanwhile; all-zero bytes are valid.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to a mapping of `len` initialised bytes that lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is owned by `self`, and no reference outlives it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The position of the first `byte`.
pub(crate) fn find_byte(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: the pointer is valid for reads of `len` bytes, and memchr reads no more.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), byte.into(), bytes.len()) };
    if found.is_null() { None } else { Some(found.addr() - bytes.as_ptr().addr()) }
}

/// The text of an error number, without the heap.
pub(crate) fn error_text(errno: i32, buffer: &mut [u8; 96]) -> &str {
    // SAFETY: the buffer is valid for writes of its length, and strerror_r ends what it writes with a NUL.
    unsafe { libc::strerror_r(errno, buffer.as_mut_ptr().cast(), buffer.len()) };
    CStr::from_bytes_until_nul(buffer).ok().and_then(|text| text.to_str().ok()).unwrap_or("unknown error")
}
