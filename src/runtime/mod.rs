//! The OCI runtime as a command line: crun, runc, or whatever speaks the same.
//!
//! Only `create` is run by someone else: the container's monitor must be its parent, so [`Runtime::create_argv`] gives it
//! the words. All other operations run here, each with a time limit, its error output captured and made readable.
//!
//! Invariants: what is already gone is a success to whoever wanted it gone; an error names runtime, operation, container
//! and how long it took; no operation outlives the future that asked for it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{RuntimeConfig, RuntimeKind};

mod command;
mod exec;
mod features;
mod interactive;
mod mark;
mod orphans;
mod processes;
#[cfg(test)]
mod tests;
mod text;
mod update;

pub use exec::{ExecError, ExecOutput};
pub use features::{Ability, Features};
pub use interactive::{Exec, ProcessIo, Wants};
pub use orphans::{become_subreaper, reap_orphans};
pub use text::readable as readable_error;
pub use update::Division;

/// The longest that start, delete, state and kill may take: they wait for no one but the kernel.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest that a runtime may take to say its version.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose command line it is; they differ in how exec treats its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// crun.
    Crun,
    /// runc.
    Runc,
    /// Any other.
    Other,
}

/// One configured OCI runtime that has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    name: String,
    path: PathBuf,
    root: PathBuf,
    args: Vec<String>,
    create_timeout: Duration,
    kind: Kind,
    version: String,
    features: Features,
    systemd_cgroup: bool,
}

/// What the runtime says of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct State {
    /// Its state.
    pub status: Status,
    /// The first process; 0 when there is none.
    #[serde(default)]
    pub pid: i32,
}

/// A container's state in the words of the runtime specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
    /// A word that the specification does not have.
    #[serde(other)]
    Unknown,
}

/// A runtime that did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The binary cannot be run.
    #[error("cannot run {}, the value of runtimes.{runtime}.path", path.display())]
    Binary {
        /// The runtime's name in the configuration.
        runtime: String,
        /// The binary.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{runtime} {operation} of container {id} failed after {took:?}: {text}")]
    Failed {
        /// The runtime's name in the configuration.
        runtime: String,
        /// The operation, as on the command line.
        operation: &'static str,
        /// The container; empty where there is none.
        id: String,
        /// How long it ran.
        took: Duration,
        /// Its own words.
        text: String,
    },
    /// It did not end.
    #[error("{runtime} {operation} of container {id} was killed after {after:?} without an answer")]
    Timeout {
        /// The runtime's name in the configuration.
        runtime: String,
        /// The operation, as on the command line.
        operation: &'static str,
        /// The container; empty where there is none.
        id: String,
        /// The limit.
        after: Duration,
    },
    /// The system did not let us talk to it.
    #[error("cannot talk to {runtime} for {operation} of container {id}")]
    Io {
        /// The runtime's name in the configuration.
        runtime: String,
        /// The operation, as on the command line.
        operation: &'static str,
        /// The container; empty where there is none.
        id: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Runtime {
    /// Asks the runtime of a configuration for its version and its features, so that a missing or broken binary is known before a container
    /// needs it. With `systemd_cgroup` it will leave cgroups to systemd.
    pub async fn probe(
        name: &str,
        config: &RuntimeConfig,
        systemd_cgroup: bool,
    ) -> Result<Self, RuntimeError> {
        let mut runtime = Self {
            name: name.to_owned(),
            path: config.path.clone(),
            root: config.root.clone(),
            args: config.args.clone(),
            create_timeout: Duration::from_secs(config.create_timeout_seconds),
            kind: Kind::Other,
            version: String::new(),
            features: Features::of(Kind::Other, "", None),
            systemd_cgroup,
        };
        let answer = runtime.ask_version().await?;
        let answer = String::from_utf8_lossy(&answer);
        let mut words = answer.split_whitespace();
        let called = words.next();
        runtime.kind = match config.kind {
            RuntimeKind::Auto => match called {
                Some("crun") => Kind::Crun,
                Some("runc") => Kind::Runc,
                _ => Kind::Other,
            },
            RuntimeKind::Crun => Kind::Crun,
            RuntimeKind::Runc => Kind::Runc,
            RuntimeKind::Other => Kind::Other,
        };
        runtime.version = words.nth(1).unwrap_or("unknown").to_owned();
        let features = runtime.ask_features().await.ok();
        runtime.features = Features::of(runtime.kind, &runtime.version, features.as_deref());
        Ok(runtime)
    }

    /// Its name in the configuration, which is that of its handler.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose command line it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The longest that its create may take.
    pub fn create_timeout(&self) -> Duration {
        self.create_timeout
    }

    /// The version that it told.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What it can do on this host.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The command that makes a container from `bundle`, program included. `log_file` gets its errors as lines of JSON.
    pub fn create_argv(
        &self,
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        log_file: &Path,
        console_socket: Option<&Path>,
    ) -> Vec<OsString> {
        let mut argv = self.global();
        argv.extend(["--log".into(), log_file.into(), "--log-format".into(), "json".into()]);
        argv.extend([
            "create".into(),
            "--bundle".into(),
            bundle.into(),
            "--pid-file".into(),
            pid_file.into(),
        ]);
        if let Some(socket) = console_socket {
            argv.extend(["--console-socket".into(), socket.into()]);
        }
        argv.push(id.into());
        argv
    }

    /// The command that removes a container by force, program included.
    pub fn delete_argv(&self, id: &str) -> Vec<OsString> {
        let mut argv = self.global();
        argv.extend(["delete".into(), "--force".into(), id.into()]);
        argv
    }

    /// Lets a created container's process run.
    pub async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.run("start", id, &[], TIMEOUT).await.map(drop)
    }

    /// Removes a container; with `force` also one that runs. One that is not there is a success.
    pub async fn delete(&self, id: &str, force: bool) -> Result<(), RuntimeError> {
        let options: &[&str] = if force { &["--force"] } else { &[] };
        self.unless_gone(id, self.run("delete", id, options, TIMEOUT).await)
    }

    /// What the runtime knows of a container; `None` when there is none.
    pub async fn state(&self, id: &str) -> Result<Option<State>, RuntimeError> {
        match self.run("state", id, &[], TIMEOUT).await {
            Ok(answer) => serde_json::from_slice(&answer).map(Some).map_err(|source| RuntimeError::Io {
                runtime: self.name.clone(),
                operation: "state",
                id: id.to_owned(),
                source: source.into(),
            }),
            Err(error) if self.is_gone(id, &error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Signals a container's first process, or with `all` each of its processes. One that is not there is a success.
    pub async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let options: &[&str] = if all { &["--all"] } else { &[] };
        self.unless_gone(id, self.signal(id, signal, options).await)
    }

    /// The words that come before any operation.
    fn global(&self) -> Vec<OsString> {
        let mut argv = vec![self.path.clone().into(), "--root".into(), self.root.clone().into()];
        if self.systemd_cgroup {
            argv.push("--systemd-cgroup".into());
        }
        argv.extend(self.args.iter().map(Into::into));
        argv
    }

    fn unless_gone(&self, id: &str, result: Result<Vec<u8>, RuntimeError>) -> Result<(), RuntimeError> {
        match result {
            Err(error) if !self.is_gone(id, &error) => Err(error),
            _ => Ok(()),
        }
    }

    /// runc says so; crun tells which file of its root it has missed.
    fn is_gone(&self, id: &str, error: &RuntimeError) -> bool {
        let RuntimeError::Failed { text, .. } = error else { return false };
        let state = self.root.join(id);
        text.contains("does not exist")
            || text.contains("process already finished")
            || (text.contains("No such file or directory") && text.contains(&*state.to_string_lossy()))
    }
}
