//! The container's standard streams: pipes, or the terminal that the runtime makes and hands over.

use std::fs::{self, File};
use std::io::{self, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;

use podd_monitor::protocol::{Settings, Stage};

use crate::failure::{Described, Failure, Staged};
use crate::sys::descriptor::{enlarge_pipe, receive_descriptor, set_nonblocking};

/// Room for what a container writes while the monitor waits for the disk. Memory is used as it fills.
const PIPE_BYTES: i32 = 256 << 10;

const CONSOLE_NAME: &str = "console";

/// What the runtime, and through it the container, gets as descriptors 0, 1 and 2.
pub(crate) struct ChildStreams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What the monitor keeps.
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    /// The container's standard output, or nothing until its terminal comes.
    pub(crate) stdout: Option<OwnedFd>,
    /// The container's standard error; with a terminal only that of the runtime.
    pub(crate) stderr: OwnedFd,
}

/// Makes the pipes of a container.
pub(crate) fn open(settings: &Settings) -> Result<(Streams, ChildStreams), Failure> {
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let make = || -> io::Result<_> {
        let (stderr, child_stderr) = output_pipe()?;
        let (stdout, child_stdout) = match settings.terminal {
            true => (None, null()?),
            false => output_pipe().map(|(read, write)| (Some(read), write))?,
        };
        let (stdin, child_stdin) = match settings.stdin && !settings.terminal {
            true => pipe().map(|(read, write)| (Some(write.into()), read.into()))?,
            false => (None, null()?),
        };
        let child = ChildStreams { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr };
        Ok((Streams { stdin, stdout, stderr }, child))
    };
    make().described("make pipes").at(Stage::Stdio)
}

fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    set_nonblocking(read.as_fd())?;
    enlarge_pipe(read.as_fd(), PIPE_BYTES);
    Ok((read.into(), write.into()))
}

/// The socket on which the runtime hands over the terminal's master side.
pub(crate) struct Console {
    listener: UnixListener,
    connection: Option<UnixStream>,
    directory: File,
    file: PathBuf,
}

impl Console {
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Failure> {
        let (listener, directory) = listen(state_dir, CONSOLE_NAME).at(Stage::Stdio)?;
        Ok(Self { listener, connection: None, directory, file: state_dir.join(CONSOLE_NAME) })
    }

    /// The socket's path for the runtime: short, however deep the state directory lies.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}/{CONSOLE_NAME}", process::id(), self.directory.as_raw_fd())
    }

    /// What to wait for before the next [`Self::receive`].
    pub(crate) fn awaited(&self) -> &dyn AsRawFd {
        match &self.connection {
            Some(connection) => connection,
            None => &self.listener,
        }
    }

    /// The terminal, if it has come.
    pub(crate) fn receive(&mut self) -> Result<Option<OwnedFd>, Failure> {
        let result = match &self.connection {
            None => self.listener.accept().map(|(connection, _)| {
                self.connection = Some(connection);
                None
            }),
            Some(connection) => receive_descriptor(connection.as_fd()).and_then(|terminal| {
                set_nonblocking(terminal.as_fd())?;
                Ok(Some(terminal))
            }),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.described("receive the terminal from the runtime").at(Stage::Stdio),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Listens on a socket in a directory of any depth; also gives the directory, through which the path is short.
pub(crate) fn listen(directory: &Path, name: &str) -> Result<(UnixListener, File), String> {
    let path = directory.join(name);
    let handle = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)
        .described(format_args!("open {}", directory.display()))?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(format!("remove {}: {e}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .described(format_args!("listen on {}", path.display()))?;
    Ok((listener, handle))
}
