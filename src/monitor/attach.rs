//! Attach: the other ends of a container's streams, given by its monitor on a connection of their own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use podd_monitor::protocol::{CONTROL_SOCKET, Frames, MAX_CONTROL_FRAME, Report, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::connection::Wire;
use super::{ANSWER_PATIENCE, Monitor, MonitorError};

/// The most descriptors that come with an answer.
const DESCRIPTORS_MAX: usize = 3;

/// The ends that were given; what is not there has ended, or never was.
#[derive(Debug, Default)]
pub struct Attached {
    /// The write end of the standard input; the terminal, where there is one.
    pub stdin: Option<OwnedFd>,
    /// What is read from it is the standard output from now on, or what the terminal shows.
    pub stdout: Option<OwnedFd>,
    /// The same of the standard error.
    pub stderr: Option<OwnedFd>,
}

/// Asks the monitor of the container with this state directory for streams of it: stdin, stdout, stderr.
pub async fn attach(state_dir: &Path, wanted: [bool; 3]) -> Result<Attached, MonitorError> {
    let failed =
        |source| MonitorError::Io { operation: "connect to", path: state_dir.join(CONTROL_SOCKET), source };
    let stream = super::dial(state_dir).await.map_err(failed)?;
    let deadline = Instant::now() + ANSWER_PATIENCE;
    let mut wire = Wire::new(stream);
    Monitor::exchange_greetings(&mut wire, deadline).await?;
    let [stdin, stdout, stderr] = wanted;
    let ended = |_| MonitorError::Ended("attach");
    wire.send(&Request::Attach { stdin, stdout, stderr }).await.map_err(ended)?;
    let patience = ANSWER_PATIENCE;
    let silent = |_| MonitorError::Silent { operation: "attach", patience };
    timeout_at(deadline, answer(wire.stream())).await.map_err(silent)?
}

/// The report and the descriptors come in one message.
async fn answer(stream: &UnixStream) -> Result<Attached, MonitorError> {
    let (mut frames, mut descriptors) = (Frames::new(MAX_CONTROL_FRAME), Vec::new());
    loop {
        if let Some((kind, payload)) = frames.take()? {
            match Report::decode(kind, payload)? {
                Report::Attached { stdin, stdout, stderr } => {
                    let mut descriptors = descriptors.into_iter();
                    let mut given = |there: bool| if there { descriptors.next() } else { None };
                    return Ok(Attached {
                        stdin: given(stdin),
                        stdout: given(stdout),
                        stderr: given(stderr),
                    });
                }
                Report::Refused(text) => return Err(MonitorError::Refused { operation: "attach", text }),
                Report::Exited(_) => return Err(MonitorError::Ended("attach")),
                other => return Err(MonitorError::Protocol(format!("{other:?} is no answer to attach"))),
            }
        }
        let received = stream.async_io(Interest::READABLE, || receive(stream)).await;
        let (bytes, more) = received.map_err(|_| MonitorError::Ended("attach"))?;
        if bytes.is_empty() {
            return Err(MonitorError::Ended("attach"));
        }
        frames.push(&bytes);
        descriptors.extend(more);
    }
}

fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let received =
        recvmsg(stream, &mut [io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((bytes[..received.bytes].to_vec(), descriptors))
}
