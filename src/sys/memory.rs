//! The heap.

/// Gives the heap's free pages back to the kernel: after a burst, such as a pull, glibc would keep them.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointers and is thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}
