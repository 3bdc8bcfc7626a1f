//! Exec: a command beside the container's first process, whose streams someone else serves.
//!
//! As for ExecSync the runtime gives the command our pipes, or makes a terminal and hands it over. Its own complaints go to a
//! file, because the error stream is the command's. Whoever asked may leave: the command then finds its input ended and its
//! output without a reader, and with a terminal is hung up; it is not killed for that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Process;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::exec::{End, ExecError, Session};
use super::{Runtime, RuntimeError};
use crate::sys::console::Console;

/// How much a pipe holds, in bytes: what anyone may ask for (`/proc/sys/fs/pipe-max-size`).
const PIPE_SIZE: usize = 1 << 20;

/// How long a runtime may take to hand over a terminal.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(30);

/// Which streams of a command are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// With a terminal stdout is all output, and its size can be changed.
    pub tty: bool,
}

/// The daemon's ends of a process's streams.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// Its standard input; dropped, it reads as ended.
    pub stdin: Option<pipe::Sender>,
    /// Its standard output, or all that its terminal shows.
    pub stdout: Option<pipe::Receiver>,
    /// Its standard error.
    pub stderr: Option<pipe::Receiver>,
    /// Its terminal, to change its size.
    pub terminal: Option<OwnedFd>,
}

/// A command under way.
pub struct Exec {
    session: Session,
    log: PathBuf,
    runtime: Runtime,
    id: String,
    command: String,
    began: Instant,
}

impl Runtime {
    /// Starts a process in a running container. Its small files are written to `dir`, which should be private and on tmpfs,
    /// and are removed.
    pub async fn exec(
        &self,
        id: &str,
        process: &Process,
        dir: &Path,
        wants: Wants,
    ) -> Result<(Exec, ProcessIo), ExecError> {
        let began = Instant::now();
        let fail = |source| RuntimeError::Io {
            runtime: self.name.clone(),
            operation: "exec",
            id: id.to_owned(),
            source,
        };
        let name = super::exec::unique_name();
        let console =
            wants.tty.then(|| Console::open(dir, &format!("{name}.tty"))).transpose().map_err(fail)?;
        let log = dir.join(format!("{name}.log"));
        let mut session = self.begin(id, process, dir, Some(&log), console.as_ref())?;
        if wants.tty || !wants.stdin {
            drop(session.child.stdin.take());
        }
        let command = process.args().as_ref().and_then(|args| args.first()).cloned().unwrap_or_default();
        let mut exec = Exec { session, log, runtime: self.clone(), id: id.to_owned(), command, began };
        let io = match &console {
            Some(console) => match exec.session.terminal(console).await.map_err(fail)? {
                Some(terminal) => of_terminal(terminal, wants).map_err(fail)?,
                // Its reasons are in the log.
                None => ProcessIo::default(),
            },
            None => of_pipes(&mut exec.session).map_err(fail)?,
        };
        Ok((exec, io))
    }
}

impl Session {
    /// The terminal of the command, once the runtime has handed it over; `None` when the runtime ends without having started
    /// the command. Both may have ended before anything of them is seen here: the terminal is there all the same.
    async fn terminal(&mut self, console: &Console) -> io::Result<Option<OwnedFd>> {
        let mut given = std::pin::pin!(timeout(TERMINAL_PATIENCE, console.terminal()));
        let given = tokio::select! {
            biased;
            given = &mut given => given,
            _ = self.child.wait() => match self.has_started() {
                true => given.await,
                false => return Ok(None),
            },
        };
        let late = |_| {
            let text = format!("the runtime did not hand over a terminal within {TERMINAL_PATIENCE:?}");
            io::Error::new(io::ErrorKind::TimedOut, text)
        };
        given.map_err(late)?.map(Some)
    }
}

impl Exec {
    /// Waits for the command's exit code; 128 and the signal's number where a signal ended it.
    pub async fn end(mut self) -> Result<i32, ExecError> {
        let ended = self.session.end().await;
        self.session.over = true;
        let status = match ended.map_err(|source| self.runtime.io("exec", &self.id, source))? {
            End::Exited(code) => return Ok(code),
            End::NotStarted(status) => status,
        };
        let words = std::fs::read(&self.log).unwrap_or_default();
        let source = self.runtime.failed("exec", &self.id, self.began, &words, &status.to_string());
        Err(ExecError::NotStarted { command: self.command.clone(), source })
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

fn of_pipes(session: &mut Session) -> io::Result<ProcessIo> {
    let child = &mut session.child;
    let stdin = child.stdin.take().map(|end| end.into_owned_fd()).transpose()?;
    let stdout = child.stdout.take().map(|end| end.into_owned_fd()).transpose()?;
    let stderr = child.stderr.take().map(|end| end.into_owned_fd()).transpose()?;
    let io = ProcessIo::of(stdin, stdout, stderr, None)?;
    // Fewer wake-ups for whoever moves much; a system that gives no more is as good.
    let ends = [io.stdout.as_ref().map(AsFd::as_fd), io.stdin.as_ref().map(AsFd::as_fd)];
    for end in ends.into_iter().flatten() {
        let _ = rustix::pipe::fcntl_setpipe_size(end, PIPE_SIZE);
    }
    Ok(io)
}

impl ProcessIo {
    /// Of the other ends of pipes, or of a terminal that is also where its output is read from when that is not elsewhere.
    pub fn of(
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        terminal: Option<OwnedFd>,
    ) -> io::Result<Self> {
        // The kernel has pipes and terminals under one roof; what tokio checks for is a pipe.
        let sender = |end: OwnedFd| {
            rustix::io::ioctl_fionbio(&end, true)?;
            pipe::Sender::from_owned_fd_unchecked(end)
        };
        let receiver = |end: OwnedFd| {
            rustix::io::ioctl_fionbio(&end, true)?;
            pipe::Receiver::from_owned_fd_unchecked(end)
        };
        Ok(Self {
            stdin: stdin.map(sender).transpose()?,
            stdout: stdout.map(receiver).transpose()?,
            stderr: stderr.map(receiver).transpose()?,
            terminal,
        })
    }
}

fn of_terminal(terminal: OwnedFd, wants: Wants) -> io::Result<ProcessIo> {
    let stdin = if wants.stdin { Some(terminal.try_clone()?) } else { None };
    ProcessIo::of(stdin, Some(terminal.try_clone()?), None, Some(terminal))
}
