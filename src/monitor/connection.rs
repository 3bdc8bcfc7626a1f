//! One connection to a monitor: a task that owns the socket, and handles that talk to it.
//!
//! The monitor answers requests in their order, so the task keeps the askers in a queue. An asker that has gone away is
//! answered into the void, and the next answers still find their askers.

use std::collections::VecDeque;
use std::io;

use podd_monitor::protocol::{Frames, MAX_CONTROL_FRAME, Report, Request, VERSION, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::{ANSWER_PATIENCE, ExitRecord, MonitorError};

/// Requests that wait for the task; more askers wait for their turn.
const QUEUE: usize = 8;

/// A handle to a living monitor. Clones share one connection, which closes with the last of them.
#[derive(Debug, Clone)]
pub struct Monitor {
    questions: mpsc::Sender<Question>,
    end: watch::Receiver<Option<Ended>>,
}

/// How the connection to a monitor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The container's init has ended.
    Exited(ExitRecord),
    /// The monitor has closed the connection without a word: it was killed. There may be an exit record all the same.
    Lost,
}

/// What a monitor says of its container's init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitState {
    /// The init's pid.
    pub pid: u32,
    /// Its start time in clock ticks since boot.
    pub start_time: u64,
    /// Whether it is alive.
    pub alive: bool,
}

#[derive(Debug)]
struct Question {
    request: Request,
    answer: oneshot::Sender<Report>,
}

impl Monitor {
    /// Greets a monitor on a new connection.
    pub(super) async fn greet(stream: UnixStream, deadline: Instant) -> Result<Self, MonitorError> {
        let mut wire = Wire::new(stream);
        Self::exchange_greetings(&mut wire, deadline).await?;
        Ok(Self::start(wire))
    }

    /// Says who we are, and hears with whom we speak.
    pub(super) async fn exchange_greetings(wire: &mut Wire, deadline: Instant) -> Result<(), MonitorError> {
        let greeting = async {
            wire.send(&Request::Hello(VERSION)).await.map_err(|_| MonitorError::Ended("answer"))?;
            match wire.report().await? {
                Some(Report::Hello(version)) => check(version),
                Some(Report::Refused(text)) => Err(MonitorError::Refused { operation: "talk", text }),
                Some(other) => Err(MonitorError::Protocol(format!("it greets with {other:?}"))),
                None => Err(MonitorError::Ended("answer")),
            }
        };
        let patience = ANSWER_PATIENCE;
        let silent = |_| MonitorError::Silent { operation: "answer", patience };
        timeout_at(deadline, greeting).await.map_err(silent)?
    }

    /// Serves a connection on which the greetings are over.
    pub(super) fn start(wire: Wire) -> Self {
        let (questions, asked) = mpsc::channel(QUEUE);
        let (ended, end) = watch::channel(None);
        tokio::spawn(async move {
            let result = serve(wire, asked).await;
            ended.send_replace(Some(result));
        });
        Self { questions, end }
    }

    /// Tells the monitor that the container is recorded. From now on the daemon's death changes nothing for it.
    pub async fn commit(&self) -> Result<(), MonitorError> {
        self.command("commit", Request::Commit).await
    }

    /// Has the monitor open the log's path anew (CRI `ReopenContainerLog`).
    pub async fn reopen_log(&self) -> Result<(), MonitorError> {
        self.command("reopen the log", Request::ReopenLog).await
    }

    /// Sets the size of the container's terminal in characters.
    pub async fn resize(&self, width: u16, height: u16) -> Result<(), MonitorError> {
        self.command("resize the terminal", Request::Resize { width, height }).await
    }

    /// Closes the container's standard input.
    pub async fn close_stdin(&self) -> Result<(), MonitorError> {
        self.command("close the standard input", Request::CloseStdin).await
    }

    /// Asks for the init's state.
    pub async fn state(&self) -> Result<InitState, MonitorError> {
        match self.ask("tell its state", Request::State).await? {
            Report::State { pid, start_time, alive } => Ok(InitState { pid, start_time, alive }),
            other => Err(MonitorError::Protocol(format!("{other:?} is no state"))),
        }
    }

    /// Resolves when the container's init has ended or the connection is lost. Any number may wait, and stop to.
    pub async fn exited(&self) -> Ended {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ended)) => *ended,
            Ok(None) | Err(_) => Ended::Lost,
        }
    }

    async fn command(&self, operation: &'static str, request: Request) -> Result<(), MonitorError> {
        match self.ask(operation, request).await? {
            Report::Done => Ok(()),
            other => Err(MonitorError::Protocol(format!("{other:?} is no answer to {operation}"))),
        }
    }

    async fn ask(&self, operation: &'static str, request: Request) -> Result<Report, MonitorError> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            self.questions.send(Question { request, answer }).await.ok()?;
            answered.await.ok()
        };
        let patience = ANSWER_PATIENCE;
        let silent = |_| MonitorError::Silent { operation, patience };
        match timeout(patience, exchange).await.map_err(silent)? {
            Some(Report::Refused(text)) => Err(MonitorError::Refused { operation, text }),
            Some(report) => Ok(report),
            None => Err(MonitorError::Ended(operation)),
        }
    }
}

/// Whether this daemon can talk to a monitor of that version.
pub(super) fn check(version: Version) -> Result<(), MonitorError> {
    if version.major == VERSION.major {
        return Ok(());
    }
    Err(MonitorError::Protocol(format!("it speaks protocol {version}, this daemon {VERSION}")))
}

/// A connection with the bytes of it that are not understood yet.
pub(super) struct Wire {
    stream: UnixStream,
    frames: Frames,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, frames: Frames::new(MAX_CONTROL_FRAME) }
    }

    /// The socket itself, for whoever expects more than reports.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&request.encode()).await
    }

    /// The next report; `None` when the monitor has closed the connection. May be dropped at any time.
    pub(super) async fn report(&mut self) -> Result<Option<Report>, MonitorError> {
        loop {
            if let Some((kind, payload)) = self.frames.take()? {
                return Ok(Some(Report::decode(kind, payload)?));
            }
            if self.stream.readable().await.is_err() || !self.receive() {
                return Ok(None);
            }
        }
    }

    /// Takes what has come; false at the end. The buffer is on the stack here, so no waiting task carries one.
    fn receive(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.frames.push(&bytes[..count]);
                true
            }
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Carries questions to the monitor and answers back, until either side has ended.
async fn serve(mut wire: Wire, mut asked: mpsc::Receiver<Question>) -> Ended {
    let mut waiting: VecDeque<oneshot::Sender<Report>> = VecDeque::new();
    loop {
        tokio::select! {
            question = asked.recv() => {
                let Some(Question { request, answer }) = question else { return Ended::Lost };
                if wire.send(&request).await.is_err() {
                    // The monitor may have said something before it went.
                    return last_words(&mut wire).await;
                }
                if request == Request::Commit {
                    // Not answered: it counts from the moment that it is on its way.
                    let _ = answer.send(Report::Done);
                } else {
                    waiting.push_back(answer);
                }
            }
            report = wire.report() => match report {
                Ok(Some(Report::Exited(exit))) => return Ended::Exited(exit.into()),
                Ok(Some(report @ (Report::Done | Report::Refused(_) | Report::State { .. }))) => {
                    if let Some(answer) = waiting.pop_front() {
                        let _ = answer.send(report);
                    }
                }
                Ok(Some(Report::Warning(text))) => tracing::warn!(text, "a monitor warns"),
                Ok(Some(Report::Hello(_)
                    | Report::Created { .. }
                    | Report::Timing(_)
                    | Report::Failed { .. }
                    | Report::Attached { .. }
                    | Report::Unknown(_))) => {}
                Ok(None) => return Ended::Lost,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the connection to a monitor is closed");
                    return Ended::Lost;
                }
            },
        }
    }
}

async fn last_words(wire: &mut Wire) -> Ended {
    while let Ok(Some(report)) = wire.report().await {
        if let Report::Exited(exit) = report {
            return Ended::Exited(exit.into());
        }
    }
    Ended::Lost
}
