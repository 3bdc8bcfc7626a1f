//! `podd-monitor run`: the whole life of a monitor, from the daemon's settings to the exit record.

use std::env;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use podd_monitor::protocol::{CONTROL_SOCKET, Exit, MAX_SETTINGS_FRAME, Report, Request, Settings, Stage};

use crate::child::protect_from_oom;
use crate::control::{Closed, Connection};
use crate::create::{Container, NotCreated, create, undo};
use crate::exit::{OomCounter, write_record};
use crate::failure::{Described, Failure, Staged};
use crate::log::Limits;
use crate::output::Output;
use crate::reaper::Reaper;
use crate::serve::{Ended, Service, shrink};
use crate::stdio::listen;
use crate::sys::descriptor::{Poll, poll, take_standard_streams};
use crate::sys::process::{become_session_and_subreaper, set_umask};

/// How often, and how far apart, an exit record that cannot be written is tried again.
const RECORD_ATTEMPTS: u32 = 60;
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// Runs a monitor on the socket that is descriptor 0. Descriptor 1 holds the lock that says that the monitor lives.
pub(crate) fn run() -> io::Result<()> {
    let (socket, _lock) = take_standard_streams()?;
    let mut reaper = Reaper::new()?;
    become_session_and_subreaper()?;
    set_umask(0o022);
    env::set_current_dir("/")?;
    let oom_score = protect_from_oom();
    let mut daemon = Connection::inherited(socket, MAX_SETTINGS_FRAME)?;
    let Ok(mut settings) = receive_settings(&mut daemon) else {
        return Ok(());
    };
    oversee(&mut settings, daemon, &mut reaper, oom_score.as_deref());
    let _ = fs::remove_file(settings.state_dir.join(CONTROL_SOCKET));
    Ok(())
}

/// Waits for the settings; a daemon that says anything else has been told so.
fn receive_settings(daemon: &mut Connection) -> Result<Settings, Closed> {
    loop {
        match daemon.take()? {
            Some(Request::Settings(settings)) => return Ok(*settings),
            Some(_) => {
                let failure = Failure::new(Stage::Protocol, "the first request must be the settings");
                daemon.send(&failure.report())?;
                return Err(Closed);
            }
            None => {
                let _ = poll(&mut [Poll::input(daemon)], None);
                daemon.receive()?;
            }
        }
    }
}

/// Creates the container and stays with it until its end.
fn oversee(settings: &mut Settings, mut daemon: Connection, reaper: &mut Reaper, oom_score: Option<&str>) {
    match begin(settings, &mut daemon, reaper, oom_score) {
        Err(NotCreated::Failed(failure)) => {
            undo(settings, reaper, oom_score);
            let _ = daemon.send(&failure.report());
        }
        Err(NotCreated::Abandoned) => undo(settings, reaper, oom_score),
        Ok(mut service) => {
            let created =
                Report::Created { pid: service.pid.cast_unsigned(), start_time: service.start_time };
            // A daemon that is gone already is found out by the loop.
            let _ = daemon.send(&created);
            service.daemon = Some(daemon);
            shrink(settings);
            match service.run(reaper) {
                Ended::Exited(exit) => conclude(settings, &mut service, &exit),
                Ended::Abandoned => undo(settings, reaper, oom_score),
            }
        }
    }
}

fn begin(
    settings: &Settings,
    daemon: &mut Connection,
    reaper: &mut Reaper,
    oom_score: Option<&str>,
) -> Result<Service, NotCreated> {
    let (listener, _) = listen(&settings.state_dir, CONTROL_SOCKET).at(Stage::Control)?;
    let mut output = Output::new(&settings.log_path, Limits::of(settings))
        .described(format_args!("open {}", settings.log_path.display()))
        .at(Stage::Log)?;
    let Container { pid, start_time, streams, timing } = create(settings, daemon, reaper, oom_score)?;
    let _ = daemon.send(&Report::Timing(timing));
    let terminal = match (settings.terminal, &streams.stdout) {
        (true, Some(stdout)) => {
            Some(stdout.try_clone().described("duplicate the terminal").at(Stage::Stdio)?)
        }
        _ => None,
    };
    let stderr = (!settings.terminal).then_some(streams.stderr);
    output.attach(streams.stdout, stderr).described("read the streams").at(Stage::Stdio)?;
    Ok(Service {
        pid,
        start_time,
        output,
        stdin: streams.stdin,
        terminal,
        oom: open_oom_counter(settings, daemon),
        listener,
        daemon: None,
        visitors: Vec::new(),
        committed: false,
    })
}

fn open_oom_counter(settings: &Settings, daemon: &mut Connection) -> Option<OomCounter> {
    if settings.oom_file.as_os_str().is_empty() {
        return None;
    }
    let opened = OomCounter::open(&settings.oom_file)
        .described(format_args!("read {}, so an OOM kill will not be seen", settings.oom_file.display()));
    opened
        .map_err(|text| {
            let _ = daemon.send(&Report::Warning(text));
        })
        .ok()
}

/// The last output, the exit record, the news of it.
fn conclude(settings: &Settings, service: &mut Service, exit: &Exit) {
    service.output.drain();
    let mut written = write_record(&settings.exit_file, exit);
    service.announce(exit);
    let directory = settings.exit_file.parent();
    for _ in 1..RECORD_ATTEMPTS {
        // Without the directory the container has been removed, and nobody will ask.
        if written.is_ok() || !directory.is_some_and(|d| d.is_dir()) {
            break;
        }
        thread::sleep(RECORD_PAUSE);
        written = write_record(&settings.exit_file, exit);
    }
    if let Err(text) = written {
        eprintln!("podd-monitor: container {}: {text}", settings.container_id);
    }
}
