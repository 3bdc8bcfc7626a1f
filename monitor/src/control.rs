//! Connections of the daemon: bytes in, requests out, reports back.
//!
//! A connection never holds the monitor up: reads do not wait, and a peer that does not take its answers is cut off.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use podd_monitor::protocol::{Frames, Report, Request, VERSION};

use crate::sys::descriptor::send_descriptors;

/// One connection. It is closed by dropping it.
pub(crate) struct Connection {
    stream: UnixStream,
    frames: Frames,
    greeted: bool,
}

/// A connection is of no more use: the peer is gone, or says what cannot be understood and was told so.
#[derive(Debug)]
pub(crate) struct Closed;

impl Connection {
    /// Takes a connection over and greets the peer. `limit` bounds its frames.
    pub(crate) fn new(stream: UnixStream, limit: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut connection = Self { stream, frames: Frames::new(limit), greeted: false };
        connection.send(&Report::Hello(VERSION)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(connection)
    }

    pub(crate) fn inherited(socket: OwnedFd, limit: usize) -> io::Result<Self> {
        Self::new(UnixStream::from(socket), limit)
    }

    /// Sends a report at once or not at all.
    pub(crate) fn send(&mut self, report: &Report) -> Result<(), Closed> {
        self.stream.write_all(&report.encode()).map_err(|_| Closed)
    }

    /// Sends a report with descriptors at once or not at all.
    pub(crate) fn send_with(
        &mut self,
        report: &Report,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Closed> {
        send_descriptors(self.stream.as_fd(), &report.encode(), descriptors).map_err(|_| Closed)
    }

    /// Reads what has come. The requests in it are then given by [`Self::take`].
    pub(crate) fn receive(&mut self) -> Result<(), Closed> {
        let mut bytes = [0u8; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(Closed),
            Ok(count) => {
                self.frames.push(&bytes[..count]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(_) => Err(Closed),
        }
    }

    /// The next whole request after the greeting, which is checked here.
    pub(crate) fn take(&mut self) -> Result<Option<Request>, Closed> {
        loop {
            let request = match self.frames.take() {
                Ok(Some((kind, payload))) => Request::decode(kind, payload),
                Ok(None) => return Ok(None),
                Err(error) => Err(error),
            };
            match request {
                Ok(Request::Hello(version)) if version.major == VERSION.major => self.greeted = true,
                Ok(Request::Hello(version)) => {
                    return self
                        .misunderstood(format!("this monitor speaks protocol {VERSION}, not {version}"));
                }
                Ok(_) if !self.greeted => {
                    return self.misunderstood("the first message must be a greeting".to_owned());
                }
                Ok(request) => return Ok(Some(request)),
                Err(error) => return self.misunderstood(error.to_string()),
            }
        }
    }

    fn misunderstood<T>(&mut self, text: String) -> Result<T, Closed> {
        let _ = self.send(&Report::Refused(text));
        Err(Closed)
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
