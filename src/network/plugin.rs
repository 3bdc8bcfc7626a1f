//! One run of one plugin: environment and configuration in, bounded output back.
//!
//! A plugin is somebody else's program, so nothing of it is trusted: its time, its output and the words of its errors
//! are limited, and one that is given up, also because the caller went away, is killed with its whole process group.

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Command, Failure};

/// The most that is read of a plugin's result: results are a few kilobytes.
const MAX_OUTPUT: usize = 1 << 20;

/// What is kept of a plugin's stderr: its end, where the reason is.
const MAX_STDERR: usize = 4 << 10;

/// What is shown of a text that a plugin wrote.
const MAX_SHOWN: usize = 1 << 10;

/// How long output may follow the end of a plugin that left a process behind with its pipes.
const LINGER: Duration = Duration::from_millis(500);

/// One run: a binary and all that it is told.
#[derive(Debug)]
pub(super) struct Run<'a> {
    /// The plugin's binary.
    pub(super) path: &'a Path,
    /// The operation.
    pub(super) command: Command,
    /// The `CNI_*` variables besides `CNI_COMMAND`; they join the daemon's own environment (plugins need its PATH).
    pub(super) environment: &'a [(&'static str, OsString)],
    /// The configuration for its stdin.
    pub(super) config: &'a [u8],
    /// When it is given up.
    pub(super) deadline: Instant,
}

impl Run<'_> {
    /// What the plugin wrote to stdout, if it reported success.
    pub(super) async fn execute(&self) -> Result<Vec<u8>, Failure> {
        let mut output = Output::default();
        let mut group = self.start()?;
        let ended = timeout_at(self.deadline, group.converse(self.config, &mut output)).await;
        drop(group);
        let stderr = printable(&output.stderr);
        let Ok(ended) = ended else { return Err(Failure::Timeout { stderr }) };
        let status = ended.map_err(|interrupted| match interrupted {
            Interrupted::Flood => Failure::Flood { limit: MAX_OUTPUT },
            Interrupted::Wait(source) => Failure::Start { path: self.path.to_owned(), source },
        })?;
        if !status.success() {
            return Err(explain(status, &output.stdout, stderr));
        }
        if !stderr.is_empty() {
            tracing::debug!(plugin = %self.path.display(), command = %self.command, stderr, "CNI plugin wrote to stderr");
        }
        Ok(output.stdout)
    }

    fn start(&self) -> Result<Group, Failure> {
        let mut command = tokio::process::Command::new(self.path);
        for variable in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "NOTIFY_SOCKET"] {
            command.env_remove(variable);
        }
        command
            .env("CNI_COMMAND", self.command.as_str())
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map(Group)
            .map_err(|source| Failure::Start { path: self.path.to_owned(), source })
    }
}

/// A running plugin, alone in its process group; dropped while it runs, the group is killed.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The ID is there as long as the leader is not reaped, and so long nobody else can have it.
        let leader = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(leader) = leader {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

#[derive(Debug, Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

enum Interrupted {
    Flood,
    Wait(std::io::Error),
}

impl Group {
    /// Feeds and drains the plugin until it has ended.
    async fn converse(&mut self, config: &[u8], output: &mut Output) -> Result<ExitStatus, Interrupted> {
        let (stdin, stdout, stderr) = (self.0.stdin.take(), self.0.stdout.take(), self.0.stderr.take());
        let Output { stdout: result, stderr: messages } = output;
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A plugin may end without reading its configuration; its status tells what that means.
                let _ = stdin.write_all(config).await;
            }
            Ok(())
        };
        let streams = async { tokio::try_join!(feed, head(stdout, result), tail(stderr, messages)) };
        let mut streams = pin!(streams);
        tokio::select! {
            drained = &mut streams => {
                drained?;
                self.0.wait().await.map_err(Interrupted::Wait)
            }
            status = self.0.wait() => {
                if let Ok(drained) = timeout(LINGER, streams).await {
                    drained?;
                }
                status.map_err(Interrupted::Wait)
            }
        }
    }
}

/// Reads all, and refuses more than a result can be.
async fn head(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Interrupted> {
    if let Some(stream) = stream {
        let _ = stream.take(MAX_OUTPUT as u64 + 1).read_to_end(into).await;
    }
    if into.len() > MAX_OUTPUT { Err(Interrupted::Flood) } else { Ok(()) }
}

/// Reads all and keeps the end.
async fn tail(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Interrupted> {
    let Some(mut stream) = stream else { return Ok(()) };
    let mut buffer = [0; MAX_STDERR];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        into.extend_from_slice(&buffer[..n]);
        into.drain(..into.len().saturating_sub(MAX_STDERR));
    }
    Ok(())
}

/// The error of a plugin: in the specification's form on stdout, or whatever it left.
fn explain(status: ExitStatus, stdout: &[u8], stderr: String) -> Failure {
    #[derive(Deserialize)]
    struct Reported {
        code: u64,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    match serde_json::from_slice::<Reported>(stdout) {
        Ok(Reported { code, msg, details }) => {
            let text = if details.is_empty() { msg } else { format!("{msg}: {details}") };
            Failure::Reported { code, message: printable(text.as_bytes()), stderr }
        }
        Err(_) => Failure::Exit { status, stdout: printable(stdout), stderr },
    }
}

/// A plugin's text on one line, without control characters, cut to what an error can hold.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_STDERR)]);
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
