//! Starts a monitor and waits for its container.
//!
//! The monitor gets its end of the socket as standard input and the locked lock file as standard output, so it inherits
//! these two descriptors and no other. It makes both its own at once; its container never sees them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use podd_monitor::protocol::{LOCK_FILE, Report, Request, Settings, Timing, VERSION};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::connection::{Monitor, Wire, check};
use super::{ANSWER_PATIENCE, MonitorError};
use crate::sys::process::Process;
use crate::sys::{self, fs};

/// What the monitor itself has to say goes here, in the state directory.
const STDERR_FILE: &str = "monitor.log";

/// The service manager's word to the daemon alone: a runtime that inherits it would pass it on into the container.
const DAEMON_ENVIRONMENT: [&str; 6] =
    ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// The minor version of the protocol from which on a monitor knows of limits of its log.
const LIMITS_LOGS: u16 = 2;

/// A monitor to be started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The path of `podd-monitor`.
    pub binary: PathBuf,
    /// What it is to create.
    pub settings: Settings,
}

/// A container that waits for its start, with its monitor. Without [`Monitor::commit`] it goes as its handle does.
#[derive(Debug)]
pub struct Created {
    /// The container's init.
    pub process: Process,
    /// The monitor.
    pub monitor: Monitor,
    /// Where the time went, if the monitor is of a version that says so.
    pub timing: Option<Timing>,
    /// What was refused that the container can do without, for instance a cgroup that the monitor could not join.
    pub warnings: Vec<String>,
}

/// Starts a monitor and waits until its container is created. Dropping the future undoes everything.
pub async fn launch(launch: &Launch) -> Result<Created, MonitorError> {
    let (ours, theirs) = StdStream::pair().map_err(|e| failed("start", &launch.binary, e))?;
    spawn(launch, theirs).await?;
    ours.set_nonblocking(true).map_err(|e| failed("start", &launch.binary, e))?;
    let stream = UnixStream::from_std(ours).map_err(|e| failed("start", &launch.binary, e))?;
    let patience = launch.settings.create_timeout + ANSWER_PATIENCE;
    let silent = |_| MonitorError::Silent { operation: "create the container", patience };
    timeout(patience, converse(stream, &launch.settings)).await.map_err(silent)?
}

async fn spawn(launch: &Launch, socket: StdStream) -> Result<(), MonitorError> {
    let state_dir = &launch.settings.state_dir;
    let lock = lock(&state_dir.join(LOCK_FILE)).await?;
    let stderr_path = state_dir.join(STDERR_FILE);
    let stderr = File::create(&stderr_path).map_err(|e| failed("create", &stderr_path, e))?;
    let mut command = Command::new(&launch.binary);
    command
        .arg("run")
        .arg(&launch.settings.container_id)
        .current_dir("/")
        .stdin(OwnedFd::from(socket))
        .stdout(OwnedFd::from(lock))
        .stderr(OwnedFd::from(stderr));
    for name in DAEMON_ENVIRONMENT {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|e| failed("start", &launch.binary, e))?;
    // Takes the exit code, so that no zombie stays. Nothing else depends on this task.
    tokio::spawn(async move { child.wait().await });
    // The command, dropped here, holds the daemon's copies of the monitor's descriptors.
    Ok(())
}

/// Says hello, sends the settings and waits for the outcome.
async fn converse(stream: UnixStream, settings: &Settings) -> Result<Created, MonitorError> {
    const OPERATION: &str = "create the container";
    let mut wire = Wire::new(stream);
    let ended = |_| MonitorError::Ended(OPERATION);
    wire.send(&Request::Hello(VERSION)).await.map_err(ended)?;
    wire.send(&Request::Settings(Box::new(settings.clone()))).await.map_err(ended)?;
    let (mut warnings, mut timing) = (Vec::new(), None);
    loop {
        match wire.report().await? {
            Some(Report::Hello(version)) => {
                check(version)?;
                if version.minor < LIMITS_LOGS && settings.log_size_max.max(settings.log_rate) > 0 {
                    let container = &settings.container_id;
                    tracing::warn!(container, %version, "the monitor is too old to limit the container's log");
                }
            }
            Some(Report::Warning(text)) => {
                tracing::warn!(container = settings.container_id, text, "the monitor warns");
                warnings.push(text);
            }
            Some(Report::Created { pid, start_time }) => {
                let process = Process { pid, start_time };
                return Ok(Created { process, monitor: Monitor::start(wire), timing, warnings });
            }
            Some(Report::Timing(told)) => timing = Some(told),
            Some(Report::Failed { stage, text }) => return Err(MonitorError::Failed { stage, text }),
            Some(Report::Refused(text)) => return Err(MonitorError::Refused { operation: OPERATION, text }),
            Some(
                other @ (Report::Done | Report::Attached { .. } | Report::State { .. } | Report::Exited(_)),
            ) => {
                return Err(MonitorError::Protocol(format!("{other:?} comes before the container")));
            }
            Some(Report::Unknown(_)) => {}
            None => return Err(MonitorError::Ended(OPERATION)),
        }
    }
}

/// The lock that says that a monitor lives. Whoever asks whether one does holds it for an instant.
async fn lock(path: &Path) -> Result<File, MonitorError> {
    let file = File::create(path).map_err(|e| failed("create", path, e))?;
    let unlocked = |e| failed("lock", path, e);
    if fs::try_lock(&file).map_err(unlocked)? {
        return Ok(file);
    }
    let soon = sys::blocking(move || fs::lock_soon(&file).map(|locked| locked.then_some(file))).await;
    soon.map_err(unlocked)?.ok_or_else(|| MonitorError::Busy(path.parent().unwrap_or(path).to_owned()))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> MonitorError {
    MonitorError::Io { operation, path: path.to_owned(), source }
}
