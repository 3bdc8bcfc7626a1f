//! How much a thread may be in the way of others.

/// Lets the calling thread give way to others, on the processors and on the disks. What the kernel refuses stays as it is.
pub fn give_way() {
    /// IOPRIO_WHO_PROCESS; of it 0 is the calling thread.
    const OF_A_THREAD: libc::c_int = 1;
    /// The last level of the class "best effort": the class "idle" may wait for ever on a busy disk.
    const LAST: libc::c_int = 2 << 13 | 7;
    let _ = rustix::process::nice(19);
    // SAFETY: ioprio_set(2) takes three numbers and touches no memory.
    unsafe {
        libc::syscall(libc::SYS_ioprio_set, OF_A_THREAD, 0, LAST);
    }
}
