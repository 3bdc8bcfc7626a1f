//! The container's standard streams: pipes, or the terminal that the runtime makes and hands over.

use std::fs::{self, File};
use std::io::{self, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, fchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;

use podd_monitor::protocol::{Settings, Stage, UserNamespace};

use crate::failure::{Described, Failure, Staged};
use crate::sys::descriptor::{enlarge_pipe, receive_descriptor, set_nonblocking};
use crate::sys::mount::make_null;

/// Room for what a container writes while the monitor waits for the disk. Memory is used as it fills.
const PIPE_BYTES: i32 = 256 << 10;

const CONSOLE_NAME: &str = "console";

/// What the runtime, and through it the container, gets as descriptors 0, 1 and 2.
pub(crate) struct ChildStreams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl ChildStreams {
    /// Puts a node of its own into the place of the host's `/dev/null`, made in a directory that only the container has:
    /// crun before 1.24 gives whatever it finds as standard streams to the root of the user namespace.
    pub(crate) fn without_the_hosts_null(self, directory: &Path) -> Result<Self, Failure> {
        let path = directory.join("null");
        let null = make_null(&path)
            .and_then(|()| File::options().read(true).write(true).open(&path))
            .and_then(|null| fs::remove_file(&path).map(|()| null))
            .described(format_args!("make the null device {}", path.display()))
            .at(Stage::Stdio)?;
        let own = |stream: OwnedFd| match is_pipe(stream.as_fd())? {
            true => Ok(stream),
            false => null.try_clone().map(OwnedFd::from),
        };
        let streams = || -> io::Result<Self> {
            Ok(Self { stdin: own(self.stdin)?, stdout: own(self.stdout)?, stderr: own(self.stderr)? })
        };
        streams().described("open the null device").at(Stage::Stdio)
    }
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
        if let Some(namespace) = &settings.user_namespace {
            // A container may open its streams anew by name, as /dev/stderr, and has no rights to another's pipes.
            for pipe in [&child_stdin, &child_stdout, &child_stderr] {
                own(pipe.as_fd(), namespace)?;
            }
        }
        let child = ChildStreams { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr };
        Ok((Streams { stdin, stdout, stderr }, child))
    };
    make().described("make pipes").at(Stage::Stdio)
}

/// Gives a pipe to the root of a user namespace; the host's `/dev/null` is nobody's to give.
fn own(stream: BorrowedFd<'_>, namespace: &UserNamespace) -> io::Result<()> {
    match is_pipe(stream)? {
        true => fchown(stream, Some(namespace.uid), Some(namespace.gid)),
        false => Ok(()),
    }
}

fn is_pipe(stream: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(File::from(stream.try_clone_to_owned()?).metadata()?.file_type().is_fifo())
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
