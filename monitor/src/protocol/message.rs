//! The messages: [`Request`]s go to the monitor, [`Report`]s come from it.

use std::fmt;

use super::frame::{Reader, Writer};
use super::{ProtocolError, Settings};

/// The longest text in a report, in bytes; longer ones are cut.
pub const MAX_TEXT: usize = 8 << 10;

/// A protocol version; see the module for what differences mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Differs where the two sides cannot work together.
    pub major: u16,
    /// Grows with every addition.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the daemon asks of a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The first frame of every connection.
    Hello(Version),
    /// What to create; the second frame of the connection on which the monitor was started, and only there.
    Settings(Box<Settings>),
    /// The container is recorded: stay, whatever happens to the daemon. Not answered.
    Commit,
    /// Open the log path anew, after a rotation.
    ReopenLog,
    /// Say how the container is.
    State,
    /// Set the terminal's size in characters.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Close the container's standard input.
    CloseStdin,
    /// Give the other ends of the container's streams; since version 1.1. On a connection of its own, because of what
    /// comes with the answer.
    Attach {
        /// The write end of its standard input, or its terminal.
        stdin: bool,
        /// A pipe into which its standard output goes, or what its terminal shows.
        stdout: bool,
        /// A pipe into which its standard error goes.
        stderr: bool,
    },
    /// What a newer daemon may ask; refused.
    Unknown(u16),
}

/// What a monitor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The first frame of every connection.
    Hello(Version),
    /// The container exists and waits for its start.
    Created {
        /// The init's pid as the daemon sees it.
        pid: u32,
        /// The init's start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
        start_time: u64,
    },
    /// Where the time of the creation went; since version 1.2.
    Timing(Timing),
    /// The container could not be created, and nothing is left of the attempt.
    Failed {
        /// What was being done.
        stage: Stage,
        /// The cause, in the words of who knows it.
        text: String,
    },
    /// Something was refused that the container can do without.
    Warning(String),
    /// A request was carried out.
    Done,
    /// A request was not carried out, and why.
    Refused(String),
    /// The answer to [`Request::State`].
    State {
        /// The init's pid.
        pid: u32,
        /// The init's start time in clock ticks since boot.
        start_time: u64,
        /// Whether the init is alive.
        alive: bool,
    },
    /// The answer to [`Request::Attach`]. For each that is there a descriptor comes with it (SCM_RIGHTS), in this order.
    Attached {
        /// Not where the container has no standard input, or it was closed.
        stdin: bool,
        /// Not where the stream has ended.
        stdout: bool,
        /// Not where the stream has ended, and never with a terminal.
        stderr: bool,
    },
    /// The init has ended; the exit record is written and the monitor ends too.
    Exited(Exit),
    /// What a newer monitor may say; to be skipped.
    Unknown(u16),
}

/// How a container's init ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The init's pid.
    pub pid: u32,
    /// The exit code; 128 + signal where a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// When it ended, in nanoseconds since 1970.
    pub finished_at: i64,
}

/// Where the time of a creation went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// When the monitor was ready to mount the root filesystem, in nanoseconds since 1970.
    pub began: i64,
    /// What mounting it took, in nanoseconds; image volumes are among it.
    pub mount: u64,
    /// What the runtime took after that, in nanoseconds.
    pub create: u64,
}

/// The step at which a creation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Settings or versions that do not fit.
    Protocol,
    /// The control socket.
    Control,
    /// The log file.
    Log,
    /// The pipes or the terminal.
    Stdio,
    /// The child process.
    Process,
    /// The child's mount namespace and its tmpfs.
    Namespace,
    /// The overlay of the image's layers.
    Overlay,
    /// Executing the runtime's binary.
    Exec,
    /// The runtime's own work.
    Create,
    /// The runtime took longer than it may.
    Timeout,
    /// The overlay of an image volume.
    Volume,
    /// A stage of a newer monitor.
    Unknown(u8),
}

impl Stage {
    const ALL: [Self; 11] = [
        Self::Protocol,
        Self::Control,
        Self::Log,
        Self::Stdio,
        Self::Process,
        Self::Namespace,
        Self::Overlay,
        Self::Exec,
        Self::Create,
        Self::Timeout,
        Self::Volume,
    ];

    /// The stage's number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Unknown(number) => number,
            known => Self::ALL.iter().position(|stage| *stage == known).map_or(u8::MAX, |i| i as u8),
        }
    }

    /// The stage with a number from the wire.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Unknown(number))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => "agree on settings",
            Self::Control => "open the control socket",
            Self::Log => "open the log",
            Self::Stdio => "set up standard input and output",
            Self::Process => "start a process",
            Self::Namespace => "set up the mount namespace",
            Self::Overlay => "mount the root filesystem",
            Self::Exec => "execute the runtime",
            Self::Create => "create the container",
            Self::Timeout => "create the container in time",
            Self::Volume => "mount an image volume",
            Self::Unknown(_) => "create the container (unknown stage)",
        })
    }
}

mod kind {
    pub(super) const HELLO: u16 = 1;
    pub(super) const SETTINGS: u16 = 2;
    pub(super) const COMMIT: u16 = 3;
    pub(super) const REOPEN_LOG: u16 = 16;
    pub(super) const STATE: u16 = 17;
    pub(super) const RESIZE: u16 = 18;
    pub(super) const CLOSE_STDIN: u16 = 19;
    pub(super) const ATTACH: u16 = 20;
    pub(super) const CREATED: u16 = 64;
    pub(super) const FAILED: u16 = 65;
    pub(super) const WARNING: u16 = 66;
    pub(super) const DONE: u16 = 67;
    pub(super) const REFUSED: u16 = 68;
    pub(super) const STATE_IS: u16 = 69;
    pub(super) const EXITED: u16 = 70;
    pub(super) const ATTACHED: u16 = 71;
    pub(super) const TIMING: u16 = 72;
}

impl Request {
    /// The request as a frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(version) => hello(*version),
            Self::Settings(settings) => settings.encode(Writer::new(kind::SETTINGS)).finish(),
            Self::Commit => Writer::new(kind::COMMIT).finish(),
            Self::ReopenLog => Writer::new(kind::REOPEN_LOG).finish(),
            Self::State => Writer::new(kind::STATE).finish(),
            Self::Resize { width, height } => Writer::new(kind::RESIZE).u16(*width).u16(*height).finish(),
            Self::CloseStdin => Writer::new(kind::CLOSE_STDIN).finish(),
            Self::Attach { stdin, stdout, stderr } => {
                flags(Writer::new(kind::ATTACH), [*stdin, *stdout, *stderr])
            }
            Self::Unknown(kind) => Writer::new(*kind).finish(),
        }
    }

    /// The request in a frame.
    pub fn decode(kind: u16, payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(payload);
        Ok(match kind {
            kind::HELLO => Self::Hello(Version { major: reader.u16()?, minor: reader.u16()? }),
            kind::SETTINGS => Self::Settings(Box::new(Settings::decode(reader)?)),
            kind::COMMIT => Self::Commit,
            kind::REOPEN_LOG => Self::ReopenLog,
            kind::STATE => Self::State,
            kind::RESIZE => Self::Resize { width: reader.u16()?, height: reader.u16()? },
            kind::CLOSE_STDIN => Self::CloseStdin,
            kind::ATTACH => {
                let [stdin, stdout, stderr] = read_flags(&mut reader)?;
                Self::Attach { stdin, stdout, stderr }
            }
            other => Self::Unknown(other),
        })
    }
}

impl Report {
    /// The report as a frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(version) => hello(*version),
            Self::Created { pid, start_time } => {
                Writer::new(kind::CREATED).u32(*pid).u64(*start_time).finish()
            }
            Self::Timing(timing) => Writer::new(kind::TIMING)
                .u64(timing.began.cast_unsigned())
                .u64(timing.mount)
                .u64(timing.create)
                .finish(),
            Self::Failed { stage, text } => {
                Writer::new(kind::FAILED).u8(stage.number()).bytes(cut(text)).finish()
            }
            Self::Warning(text) => Writer::new(kind::WARNING).bytes(cut(text)).finish(),
            Self::Done => Writer::new(kind::DONE).finish(),
            Self::Refused(text) => Writer::new(kind::REFUSED).bytes(cut(text)).finish(),
            Self::State { pid, start_time, alive } => {
                Writer::new(kind::STATE_IS).u32(*pid).u64(*start_time).u8(u8::from(*alive)).finish()
            }
            Self::Exited(exit) => Writer::new(kind::EXITED)
                .u32(exit.pid)
                .u32(exit.exit_code.cast_unsigned())
                .u32(exit.signal.cast_unsigned())
                .u8(u8::from(exit.oom_killed))
                .u64(exit.finished_at.cast_unsigned())
                .finish(),
            Self::Attached { stdin, stdout, stderr } => {
                flags(Writer::new(kind::ATTACHED), [*stdin, *stdout, *stderr])
            }
            Self::Unknown(kind) => Writer::new(*kind).finish(),
        }
    }

    /// The report in a frame.
    pub fn decode(kind: u16, payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(payload);
        Ok(match kind {
            kind::HELLO => Self::Hello(Version { major: reader.u16()?, minor: reader.u16()? }),
            kind::CREATED => Self::Created { pid: reader.u32()?, start_time: reader.u64()? },
            kind::TIMING => Self::Timing(Timing {
                began: reader.u64()?.cast_signed(),
                mount: reader.u64()?,
                create: reader.u64()?,
            }),
            kind::FAILED => {
                Self::Failed { stage: Stage::from_number(reader.u8()?), text: reader.rest_as_text()? }
            }
            kind::WARNING => Self::Warning(reader.rest_as_text()?),
            kind::DONE => Self::Done,
            kind::REFUSED => Self::Refused(reader.rest_as_text()?),
            kind::STATE_IS => {
                Self::State { pid: reader.u32()?, start_time: reader.u64()?, alive: reader.u8()? != 0 }
            }
            kind::ATTACHED => {
                let [stdin, stdout, stderr] = read_flags(&mut reader)?;
                Self::Attached { stdin, stdout, stderr }
            }
            kind::EXITED => Self::Exited(Exit {
                pid: reader.u32()?,
                exit_code: reader.u32()?.cast_signed(),
                signal: reader.u32()?.cast_signed(),
                oom_killed: reader.u8()? != 0,
                finished_at: reader.u64()?.cast_signed(),
            }),
            other => Self::Unknown(other),
        })
    }
}

fn flags(writer: Writer, flags: [bool; 3]) -> Vec<u8> {
    flags.into_iter().fold(writer, |writer, flag| writer.u8(u8::from(flag))).finish()
}

fn read_flags(reader: &mut Reader<'_>) -> Result<[bool; 3], ProtocolError> {
    Ok([reader.u8()? != 0, reader.u8()? != 0, reader.u8()? != 0])
}

fn hello(version: Version) -> Vec<u8> {
    Writer::new(kind::HELLO).u16(version.major).u16(version.minor).finish()
}

/// The text's beginning, of whole characters and at most [`MAX_TEXT`] bytes.
fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)]
}
