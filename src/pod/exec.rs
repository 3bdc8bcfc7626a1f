//! ExecSync, Exec, PortForward and ReopenContainerLog.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Process as SpecProcess;
use serde::Deserialize;
use tokio::net::TcpStream;
use tracing::Instrument;

use super::Pods;
use super::container::{Container, StopPhase};
use super::error::{Cause, PodError, Stage};
use super::sandbox::Pod;
use super::state::ContainerState;
use crate::id::ContainerId;
use crate::monitor::{self, Monitor};
use crate::runtime::{Exec, ExecError, ExecOutput, ProcessIo, Wants};
use crate::spec;
use crate::sys::{self, namespace};

/// How long a connection to a port may take to be made; it is within the node.
const DIALLING: Duration = Duration::from_secs(10);

/// The one part of the runtime's configuration that an exec starts from.
#[derive(Deserialize)]
struct SpecPart {
    process: SpecProcess,
}

/// A connection to a container's first process.
pub struct Attachment {
    /// Its streams.
    pub io: ProcessIo,
    /// Who knows of its end.
    pub monitor: Monitor,
    /// Whether its standard input ends with this connection's (CRI `stdin_once`).
    pub closes_stdin: bool,
}

impl Pods {
    /// Runs a command in a container and returns its output; it may run during the grace period of a stop, and not once
    /// killing has begun (B13).
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, PodError> {
        let (container, process) = self.to_exec(id, command, false)?;
        let (facts, dir) = (&container.facts, self.paths.container(&container.facts.id).dir);
        let runtime = self.runtime(&facts.runtime).await?;
        let stage = Stage::begin("running a command with the runtime", &facts.name);
        let running = runtime.exec_sync(facts.id.as_str(), &process, &dir, timeout);
        match running.instrument(container.span()).await {
            Err(ExecError::Timeout { .. }) => Err(PodError::ExecTimeout {
                id: facts.id.to_string(),
                command: command.first().cloned().unwrap_or_default(),
                timeout: timeout.unwrap_or_default(),
            }),
            result => stage.check(result),
        }
    }

    /// Starts a command in a container, whose streams the caller serves.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        wants: Wants,
    ) -> Result<(Exec, ProcessIo), PodError> {
        let (container, process) = self.to_exec(id, command, wants.tty)?;
        let (facts, dir) = (&container.facts, self.paths.container(&container.facts.id).dir);
        let runtime = self.runtime(&facts.runtime).await?;
        let stage = Stage::begin("running a command with the runtime", &facts.name);
        stage.check(runtime.exec(facts.id.as_str(), &process, &dir, wants).instrument(container.span()).await)
    }

    /// Whether a command can be run in a container now.
    pub fn can_exec(&self, id: &str) -> Result<ContainerId, PodError> {
        let container = self.running(id, "commands need a running one")?;
        if *container.stop.borrow() == StopPhase::Killing {
            let (kind, id) = ("container", container.facts.id.to_string());
            return Err(PodError::State {
                kind,
                id,
                state: "being killed",
                wanted: "commands need a running one",
            });
        }
        Ok(container.facts.id.clone())
    }

    /// Connects the caller to the streams of a container's first process, for as long as it lives.
    pub async fn attach(&self, id: &str, wants: Wants) -> Result<Attachment, PodError> {
        let container = self.running(id, "only a running one can be attached to")?;
        let (facts, dir) = (&container.facts, self.paths.container(&container.facts.id).dir);
        let stage = Stage::begin("attaching to the container", &facts.name);
        let Some(monitor) = container.monitor.clone() else {
            return stage.check(Err("its monitor has died; it can be attached to when it is started anew"));
        };
        let io = monitor::attach(&dir, [wants.stdin, wants.stdout, wants.stderr]).await.map_err(Cause::from);
        let io = io.and_then(|given| {
            let terminal = match (&given.stdin, facts.config.tty) {
                (Some(stdin), true) => Some(stdin.try_clone()?),
                _ => None,
            };
            Ok(ProcessIo::of(given.stdin, given.stdout, given.stderr, terminal)?)
        });
        let closes_stdin = wants.stdin && facts.config.stdin_once;
        Ok(Attachment { io: stage.check(io)?, monitor, closes_stdin })
    }

    /// Whether a client can be connected to a container's first process now.
    pub fn can_attach(&self, id: &str) -> Result<ContainerId, PodError> {
        self.running(id, "only a running one can be attached to").map(|container| container.facts.id.clone())
    }

    /// The container, and the process to run in it.
    fn to_exec(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
    ) -> Result<(Arc<Container>, SpecProcess), PodError> {
        let container = self.container(self.can_exec(id)?.as_str())?;
        let (facts, paths) = (&container.facts, self.paths.container(&container.facts.id));
        let stage = Stage::begin("reading the runtime's configuration", &facts.name);
        let read = fs::read(paths.spec()).map_err(Cause::from);
        let part = stage.check(read.and_then(|text| Ok(serde_json::from_slice::<SpecPart>(&text)?)))?;
        let mut process = spec::exec_process(&part.process, command, tty);
        if let Some(score) = self.updated_score(&container) {
            process.set_oom_score_adj(Some(score));
        }
        Ok((container, process))
    }

    /// Connects to a port of the pod's own loopback: first by IPv4, then by IPv6.
    pub async fn connect_to_port(&self, pod: &str, port: u16) -> Result<TcpStream, PodError> {
        let pod = self.ready_pod(pod)?;
        let namespace = (!pod.facts.host_network()).then(|| self.paths.pod(&pod.facts.id).network);
        let stage = Stage::begin("connecting to a port", &format!("{} in {}", port, pod.facts.name));
        let socket = sys::blocking(move || match namespace {
            Some(namespace) => namespace::in_namespace(&namespace, || dial(port)).and_then(|socket| socket),
            None => dial(port),
        });
        let socket = socket.await.and_then(|socket| {
            socket.set_nonblocking(true)?;
            TcpStream::from_std(socket)
        });
        stage.check(socket)
    }

    /// A pod whose ports can be connected to.
    pub fn ready_pod(&self, id: &str) -> Result<Arc<Pod>, PodError> {
        let pod = self.pod(id)?;
        match pod.is_ready() {
            true => Ok(pod),
            false => {
                let (kind, id) = ("pod sandbox", pod.facts.id.to_string());
                Err(PodError::State { kind, id, state: "stopped", wanted: "ports need a ready one" })
            }
        }
    }

    /// Has the monitor open the log anew, after the kubelet has rotated it; only for running containers (B18).
    pub async fn reopen_log(&self, id: &str) -> Result<(), PodError> {
        let container = self.running(id, "only a running one's log can be opened anew")?;
        let stage = Stage::begin("opening the log anew", &container.facts.name);
        match &container.monitor {
            Some(monitor) => stage.check(monitor.reopen_log().await),
            None => stage.check(Err("its monitor has died; its output is lost until it is started anew")),
        }
    }

    fn running(&self, id: &str, wanted: &'static str) -> Result<Arc<Container>, PodError> {
        let container = self.container(id)?;
        match container.state() {
            ContainerState::Running { .. } => Ok(container),
            state => {
                let (kind, id) = ("container", container.facts.id.to_string());
                Err(PodError::State { kind, id, state: state.name(), wanted })
            }
        }
    }
}

/// Blocks for at most [`DIALLING`] with each address.
fn dial(port: u16) -> io::Result<std::net::TcpStream> {
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()];
    let mut errors = Vec::new();
    for address in addresses {
        match std::net::TcpStream::connect_timeout(&address, DIALLING) {
            Ok(socket) => return Ok(socket),
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
    Err(io::Error::other(errors.join("; ")))
}
