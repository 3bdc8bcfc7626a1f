//! Processes and signals. The monitor has one thread, so a forked child may do all that its parent may.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::FromRawFd;
use std::ptr;

use super::check;

/// Which of the two processes returns from [`fork`].
pub(crate) enum Fork {
    Parent(i32),
    Child,
}

/// Makes a copy of this process.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the program has one thread, so no lock is held by a thread that the child would lack.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Starts a session of its own and becomes the parent of all orphans below.
pub(crate) fn become_session_and_subreaper() -> io::Result<()> {
    // SAFETY: neither call touches memory. That a process leads a group already is no fault here.
    unsafe { libc::setsid() };
    // SAFETY: this option takes one integer.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    // SAFETY: the name is a C string of less than 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"podd-monitor".as_ptr(), 0, 0, 0) };
    Ok(())
}

/// Has this process killed when its parent dies.
pub(crate) fn die_with_parent() {
    // SAFETY: this option takes one integer.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

/// Runs `work` as one who owns what it makes in file systems as `uid` and `gid`, with all the rights that it has.
pub(crate) fn making_files_as<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> io::Result<T> {
    // Otherwise the rights to files go with the user 0.
    const KEEP_RIGHTS: libc::c_int = 1 << 2;
    // SAFETY: the option takes no argument.
    let bits = check(unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) })?;
    // SAFETY: the option takes one integer.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits | KEEP_RIGHTS, 0, 0, 0) })?;
    // SAFETY: these calls touch no memory. They give the IDs from before and cannot fail for who may change them.
    let before = unsafe { (libc::setfsuid(uid), libc::setfsgid(gid)) };
    let done = work();
    // SAFETY: as above; the IDs are those that the kernel has given.
    unsafe { (libc::setfsuid(before.0.cast_unsigned()), libc::setfsgid(before.1.cast_unsigned())) };
    // SAFETY: the option takes one integer.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) })?;
    Ok(done)
}

/// Sets the mask of permissions that new files never get.
pub(crate) fn set_umask(mask: u32) {
    // SAFETY: umask touches no memory and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Sends a signal to a child that was not waited for yet.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: kill touches no memory. The pid is that of a child, which stays a zombie until it is waited for.
    unsafe { libc::kill(pid, signal) };
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Exited(i32),
    Signalled(i32),
}

/// The next child that has ended, if there is one.
pub(crate) fn reap() -> Option<(i32, Status)> {
    let mut status = 0;
    // SAFETY: the pointer is valid for the write of one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let status = if libc::WIFSIGNALED(status) {
        Status::Signalled(libc::WTERMSIG(status))
    } else {
        Status::Exited(libc::WEXITSTATUS(status))
    };
    Some((pid, status))
}

/// Blocks every signal that can be blocked, so that none ends this process, and gives a descriptor that is readable while
/// an ended child waits.
pub(crate) fn block_signals() -> io::Result<File> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set; faults of this program itself keep their effect because the kernel forces them.
    let set = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    };
    // SAFETY: the set is initialised, and a null pointer asks for no old mask.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) })?;
    let children = signals(&[libc::SIGCHLD]);
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    let fd =
        check(unsafe { libc::signalfd(-1, &raw const children, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Gives every signal its default effect and unblocks all, as a new program expects it.
pub(crate) fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of this program; signals that cannot be set are refused by the kernel.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = signals(&[]);
    // SAFETY: the set is initialised, and a null pointer asks for no old mask.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// Waits for one of a few signals, which must be blocked.
pub(crate) fn wait_for_signal(awaited: &[i32]) -> i32 {
    let set = signals(awaited);
    // SAFETY: the set is initialised, and a null pointer asks for no details.
    unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) }
}

fn signals(members: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before it is used, and sigaddset only refuses numbers that are no signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in members {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}
