//! From the settings to a created container, or to nothing: a creation that fails or is abandoned is undone.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use podd_monitor::protocol::{Report, Settings, Stage, Timing};

use crate::child::{Create, start_quietly};
use crate::control::Connection;
use crate::failure::{Described, Failure, Staged};
use crate::reaper::Reaper;
use crate::stdio::{self, Console, Streams};
use crate::sys::descriptor::{Poll, poll};
use crate::sys::process::{Status, kill};
use crate::words;

/// How long `<runtime> delete` may take, and how long killed processes may take to end.
const UNDO_PATIENCE: Duration = Duration::from_secs(10);

/// A container whose init waits for its start.
pub(crate) struct Container {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) streams: Streams,
    pub(crate) timing: Timing,
}

/// Why there is no container.
pub(crate) enum NotCreated {
    Failed(Failure),
    /// The daemon has died: there is nobody to tell.
    Abandoned,
}

impl From<Failure> for NotCreated {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Runs `<runtime> create`. What it leaves behind when it fails is for [`undo`].
pub(crate) fn create(
    settings: &Settings,
    daemon: &mut Connection,
    reaper: &mut Reaper,
    oom_score: Option<&str>,
) -> Result<Container, NotCreated> {
    let (mut streams, child_streams) = stdio::open(settings)?;
    let mut console = settings.terminal.then(|| Console::open(&settings.state_dir)).transpose()?;
    let console_path = console.as_ref().map(Console::path);
    let (began, clock) = (SystemTime::now(), Instant::now());
    let runtime = Create::start(settings, child_streams, console_path.as_deref(), oom_score)?;
    join_cgroups(settings, daemon);

    let mut waiting = Waiting {
        runtime: &runtime,
        daemon,
        reaper,
        console: console.as_mut(),
        terminal: None,
        others: vec![],
    };
    let status = waiting.run(settings.create_timeout)?;
    let Waiting { terminal, others, .. } = waiting;
    let took = clock.elapsed();
    // One that was killed for its slowness may have left others with the pipe.
    let (mount, early) = status.map_or((0, None), |_| runtime.outcome());
    if status != Some(Status::Exited(0)) {
        return Err(early.unwrap_or_else(|| words::failure(settings, status, &streams.stderr)).into());
    }
    let pid = read_pid(&settings.pid_file).at(Stage::Create)?;
    if let Some((_, status)) = others.iter().find(|(other, _)| *other == pid) {
        let text = format!("the container's init ended before it could be started: {}", words::end(*status));
        return Err(Failure::new(Stage::Create, text).into());
    }
    let start_time = start_time(pid).at(Stage::Create)?;
    if settings.terminal {
        let missing = || Failure::new(Stage::Stdio, "the runtime has not handed over a terminal");
        streams.stdout = Some(terminal.ok_or_else(missing)?);
    }
    Ok(Container { pid, start_time, streams, timing: timing(began, mount, took) })
}

fn timing(began: SystemTime, mount: u64, took: Duration) -> Timing {
    let began = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    Timing { began: i64::try_from(began).unwrap_or(i64::MAX), mount, create: took.saturating_sub(mount) }
}

/// Joins the monitors' cgroups while the runtime is at work: the kernel may take ten milliseconds for it, because every
/// process must have noticed before one can move.
fn join_cgroups(settings: &Settings, daemon: &mut Connection) {
    for path in &settings.cgroup_procs {
        if let Err(error) = fs::write(path, "0") {
            let text = format!("join the cgroup {}: {error}", path.display());
            let _ = daemon.send(&Report::Warning(text));
        }
    }
}

/// The time between the runtime's start and its end.
struct Waiting<'a> {
    runtime: &'a Create,
    daemon: &'a Connection,
    reaper: &'a mut Reaper,
    console: Option<&'a mut Console>,
    terminal: Option<OwnedFd>,
    /// Other children that have ended meanwhile: one may be the init.
    others: Vec<(i32, Status)>,
}

impl Waiting<'_> {
    /// How the runtime ended; `None` if it has not in time, and was killed.
    fn run(&mut self, patience: Duration) -> Result<Option<Status>, NotCreated> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.reap();
            self.receive_terminal()?;
            if status.is_some() {
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                kill(self.runtime.pid, libc::SIGKILL);
                return Ok(None);
            }
            let console = match (&self.console, &self.terminal) {
                (Some(console), None) => Poll::input(console.awaited()),
                _ => Poll::NONE,
            };
            let mut awaited = [Poll::input(self.reaper), Poll::hangup(self.daemon), console];
            poll(&mut awaited, Some(left)).described("poll").at(Stage::Process)?;
            if awaited[1].is_ready() {
                return Err(NotCreated::Abandoned);
            }
        }
    }

    /// The runtime's end, if it has ended.
    fn reap(&mut self) -> Option<Status> {
        let (runtime, others, mut ended) = (self.runtime.pid, &mut self.others, None);
        self.reaper.reap(|pid, status| match pid == runtime {
            true => ended = Some(status),
            false => others.push((pid, status)),
        });
        ended
    }

    /// Takes the terminal if it has come: two steps, the connection and the message.
    fn receive_terminal(&mut self) -> Result<(), Failure> {
        if let (Some(console), None) = (&mut self.console, &self.terminal) {
            self.terminal = console.receive()?;
            if self.terminal.is_none() {
                self.terminal = console.receive()?;
            }
        }
        Ok(())
    }
}

/// Kills all that a creation has started and has the runtime forget the container.
pub(crate) fn undo(settings: &Settings, reaper: &mut Reaper, oom_score: Option<&str>) {
    reaper.kill_all(UNDO_PATIENCE);
    if let Ok(pid) = start_quietly(&settings.delete, oom_score) {
        reaper.wait_for(pid, UNDO_PATIENCE);
    }
    reaper.kill_all(UNDO_PATIENCE);
}

fn read_pid(path: &Path) -> Result<i32, String> {
    let text = fs::read_to_string(path).described(format_args!("read {}", path.display()))?;
    match text.trim().parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(format!("{} holds {text:?}, which is no pid", path.display())),
    }
}

/// Field 22 of `/proc/<pid>/stat`. The name, field 2, may hold spaces and parentheses; what follows it does not.
fn start_time(pid: i32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).described(format_args!("read {path}"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = after_name.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok());
    field.ok_or_else(|| format!("{path} has no start time"))
}
