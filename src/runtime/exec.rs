//! ExecSync: a command beside the container's first process, its output and its exit code.
//!
//! ```text
//!   spawn -> started? --no (no pid file)--> NotStarted
//!               | yes
//!               v
//!            running --end--> output, exit code
//!               | time limit, or the future is dropped
//!               v
//!            all that it started is killed, then the runtime --> Timeout
//! ```
//!
//! Both runtimes write the pid file once the command has been executed, so its absence tells a runtime's own failure from
//! an exit code of the command. crun hands our pipes to the command and ends with it. runc copies the output itself and so
//! waits for every process that holds it; where the daemon is a subreaper runc is told to detach, and the command, which
//! then is our child, is waited for here (B12). Where it is not, a background process that keeps the output of a runc exec
//! open holds the answer.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::Process;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::process::Child;

use super::command::{Capture, finish};
use super::mark::Mark;
use super::orphans::Expected;
use super::processes::{Stat, descendants};
use super::{Kind, Runtime, RuntimeError};
use crate::sys::console::Console;

/// The most that is kept of each of a command's output streams (B12).
const MAX_OUTPUT: usize = 16 << 20;

/// How long a killed command may take to be gone before its runtime is killed as well.
const DYING: Duration = Duration::from_secs(1);

/// How often what is left of a command is looked for and killed: enough for forks in between, an end for a fork bomb,
/// which the container's limit of processes and its own end are for.
const KILL_ROUNDS: usize = 20;

/// What a command said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub exit_code: i32,
    /// Its output, up to 16 MiB.
    pub stdout: Vec<u8>,
    /// Its error output, up to 16 MiB.
    pub stderr: Vec<u8>,
    /// Whether it said more than was kept.
    pub truncated: bool,
}

/// Why there is no exit code.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The command did not run: there is no such executable, or the runtime could not enter the container.
    #[error("command {command:?} could not be started")]
    NotStarted {
        /// The command's first word.
        command: String,
        /// What the runtime says.
        #[source]
        source: RuntimeError,
    },
    /// The command did not end in time and was killed, with all that it started.
    #[error("command {command:?} timed out after {after:?}")]
    Timeout {
        /// The command's first word.
        command: String,
        /// The limit.
        after: Duration,
    },
    /// The runtime was lost on the way.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// How the runtime's exec ended.
pub(super) enum End {
    Exited(i32),
    NotStarted(ExitStatus),
}

impl Runtime {
    /// Runs a process in a running container to its end. Its two small files are written to `dir`, which should be private
    /// and on tmpfs, and are removed. Without a timeout it may run for ever; dropping the future kills it.
    pub async fn exec_sync(
        &self,
        id: &str,
        process: &Process,
        dir: &Path,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ExecError> {
        let started = Instant::now();
        let name = process.args().as_ref().and_then(|args| args.first()).cloned().unwrap_or_default();
        let (mark, mut process) = (Mark::new(), process.clone());
        if let Some(mark) = &mark {
            mark.put_on(&mut process);
        }
        let mut session = self.begin(id, &process, dir, None, None)?;
        session.mark = mark;
        drop(session.child.stdin.take());
        let mut stdout = Capture::new(session.child.stdout.take(), MAX_OUTPUT);
        let mut stderr = Capture::new(session.child.stderr.take(), MAX_OUTPUT);
        let finished = finish(session.end(), &mut stdout, &mut stderr);
        let ended = match timeout {
            Some(after) => match tokio::time::timeout(after, finished).await {
                Ok(ended) => ended,
                Err(_) => {
                    session.stop().await;
                    return Err(ExecError::Timeout { command: name, after });
                }
            },
            None => finished.await,
        };
        session.over = true;
        match ended.map_err(|source| self.io("exec", id, source))? {
            End::Exited(exit_code) => {
                let truncated = stdout.truncated || stderr.truncated;
                Ok(ExecOutput { exit_code, stdout: stdout.bytes, stderr: stderr.bytes, truncated })
            }
            End::NotStarted(status) => {
                let source = self.failed("exec", id, started, &stderr.bytes, &status.to_string());
                Err(ExecError::NotStarted { command: name, source })
            }
        }
    }

    /// Starts the runtime's exec. With `log` its own words go to that file and not to the error stream, with `console` the
    /// command gets a terminal.
    pub(super) fn begin(
        &self,
        id: &str,
        process: &Process,
        dir: &Path,
        log: Option<&Path>,
        console: Option<&Console>,
    ) -> Result<Session, RuntimeError> {
        let files = Files::write(dir, process).map_err(|source| self.io("exec", id, source))?;
        let detached = self.kind == Kind::Runc && matches!(rustix::process::child_subreaper(), Ok(Some(_)));
        let mut command = self.command("exec", log);
        command.arg("--process").arg(&files.process).arg("--pid-file").arg(&files.pid);
        if let Some(console) = console {
            command.arg("--console-socket").arg(console.path());
        }
        if detached {
            command.arg("--detach");
        }
        let expected = detached.then(Expected::new);
        // Not /dev/null: crun gives the command's user whatever its standard streams are, the host's device too. A pipe
        // whose other end is closed reads as empty just the same.
        let child = self.spawn(command.arg(id).stdin(Stdio::piped()))?;
        hand_on_score(&child, process);
        Ok(Session { child, files, detached, expected, mark: None, over: false })
    }
}

/// crun passes over a command's `oomScoreAdj`, which then would be the daemon's own, and that of a service may be low. The
/// runtime has yet to load and to read its files before it makes the command, which inherits its score.
fn hand_on_score(runtime: &Child, process: &Process) {
    if let (Some(pid), Some(score)) = (runtime.id(), process.oom_score_adj())
        && let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
    {
        tracing::warn!(score, "setting oom_score_adj of a command: {error}");
    }
}

/// A runtime's exec and the command that it started.
pub(super) struct Session {
    pub(super) child: Child,
    files: Files,
    detached: bool,
    expected: Option<Expected>,
    /// What its processes bear.
    mark: Option<Mark>,
    pub(super) over: bool,
}

impl Session {
    pub(super) async fn end(&mut self) -> io::Result<End> {
        let status = self.child.wait().await?;
        Ok(match (status.code(), self.files.read_pid()) {
            (Some(0), Some(pid)) if self.detached => {
                let _command = self.expected.take().map(|expected| expected.is(pid));
                End::Exited(exit_of(pid).await?)
            }
            (Some(code), Some(_)) if !self.detached => End::Exited(code),
            _ => End::NotStarted(status),
        })
    }

    /// Whether the command was executed; it may have ended since.
    pub(super) fn has_started(&self) -> bool {
        self.files.read_pid().is_some()
    }

    /// Kills the command first: its runtime, still there, then takes its exit status and leaves no zombie behind. A runtime
    /// that had yet to start the command is killed with it a moment later.
    async fn stop(&mut self) {
        self.kill_command();
        let gone = async {
            let _ = self.child.wait().await;
            if let (true, Some(pid)) = (self.detached, self.files.read_pid()) {
                let _ = exit_of(pid).await;
            }
        };
        if tokio::time::timeout(DYING, gone).await.is_err() {
            self.kill_command();
            self.kill_runtime();
            let _ = tokio::time::timeout(DYING, self.child.wait()).await;
        }
        self.over = true;
    }

    /// Kills all that descends from the runtime, or detached the command that is our child by now, with each of them its
    /// session, and all that bear the mark: a daemon has left its parents and its session behind. Looks again until nothing
    /// is left: what is killed may have forked in between. Reads all of `/proc`, which only a timeout has to pay for.
    fn kill_command(&self) {
        let mut sessions = Vec::new();
        for _ in 0..KILL_ROUNDS {
            let victims = self.victims(&mut sessions);
            if victims.is_empty() {
                return;
            }
            for pid in victims.into_iter().filter_map(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Who is to be killed now. `sessions` are those of earlier victims; those of the new ones are added, but never the
    /// daemon's own or the runtime's.
    fn victims(&self, sessions: &mut Vec<i32>) -> Vec<i32> {
        let table = Stat::all();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let runtime = self.child.id().and_then(|id| i32::try_from(id).ok());
        let file = self.files.read_pid().map(|pid| pid.as_raw_nonzero().get());
        let orphan = |stat: &&Stat| stat.parent == own && file == Some(stat.pid) && runtime != Some(stat.pid);
        let marked = |stat: &&Stat| self.mark.as_ref().is_some_and(|mark| mark.is_on(stat.pid));
        let mut doomed: Vec<_> =
            table.iter().filter(|stat| orphan(stat) || marked(stat)).map(|stat| stat.pid).collect();
        doomed.extend(runtime.map(|runtime| descendants(&table, runtime)).unwrap_or_default());
        let kept = |stat: &&Stat| stat.pid == own || Some(stat.pid) == runtime;
        let kept: Vec<_> = table.iter().filter(kept).map(|stat| stat.session).collect();
        let chosen = table.iter().filter(|stat| doomed.contains(&stat.pid) && !kept.contains(&stat.session));
        sessions.extend(chosen.map(|stat| stat.session));
        let all = table.iter().filter(|stat| doomed.contains(&stat.pid) || sessions.contains(&stat.session));
        all.map(|stat| stat.pid).collect()
    }

    fn kill_runtime(&mut self) {
        let group = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.over {
            self.kill_command();
            self.kill_runtime();
        }
    }
}

/// Waits for a child that is not tokio's.
async fn exit_of(pid: Pid) -> io::Result<i32> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let pidfd = crate::sys::process::readable(pidfd)?;
    let _ready = pidfd.readable().await?;
    let id = WaitId::PidFd(rustix::fd::AsFd::as_fd(pidfd.get_ref()));
    let status = rustix::process::waitid(id, WaitIdOptions::EXITED)?;
    let lost = || io::Error::other("the command ended without a status");
    let status = status.ok_or_else(lost)?;
    let by_signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(by_signal).ok_or_else(lost)
}

/// A name for the files of one exec.
pub(super) fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("exec-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What the runtime reads and writes for one exec; removed when it is over.
struct Files {
    process: PathBuf,
    pid: PathBuf,
}

impl Files {
    fn write(dir: &Path, process: &Process) -> io::Result<Self> {
        let name = unique_name();
        let files = Self { process: dir.join(format!("{name}.json")), pid: dir.join(format!("{name}.pid")) };
        // The environment is in it, and secrets may be in the environment.
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&files.process)?;
        file.write_all(&serde_json::to_vec(process)?)?;
        Ok(files)
    }

    fn read_pid(&self) -> Option<Pid> {
        fs::read_to_string(&self.pid).ok()?.trim().parse().ok().and_then(Pid::from_raw)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.process);
        let _ = fs::remove_file(&self.pid);
    }
}
