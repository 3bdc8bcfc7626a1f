//! The monitor's life beside a created container: one loop over its streams, its end, and the daemon's requests.
//!
//! ```text
//!   Offered --Commit--> Committed --init ends--> Exited
//!      |                                           ^
//!      +--daemon gone--> Abandoned                 |
//!      +--init ends--------------------------------+
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use podd_monitor::protocol::{Exit, MAX_CONTROL_FRAME, Report, Request, Settings};

use crate::control::{Closed, Connection};
use crate::exit::{OomCounter, exit_of};
use crate::output::Output;
use crate::reaper::Reaper;
use crate::sys::descriptor::{Poll, poll, resize_terminal};

/// More connections than this at a time are not taken; the daemon needs one.
const MAX_VISITORS: usize = 8;

/// How long all must be quiet until a burst is over: its memory is given back, and what was dropped of it is reported.
const QUIET: Duration = Duration::from_secs(1);

/// How long to wait when poll(2) itself fails.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// The places in the list of what is waited for.
mod slot {
    pub(super) const CHILDREN: usize = 0;
    pub(super) const OOM: usize = 1;
    pub(super) const STREAMS: usize = 2;
    pub(super) const LISTENER: usize = 4;
    pub(super) const DAEMON: usize = 5;
    pub(super) const VISITORS: usize = 6;
    pub(super) const COUNT: usize = VISITORS + super::MAX_VISITORS;
}

/// All that the loop owns.
pub(crate) struct Service {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) output: Output,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) oom: Option<OomCounter>,
    pub(crate) listener: UnixListener,
    /// The connection on which the monitor was started.
    pub(crate) daemon: Option<Connection>,
    pub(crate) visitors: Vec<Connection>,
    pub(crate) committed: bool,
}

/// How the loop ended.
pub(crate) enum Ended {
    Exited(Exit),
    Abandoned,
}

impl Service {
    /// Serves until the init ends, or until the daemon goes before it has committed itself.
    pub(crate) fn run(&mut self, reaper: &mut Reaper) -> Ended {
        loop {
            let mut awaited = self.awaited(reaper);
            match poll(&mut awaited, self.output.wants_rest().then_some(QUIET)) {
                Ok(true) => {}
                Ok(false) => self.output.rest(),
                // The kernel has no memory for the call. The container must not pay for that with its monitor.
                Err(_) => thread::sleep(POLL_PAUSE),
            }
            let ready = awaited.map(|slot| slot.is_ready());
            if ready[slot::CHILDREN]
                && let Some(exit) = self.reap(reaper)
            {
                return Ended::Exited(exit);
            }
            if ready[slot::OOM]
                && let Some(oom) = &mut self.oom
            {
                oom.update();
            }
            (0..2).filter(|index| ready[slot::STREAMS + index]).for_each(|index| self.output.pump(index));
            if ready[slot::VISITORS..].contains(&true) {
                self.hear_visitors(&ready[slot::VISITORS..]);
            }
            if ready[slot::LISTENER] {
                self.accept();
            }
            if ready[slot::DAEMON] && self.hear_daemon().is_err() {
                self.daemon = None;
                if !self.committed {
                    return Ended::Abandoned;
                }
            }
        }
    }

    fn awaited(&self, reaper: &Reaper) -> [Poll; slot::COUNT] {
        let mut awaited = [Poll::NONE; slot::COUNT];
        awaited[slot::CHILDREN] = Poll::input(reaper);
        if let Some(oom) = self.oom.as_ref().filter(|oom| !oom.is_gone()) {
            awaited[slot::OOM] = Poll::notice(oom);
        }
        awaited[slot::STREAMS..][..2].copy_from_slice(&self.output.awaited());
        awaited[slot::LISTENER] = Poll::input(&self.listener);
        if let Some(daemon) = &self.daemon {
            awaited[slot::DAEMON] = Poll::input(daemon);
        }
        for (slot, visitor) in awaited[slot::VISITORS..].iter_mut().zip(&self.visitors) {
            *slot = Poll::input(visitor);
        }
        awaited
    }

    /// Tells everyone who is connected.
    pub(crate) fn announce(&mut self, exit: &Exit) {
        for connection in self.daemon.iter_mut().chain(&mut self.visitors) {
            // One that does not listen will find the exit record.
            let _ = connection.send(&Report::Exited(*exit));
        }
    }

    fn reap(&mut self, reaper: &mut Reaper) -> Option<Exit> {
        let mut end = None;
        reaper.reap(|pid, status| end = end.or((pid == self.pid).then_some(status)));
        let status = end?;
        let killed = self.oom.as_mut().is_some_and(|oom| {
            oom.update();
            oom.killed()
        });
        Some(exit_of(self.pid, status, killed))
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.visitors.len() < MAX_VISITORS
            && let Ok(visitor) = Connection::new(stream, MAX_CONTROL_FRAME)
        {
            self.visitors.push(visitor);
        }
    }

    fn hear_daemon(&mut self) -> Result<(), Closed> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let result = self.hear(&mut daemon);
        self.daemon = Some(daemon);
        result
    }

    /// Hears those that are ready, by their position, and forgets those that are gone.
    fn hear_visitors(&mut self, ready: &[bool]) {
        let visitors = std::mem::take(&mut self.visitors);
        for (index, mut visitor) in visitors.into_iter().enumerate() {
            if !ready[index] || self.hear(&mut visitor).is_ok() {
                self.visitors.push(visitor);
            }
        }
    }

    fn hear(&mut self, connection: &mut Connection) -> Result<(), Closed> {
        connection.receive()?;
        while let Some(request) = connection.take()? {
            if let Request::Attach { stdin, stdout, stderr } = request {
                self.attach(connection, stdin, [stdout, stderr])?;
            } else if let Some(report) = self.answer(&request) {
                connection.send(&report)?;
            }
        }
        Ok(())
    }

    /// Gives a visitor the other ends of the container's streams: its standard input or terminal, and pipes into which its
    /// output goes from now on.
    fn attach(&mut self, connection: &mut Connection, stdin: bool, outputs: [bool; 2]) -> Result<(), Closed> {
        let input = self.terminal.as_ref().or(self.stdin.as_ref()).filter(|_| stdin);
        let mut listen = |index: usize| match outputs[index] {
            true => self.output.listen(index),
            false => Ok(None),
        };
        let listening = listen(0).and_then(|stdout| Ok((stdout, listen(1)?)));
        match listening {
            Ok((stdout, stderr)) => {
                let ends = [input, stdout.as_ref(), stderr.as_ref()];
                let [stdin, stdout, stderr] = ends.map(|end| end.is_some());
                let descriptors: Vec<_> = ends.into_iter().flatten().map(AsFd::as_fd).collect();
                connection.send_with(&Report::Attached { stdin, stdout, stderr }, &descriptors)
            }
            Err(error) => connection.send(&Report::Refused(format!("attach: {error}"))),
        }
    }

    fn answer(&mut self, request: &Request) -> Option<Report> {
        let result = match request {
            Request::Hello(_) => return None,
            Request::Commit => {
                self.committed = true;
                return None;
            }
            Request::State => {
                let (pid, start_time) = (self.pid.cast_unsigned(), self.start_time);
                // The loop ends with the init.
                return Some(Report::State { pid, start_time, alive: true });
            }
            Request::ReopenLog => self.output.reopen_log().map_err(|e| format!("open the log: {e}")),
            Request::Resize { width, height } => self.resize(*width, *height),
            Request::CloseStdin => {
                self.stdin = None;
                Ok(())
            }
            Request::Settings(_) => Err("the container is created already".to_owned()),
            Request::Attach { .. } | Request::Unknown(_) => Err("not supported by this monitor".to_owned()),
        };
        Some(match result {
            Ok(()) => Report::Done,
            Err(text) => Report::Refused(text),
        })
    }

    fn resize(&self, width: u16, height: u16) -> Result<(), String> {
        match &self.terminal {
            Some(terminal) => resize_terminal(terminal.as_fd(), width, height)
                .map_err(|e| format!("resize the terminal: {e}")),
            None => Err("the container has no terminal".to_owned()),
        }
    }
}

/// Forgets what only the creation needed; it is large with many layers.
pub(crate) fn shrink(settings: &mut Settings) {
    settings.overlay = Default::default();
    settings.create = Vec::new();
    settings.volumes = Vec::new();
}
