//! The children of the monitor: the runtime that creates the container, and the one that undoes it.
//!
//! The first prepares its own mount namespace, so that the root filesystem exists nowhere else. What fails before the
//! runtime's binary runs comes back over a pipe that closes on exec.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::time::Instant;

use podd_monitor::protocol::{CONSOLE_SOCKET, MAX_TEXT, Overlay, ROOTFS, Settings, Stage};

use crate::failure::{Described, Failure, Staged};
use crate::furnish::furnish;
use crate::mapped::mount_mapped;
use crate::overlay::mount_overlay;
use crate::stdio::ChildStreams;
use crate::sys::mount::{mount, unshare_mounts};
use crate::sys::process::{Fork, die_with_parent, fork, making_files_as, reset_signals};
use crate::volumes::mount_volumes;

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// The kernel should take a container before its monitor: lowers the monitor's score and gives the old one, for children.
pub(crate) fn protect_from_oom() -> Option<String> {
    let before = fs::read_to_string(OOM_SCORE_ADJ).ok()?;
    fs::write(OOM_SCORE_ADJ, "-999").ok()?;
    Some(before.trim().to_owned())
}

/// `<runtime> create` at work.
pub(crate) struct Create {
    pub(crate) pid: i32,
    errors: PipeReader,
}

/// How long the mounts took, in nanoseconds: the first that comes through the pipe. A failure may follow.
const MOUNT_TIME: usize = size_of::<u64>();

impl Create {
    pub(crate) fn start(
        settings: &Settings,
        streams: ChildStreams,
        console: Option<&str>,
        oom_score: Option<&str>,
    ) -> Result<Self, Failure> {
        let (errors, mut errors_of_child) = pipe().described("make a pipe").at(Stage::Process)?;
        let began = Instant::now();
        match fork().described("fork").at(Stage::Process)? {
            Fork::Parent(pid) => Ok(Self { pid, errors }),
            Fork::Child => {
                die_with_parent();
                restore_oom_score(oom_score);
                let mounted = || tell_time(&mut errors_of_child, began);
                let failure = run_create(settings, streams, console, mounted);
                send(errors_of_child, &failure);
                exit(127)
            }
        }
    }

    /// How long the mounts took, in nanoseconds, and what went wrong before the runtime ran, if anything did. Does not wait
    /// once the child has ended.
    pub(crate) fn outcome(mut self) -> (u64, Option<Failure>) {
        let mut message = Vec::new();
        let _ = self.errors.read_to_end(&mut message);
        let (time, failure) = match message.split_first_chunk::<MOUNT_TIME>() {
            Some((time, rest)) => (u64::from_le_bytes(*time), rest),
            None => (0, &[][..]),
        };
        let failure = failure
            .split_first()
            .map(|(stage, text)| Failure::new(Stage::from_number(*stage), String::from_utf8_lossy(text)));
        (time, failure)
    }
}

/// Starts a command without streams of its own and gives its pid.
pub(crate) fn start_quietly(argv: &[OsString], oom_score: Option<&str>) -> io::Result<i32> {
    match fork()? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            restore_oom_score(oom_score);
            reset_signals();
            if let Some((program, arguments)) = argv.split_first() {
                let _ = Command::new(program).args(arguments).exec();
            }
            exit(127)
        }
    }
}

/// Becomes the runtime; returns only when that fails. `mounted` hears when the mounts are made, or are not to be had.
fn run_create(
    settings: &Settings,
    streams: ChildStreams,
    console: Option<&str>,
    mounted: impl FnOnce(),
) -> Failure {
    let prepared = mount_root(settings).and_then(|()| match &settings.user_namespace {
        None => Ok(streams),
        Some(_) => streams.without_the_hosts_null(&settings.mount_point),
    });
    mounted();
    let streams = match prepared {
        Ok(streams) => streams,
        Err(failure) => return failure,
    };
    reset_signals();
    let replace = |argument: &OsString| match console {
        Some(path) if argument == OsStr::new(CONSOLE_SOCKET) => OsString::from(path),
        _ => argument.clone(),
    };
    let Some((program, arguments)) = settings.create.split_first() else {
        return Failure::new(Stage::Exec, "the command is empty");
    };
    let error = Command::new(program)
        .args(arguments.iter().map(replace))
        .stdin(Stdio::from(streams.stdin))
        .stdout(Stdio::from(streams.stdout))
        .stderr(Stdio::from(streams.stderr))
        .exec();
    Failure::new(Stage::Exec, format!("execute {}: {error}", program.display()))
}

fn mount_root(settings: &Settings) -> Result<(), Failure> {
    let mount_point = &settings.mount_point;
    unshare_mounts().described("make a mount namespace").at(Stage::Namespace)?;
    mount("tmpfs", mount_point, b"mode=755,size=64k")
        .described(format_args!("mount a tmpfs on {}", mount_point.display()))
        .at(Stage::Namespace)?;
    let target = mount_point.join(ROOTFS);
    DirBuilder::new()
        .mode(0o755)
        .create(&target)
        .described(format_args!("make {}", target.display()))
        .at(Stage::Namespace)?;
    let namespace = settings.user_namespace.as_ref();
    let show = |overlay: &Overlay, target: &Path| match namespace {
        Some(namespace) if !overlay.owned => mount_mapped(overlay, namespace, mount_point, target),
        _ => mount_overlay(overlay, target),
    };
    show(&settings.overlay, &target).at(Stage::Overlay)?;
    let furnish = || furnish(&target, &settings.directories, &settings.links);
    let furnished = match namespace {
        None => furnish(),
        // What it makes is to belong to the root of the container.
        Some(root) => making_files_as(root.uid, root.gid, furnish)
            .described("become the root of the user namespace")
            .and_then(|furnished| furnished),
    };
    furnished.at(Stage::Overlay)?;
    mount_volumes(&settings.volumes, mount_point, show).at(Stage::Volume)
}

fn restore_oom_score(score: Option<&str>) {
    if let Some(score) = score {
        let _ = fs::write(OOM_SCORE_ADJ, score);
    }
}

fn tell_time(pipe: &mut PipeWriter, began: Instant) {
    let time = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let _ = pipe.write_all(&time.to_le_bytes());
}

fn send(mut pipe: PipeWriter, failure: &Failure) {
    let text = &failure.text.as_bytes()[..failure.text.len().min(MAX_TEXT)];
    let _ = pipe.write_all(&[&[failure.stage.number()], text].concat());
}
