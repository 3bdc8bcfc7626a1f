//! The socket on which an OCI runtime hands over the master side of a terminal that it made (its `--console-socket`).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// A socket that waits for one terminal. Its file goes with it.
#[derive(Debug)]
pub struct Console {
    listener: UnixListener,
    directory: OwnedFd,
    name: String,
    file: PathBuf,
}

impl Console {
    /// Listens in a directory of any depth, under a name that is not taken.
    pub fn open(directory: &Path, name: &str) -> io::Result<Self> {
        let handle = File::from(rustix::fs::open(
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        // An address holds 107 bytes of a path, too few for many a directory.
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))?;
        Ok(Self { listener, directory: handle.into(), name: name.to_owned(), file: directory.join(name) })
    }

    /// The socket's path for the runtime, as long as this lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}/{}", std::process::id(), self.directory.as_raw_fd(), self.name).into()
    }

    /// Waits for the terminal; it comes set to non-blocking.
    pub async fn terminal(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive(&stream)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn receive(socket: &impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // With it comes the terminal's name, which nobody needs.
    let mut name = [0; 4096];
    recvmsg(socket, &mut [io::IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let terminal = received.ok_or_else(|| io::Error::other("the runtime sent no terminal"))?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(terminal)
}
