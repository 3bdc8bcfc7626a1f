//! Running the binary: one child, its output bounded, its time limited, killed with the future that waits for it.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{Runtime, RuntimeError, text};

/// The most that a runtime's own answer or complaint may have; the rest is read and dropped.
const MAX_ANSWER: usize = 1 << 20;

/// How long output may still come once the process has ended: what it wrote is in the pipe by then and has only to be
/// noticed, and a child of its that keeps the pipe open must not hold the answer.
pub(super) const GRACE: Duration = Duration::from_millis(50);

/// The output of a process, as far as it is kept.
#[derive(Debug)]
pub(super) struct Capture<R> {
    pipe: Option<R>,
    limit: usize,
    /// What was kept.
    pub(super) bytes: Vec<u8>,
    /// Whether there was more.
    pub(super) truncated: bool,
}

impl<R: AsyncRead + Unpin> Capture<R> {
    pub(super) fn new(pipe: Option<R>, limit: usize) -> Self {
        Self { pipe, limit, bytes: Vec::new(), truncated: false }
    }

    /// Reads to the end. May be dropped at any point without losing what was read.
    pub(super) async fn drain(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut dropped = Vec::new();
        loop {
            let room = self.limit - self.bytes.len();
            let read = match room {
                0 => {
                    dropped.clear();
                    dropped.reserve(64 << 10);
                    pipe.read_buf(&mut dropped).await
                }
                room => {
                    self.bytes.reserve(4096.min(room));
                    pipe.read_buf(&mut (&mut self.bytes).limit(room)).await
                }
            };
            match read {
                Ok(0) | Err(_) => return,
                Ok(_) => self.truncated |= room == 0,
            }
        }
    }
}

impl Runtime {
    /// Runs `<runtime> <operation> <options> <id>` and gives its standard output.
    pub(super) async fn run(
        &self,
        operation: &'static str,
        id: &str,
        options: &[&str],
        timeout: Duration,
    ) -> Result<Vec<u8>, RuntimeError> {
        let mut command = self.command(operation, None);
        command.args(options).args(Some(id).filter(|id| !id.is_empty()));
        self.answer(command, operation, id, timeout).await
    }

    /// Runs `<runtime> --version`.
    pub(super) async fn ask_version(&self) -> Result<Vec<u8>, RuntimeError> {
        let mut command = Command::new(&self.path);
        prepare(command.arg("--version"));
        self.answer(command, "--version", "", super::PROBE_TIMEOUT).await
    }

    /// Runs `<runtime> features`, which fails where the runtime does not know the command.
    pub(super) async fn ask_features(&self) -> Result<Vec<u8>, RuntimeError> {
        let mut command = Command::new(&self.path);
        prepare(command.arg("features"));
        self.answer(command, "features", "", super::PROBE_TIMEOUT).await
    }

    /// Runs `<runtime> kill <options> <id> <signal>`.
    pub(super) async fn signal(
        &self,
        id: &str,
        signal: i32,
        options: &[&str],
    ) -> Result<Vec<u8>, RuntimeError> {
        let mut command = self.command("kill", None);
        command.args(options).arg(id).arg(signal.to_string());
        self.answer(command, "kill", id, super::TIMEOUT).await
    }

    /// The binary with the words up to the operation, no input, output to us, in a process group of its own. Its own words
    /// go to the file `log`, or to its error stream.
    pub(super) fn command(&self, operation: &str, log: Option<&Path>) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.global()[1..]).args(["--log-format", "json"]);
        if let Some(log) = log {
            command.arg("--log").arg(log);
        }
        command.arg(operation);
        prepare(&mut command);
        command
    }

    pub(super) fn spawn(&self, command: &mut Command) -> Result<Child, RuntimeError> {
        command.spawn().map_err(|source| RuntimeError::Binary {
            runtime: self.name.clone(),
            path: self.path.clone(),
            source,
        })
    }

    async fn answer(
        &self,
        mut command: Command,
        operation: &'static str,
        id: &str,
        timeout: Duration,
    ) -> Result<Vec<u8>, RuntimeError> {
        let started = Instant::now();
        let mut child = self.spawn(&mut command)?;
        let mut stdout = Capture::new(child.stdout.take(), MAX_ANSWER);
        let mut stderr = Capture::new(child.stderr.take(), MAX_ANSWER);
        let finished = finish(child.wait(), &mut stdout, &mut stderr);
        match tokio::time::timeout(timeout, finished).await {
            Ok(Ok(status)) if status.success() => Ok(stdout.bytes),
            Ok(Ok(status)) => Err(self.failed(operation, id, started, &stderr.bytes, &status.to_string())),
            Ok(Err(source)) => Err(self.io(operation, id, source)),
            Err(_) => {
                // A runtime that hangs in the kernel dies when it returns; nobody waits for that.
                let _ = child.start_kill();
                Err(RuntimeError::Timeout {
                    runtime: self.name.clone(),
                    operation,
                    id: id.to_owned(),
                    after: timeout,
                })
            }
        }
    }

    /// An error in the runtime's own words, or where it had none with its exit status.
    pub(super) fn failed(
        &self,
        operation: &'static str,
        id: &str,
        started: Instant,
        stderr: &[u8],
        status: &str,
    ) -> RuntimeError {
        let text = match text::readable(stderr) {
            text if text.is_empty() => format!("it ended with {status} and said nothing"),
            text => text,
        };
        let took = Duration::from_millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        RuntimeError::Failed { runtime: self.name.clone(), operation, id: id.to_owned(), took, text }
    }

    pub(super) fn io(&self, operation: &'static str, id: &str, source: io::Error) -> RuntimeError {
        RuntimeError::Io { runtime: self.name.clone(), operation, id: id.to_owned(), source }
    }
}

fn prepare(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).process_group(0);
}

/// Waits for the end of a process while its output is read, and then for what is left of the output.
pub(super) async fn finish<T, A, B>(
    end: impl Future<Output = T>,
    stdout: &mut Capture<A>,
    stderr: &mut Capture<B>,
) -> T
where
    A: AsyncRead + Unpin,
    B: AsyncRead + Unpin,
{
    tokio::pin!(end);
    let drains = async { tokio::join!(stdout.drain(), stderr.drain()) };
    tokio::pin!(drains);
    tokio::select! {
        ended = &mut end => {
            let _ = tokio::time::timeout(GRACE, drains).await;
            ended
        }
        _ = &mut drains => end.await,
    }
}
