//! What a monitor has to know to create its container, as tag-length-value records.
//!
//! `u16 tag, u32 length, value`; lists repeat their tag. A receiver skips the tags that it does not know, so an older monitor
//! works with a newer daemon, unless the tag has the bit [`CRITICAL`]: then the container must not run without it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ProtocolError;
use super::frame::{Reader, Writer};

/// Marks a tag whose meaning a receiver must know.
const CRITICAL: u16 = 0x8000;

/// All that a monitor needs. Paths are absolute and as the host sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The container's ID, for messages.
    pub container_id: String,
    /// The container's directory below the daemon's run directory: the control socket is made in it.
    pub state_dir: PathBuf,
    /// `cgroup.procs` files that the monitor writes itself to. One that refuses is a warning.
    pub cgroup_procs: Vec<PathBuf>,
    /// An empty directory on a mount with private propagation. A tmpfs is mounted on it that only the container sees.
    pub mount_point: PathBuf,
    /// The root filesystem, mounted at [`ROOTFS`](super::ROOTFS) below the mount point.
    pub overlay: Overlay,
    /// The user namespace that the container joins, if it is not the host's.
    pub user_namespace: Option<UserNamespace>,
    /// `<runtime> create` with all its arguments, the runtime's absolute path first. With a terminal, the value of
    /// `--console-socket` is [`CONSOLE_SOCKET`](super::CONSOLE_SOCKET).
    pub create: Vec<OsString>,
    /// `<runtime> delete --force` with all its arguments: undoes a creation.
    pub delete: Vec<OsString>,
    /// The file into which the runtime writes the init's pid.
    pub pid_file: PathBuf,
    /// The file of the runtime's `--log`, in JSON lines: read when it fails. Empty if there is none.
    pub runtime_log: PathBuf,
    /// How long `create` may take.
    pub create_timeout: Duration,
    /// Whether the container has a terminal instead of pipes.
    pub terminal: bool,
    /// Whether the container has an open standard input; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// The CRI log; empty if output is to be thrown away.
    pub log_path: PathBuf,
    /// The size that the log's file stays within, in bytes, until it is rotated; 0 is no limit.
    pub log_size_max: u64,
    /// The most that is logged in a second on the average, in bytes of the log; 0 is no limit.
    pub log_rate: u64,
    /// How much more than that may be logged at once after a quiet time; 0 is as much as in a second.
    pub log_rate_burst: u64,
    /// Where the exit record goes, by rename.
    pub exit_file: PathBuf,
    /// The file that counts OOM kills in a line `oom_kill N`: `memory.events` of the container's cgroup, or
    /// `memory.oom_control` with cgroup v1. Empty if there is none.
    pub oom_file: PathBuf,
    /// Images that the container mounts: the directories of each, the topmost first. Each becomes a read-only overlay on
    /// a directory below [`VOLUMES`](super::VOLUMES) that has its place in this list for a name.
    pub volumes: Vec<Vec<PathBuf>>,
    /// Directories that the root filesystem is to have; one that is missing is made, of root and with mode 0755.
    pub directories: Vec<PathBuf>,
    /// Symbolic links that the root filesystem is to have where nothing is: the place, and what it points to.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// The layers of a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlay {
    /// Read-only directories, the topmost first; at least one.
    pub lower: Vec<PathBuf>,
    /// The writable directory; empty: nothing is writable, and nothing ever can be.
    pub upper: PathBuf,
    /// overlayfs's own directory beside the upper one; empty as that one is.
    pub work: PathBuf,
    /// More options of overlayfs, such as `index=off` or `volatile`.
    pub options: Vec<String>,
    /// The directories belong to the root of the user namespace on the disk already, and are shown as they are.
    pub owned: bool,
}

/// A pod's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserNamespace {
    /// What pins it.
    pub path: PathBuf,
    /// The host's user that is root in it.
    pub uid: u32,
    /// The host's group that is root in it.
    pub gid: u32,
}

mod tag {
    use super::CRITICAL;

    pub(super) const CONTAINER_ID: u16 = CRITICAL | 1;
    pub(super) const STATE_DIR: u16 = CRITICAL | 2;
    pub(super) const CGROUP_PROCS: u16 = 3;
    pub(super) const MOUNT_POINT: u16 = CRITICAL | 4;
    pub(super) const LOWER: u16 = CRITICAL | 5;
    pub(super) const UPPER: u16 = CRITICAL | 6;
    pub(super) const WORK: u16 = CRITICAL | 7;
    pub(super) const OVERLAY_OPTION: u16 = CRITICAL | 8;
    pub(super) const CREATE: u16 = CRITICAL | 9;
    pub(super) const DELETE: u16 = CRITICAL | 10;
    pub(super) const PID_FILE: u16 = CRITICAL | 11;
    pub(super) const RUNTIME_LOG: u16 = 12;
    pub(super) const CREATE_TIMEOUT_MS: u16 = 13;
    pub(super) const TERMINAL: u16 = CRITICAL | 14;
    pub(super) const STDIN: u16 = CRITICAL | 15;
    pub(super) const LOG_PATH: u16 = CRITICAL | 16;
    pub(super) const EXIT_FILE: u16 = CRITICAL | 17;
    pub(super) const OOM_FILE: u16 = 18;
    // A monitor that does not know of these logs without limits.
    pub(super) const LOG_SIZE_MAX: u16 = 19;
    pub(super) const LOG_RATE: u16 = 20;
    pub(super) const LOG_RATE_BURST: u16 = 21;
    pub(super) const USER_NAMESPACE: u16 = CRITICAL | 30;
    pub(super) const ROOT_UID: u16 = CRITICAL | 31;
    pub(super) const ROOT_GID: u16 = CRITICAL | 32;
    pub(super) const OWNED: u16 = CRITICAL | 33;
    /// Begins another volume, without a value.
    pub(super) const VOLUME: u16 = CRITICAL | 40;
    /// One more directory of the volume that was begun last.
    pub(super) const VOLUME_LOWER: u16 = CRITICAL | 41;
    pub(super) const DIRECTORY: u16 = 42;
    /// Place and target, with a NUL between them.
    pub(super) const LINK: u16 = 43;
}

/// How long a creation may take when the settings do not say it.
const DEFAULT_CREATE_TIMEOUT: Duration = Duration::from_secs(60);

impl Settings {
    pub(super) fn encode(&self, writer: Writer) -> Writer {
        let words = |tag, words: &[OsString], writer| {
            words.iter().fold(writer, |writer, word| record(writer, tag, word.as_bytes()))
        };
        let path = |tag, path: &Path, writer| record(writer, tag, path.as_os_str().as_bytes());
        let flag = |tag, flag, writer| record(writer, tag, &[u8::from(flag)]);
        let timeout = u64::try_from(self.create_timeout.as_millis()).unwrap_or(u64::MAX);

        let writer = record(writer, tag::CONTAINER_ID, self.container_id.as_bytes());
        let writer = path(tag::STATE_DIR, &self.state_dir, writer);
        let writer = paths(tag::CGROUP_PROCS, &self.cgroup_procs, writer);
        let writer = path(tag::MOUNT_POINT, &self.mount_point, writer);
        let writer = paths(tag::LOWER, &self.overlay.lower, writer);
        let writer = path(tag::UPPER, &self.overlay.upper, writer);
        let writer = path(tag::WORK, &self.overlay.work, writer);
        let writer = self
            .overlay
            .options
            .iter()
            .fold(writer, |writer, option| record(writer, tag::OVERLAY_OPTION, option.as_bytes()));
        let writer = if self.overlay.owned { record(writer, tag::OWNED, &[]) } else { writer };
        let writer = self.user_namespace.iter().fold(writer, |writer, namespace| {
            let writer = path(tag::USER_NAMESPACE, &namespace.path, writer);
            let writer = record(writer, tag::ROOT_UID, &namespace.uid.to_le_bytes());
            record(writer, tag::ROOT_GID, &namespace.gid.to_le_bytes())
        });
        let writer = words(tag::CREATE, &self.create, writer);
        let writer = words(tag::DELETE, &self.delete, writer);
        let writer = path(tag::PID_FILE, &self.pid_file, writer);
        let writer = path(tag::RUNTIME_LOG, &self.runtime_log, writer);
        let writer = record(writer, tag::CREATE_TIMEOUT_MS, &timeout.to_le_bytes());
        let writer = flag(tag::TERMINAL, self.terminal, writer);
        let writer = flag(tag::STDIN, self.stdin, writer);
        let writer = path(tag::LOG_PATH, &self.log_path, writer);
        let writer = path(tag::EXIT_FILE, &self.exit_file, writer);
        let limits = [
            (tag::LOG_SIZE_MAX, self.log_size_max),
            (tag::LOG_RATE, self.log_rate),
            (tag::LOG_RATE_BURST, self.log_rate_burst),
        ];
        let set = limits.into_iter().filter(|(_, limit)| *limit > 0);
        let writer = set.fold(writer, |writer, (tag, limit)| record(writer, tag, &limit.to_le_bytes()));
        self.encode_tree(path(tag::OOM_FILE, &self.oom_file, writer))
    }

    /// What is mounted beside the root filesystem, and made in it.
    fn encode_tree(&self, writer: Writer) -> Writer {
        let writer = self
            .volumes
            .iter()
            .fold(writer, |writer, lower| paths(tag::VOLUME_LOWER, lower, record(writer, tag::VOLUME, &[])));
        let writer = paths(tag::DIRECTORY, &self.directories, writer);
        self.links.iter().fold(writer, |writer, (at, target)| {
            let value = [at.as_os_str().as_bytes(), target.as_os_str().as_bytes()].join(&0);
            record(writer, tag::LINK, &value)
        })
    }

    pub(super) fn decode(mut reader: Reader<'_>) -> Result<Self, ProtocolError> {
        let mut settings = Self { create_timeout: DEFAULT_CREATE_TIMEOUT, ..Self::default() };
        while !reader.0.is_empty() {
            let tag = reader.u16()?;
            let length = reader.u32()? as usize;
            settings.set(tag, reader.bytes(length)?)?;
        }
        settings.check()
    }

    fn set(&mut self, tag: u16, value: &[u8]) -> Result<(), ProtocolError> {
        let word = || OsStr::from_bytes(value).to_owned();
        let path = || PathBuf::from(OsString::from_vec(value.to_vec()));
        let text = || String::from_utf8(value.to_vec()).map_err(|_| ProtocolError::NotText);
        match tag {
            tag::CONTAINER_ID => self.container_id = text()?,
            tag::STATE_DIR => self.state_dir = path(),
            tag::CGROUP_PROCS => self.cgroup_procs.push(path()),
            tag::MOUNT_POINT => self.mount_point = path(),
            tag::LOWER => self.overlay.lower.push(path()),
            tag::UPPER => self.overlay.upper = path(),
            tag::WORK => self.overlay.work = path(),
            tag::OVERLAY_OPTION => self.overlay.options.push(text()?),
            tag::USER_NAMESPACE => self.user_namespace.get_or_insert_default().path = path(),
            tag::ROOT_UID => self.user_namespace.get_or_insert_default().uid = Reader(value).u32()?,
            tag::OWNED => self.overlay.owned = true,
            tag::ROOT_GID => self.user_namespace.get_or_insert_default().gid = Reader(value).u32()?,
            tag::CREATE => self.create.push(word()),
            tag::DELETE => self.delete.push(word()),
            tag::PID_FILE => self.pid_file = path(),
            tag::RUNTIME_LOG => self.runtime_log = path(),
            tag::CREATE_TIMEOUT_MS => self.create_timeout = Duration::from_millis(Reader(value).u64()?),
            tag::TERMINAL => self.terminal = Reader(value).u8()? != 0,
            tag::STDIN => self.stdin = Reader(value).u8()? != 0,
            tag::LOG_PATH => self.log_path = path(),
            tag::LOG_SIZE_MAX => self.log_size_max = Reader(value).u64()?,
            tag::LOG_RATE => self.log_rate = Reader(value).u64()?,
            tag::LOG_RATE_BURST => self.log_rate_burst = Reader(value).u64()?,
            tag::EXIT_FILE => self.exit_file = path(),
            tag::OOM_FILE => self.oom_file = path(),
            tag::VOLUME => self.volumes.push(Vec::new()),
            tag::VOLUME_LOWER => self.volumes.last_mut().ok_or(ProtocolError::Truncated)?.push(path()),
            tag::DIRECTORY => self.directories.push(path()),
            tag::LINK => {
                let mut halves =
                    value.splitn(2, |byte| *byte == 0).map(|half| OsStr::from_bytes(half).into());
                let (at, target) = (halves.next(), halves.next());
                self.links.extend(at.zip(target));
            }
            unknown if unknown & CRITICAL != 0 => return Err(ProtocolError::UnknownCriticalSetting(unknown)),
            _ => {}
        }
        Ok(())
    }

    fn check(self) -> Result<Self, ProtocolError> {
        let present = [
            (!self.state_dir.as_os_str().is_empty(), "state_dir"),
            (!self.mount_point.as_os_str().is_empty(), "mount_point"),
            (!self.overlay.lower.is_empty(), "overlay.lower"),
            (!self.overlay.upper.as_os_str().is_empty(), "overlay.upper"),
            (!self.overlay.work.as_os_str().is_empty(), "overlay.work"),
            (!self.create.is_empty(), "create"),
            (!self.delete.is_empty(), "delete"),
            (!self.pid_file.as_os_str().is_empty(), "pid_file"),
            (!self.exit_file.as_os_str().is_empty(), "exit_file"),
        ];
        match present.iter().find(|(present, _)| !present) {
            Some((_, name)) => Err(ProtocolError::MissingSetting(name)),
            None => Ok(self),
        }
    }
}

fn paths(tag: u16, paths: &[PathBuf], writer: Writer) -> Writer {
    paths.iter().fold(writer, |writer, path| record(writer, tag, path.as_os_str().as_bytes()))
}

fn record(writer: Writer, tag: u16, value: &[u8]) -> Writer {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    writer.u16(tag).u32(length).bytes(value)
}
