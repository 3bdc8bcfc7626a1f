//! Descriptors: standard streams, polling, pipes, terminals, and descriptors received over a socket.

use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::check;

/// Takes descriptors 0 and 1 away, to be closed on exec, and leaves `/dev/null` in their place.
pub(crate) fn take_standard_streams() -> io::Result<(OwnedFd, OwnedFd)> {
    let taken = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..2 {
        // SAFETY: dup2 replaces descriptors 0 and 1; in this program nothing but `std`'s unbuffered handles refers to them.
        check(unsafe { libc::dup2(null.as_raw_fd(), standard) })?;
    }
    Ok(taken)
}

/// What is waited for on one descriptor, and what came of it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Poll(libc::pollfd);

impl Poll {
    /// No descriptor: never ready.
    pub(crate) const NONE: Self = Self::new(-1, 0);

    const fn new(fd: RawFd, events: i16) -> Self {
        Self(libc::pollfd { fd, events, revents: 0 })
    }

    /// Bytes, a connection, or the other side's end.
    pub(crate) fn input(fd: &(impl AsRawFd + ?Sized)) -> Self {
        Self::new(fd.as_raw_fd(), libc::POLLIN)
    }

    /// Room to write, or the other side's end.
    pub(crate) fn output(fd: &(impl AsRawFd + ?Sized)) -> Self {
        Self::new(fd.as_raw_fd(), libc::POLLOUT)
    }

    /// The other side's end only.
    pub(crate) fn hangup(fd: &(impl AsRawFd + ?Sized)) -> Self {
        Self::new(fd.as_raw_fd(), 0)
    }

    /// A notification, as kernel files give it.
    pub(crate) fn notice(fd: &(impl AsRawFd + ?Sized)) -> Self {
        Self::new(fd.as_raw_fd(), libc::POLLPRI)
    }

    /// Whether anything came.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until something is ready or the time is over, rounded up to milliseconds; false when it is over.
pub(crate) fn poll(descriptors: &mut [Poll], timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    // SAFETY: `Poll` is a transparent pollfd, so the pointer is valid for that many of them. Descriptors that were closed
    // meanwhile are reported by the kernel and touch no memory.
    let ready =
        unsafe { libc::poll(descriptors.as_mut_ptr().cast(), descriptors.len() as libc::nfds_t, timeout) };
    match check(ready) {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// Makes reads give `WouldBlock` instead of waiting.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument and touches no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes an integer and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Asks for a larger pipe. The kernel may refuse, and the pipe works as it is.
pub(crate) fn enlarge_pipe(fd: BorrowedFd<'_>, bytes: i32) {
    // SAFETY: F_SETPIPE_SZ takes an integer and touches no memory.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// How many bytes can be read at once from a pipe or terminal.
pub(crate) fn readable_bytes(fd: BorrowedFd<'_>) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int through the pointer, which is valid for that.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD as _, &raw mut count) };
    if result < 0 { 0 } else { usize::try_from(count).unwrap_or(0) }
}

/// Sets a terminal's size in characters.
pub(crate) fn resize_terminal(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer, which is valid for that.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) })?;
    Ok(())
}

/// Receives one descriptor over a unix socket, without waiting for it.
pub(crate) fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// Room for one control message with one descriptor, aligned as the kernel wants it.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    let (mut control, mut data) = (Control([0; 64]), [0u8; 4096]);
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: msghdr is plain data for which all-zero bytes are valid.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header points to buffers of the lengths that it names, and all of them outlive the call.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the header was filled by recvmsg; CMSG_FIRSTHDR gives null or an aligned header within the control buffer.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    match header {
        Some(header) if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS => {
            // SAFETY: a message of type SCM_RIGHTS carries at least one descriptor, which now belongs to this process alone.
            Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()) })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the message carries no descriptor")),
    }
}

/// The most descriptors that [`send_descriptors`] sends.
const DESCRIPTORS_MAX: usize = 3;

/// Sends bytes with descriptors over a unix socket, at once or not at all.
pub(crate) fn send_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    /// Room for one control message with that many descriptors, aligned as the kernel wants it.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    let count = descriptors.len();
    if count > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain data for which all-zero bytes are valid.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if count > 0 {
        let length = count * size_of::<RawFd>();
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: both are computations; three descriptors take 32 bytes of the 64.
        let (space, head) = unsafe { (libc::CMSG_SPACE(length as u32), libc::CMSG_LEN(length as u32)) };
        message.msg_controllen = space as _;
        // SAFETY: the control buffer is aligned and holds the space that the header names, so that CMSG_FIRSTHDR gives
        // a header within it, and CMSG_DATA room for the descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = head as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (index, descriptor) in descriptors.iter().enumerate() {
                data.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the header points to buffers of the lengths that it names, which are read and outlive the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    match usize::try_from(sent) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
