//! Between the streams of a session and the pipes, or the terminal, of a process.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::termios::Winsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::session::{Input, Output, Sizes, Streams};
use crate::runtime::ProcessIo;

/// How long the last bytes of a terminal may be on their way: the kernel passes them on by a worker, so that they may come
/// after the end of the process that wrote them. Its hang-up ends the wait as a rule.
const TERMINAL_GRACE: Duration = Duration::from_millis(300);

/// How often a terminal that no process has open is looked at again.
const TERMINAL_PAUSE: Duration = Duration::from_millis(5);

/// How much is read from a process at once, in bytes; a pipe holds as much at its largest without privilege.
const READ_SIZE: usize = 256 << 10;

/// How many pieces are written at once; the clients send 32 KiB in each.
const PIECES_MAX: usize = 16;

/// A process that has ended, and the streams on which there may be more to say.
pub(super) struct Pumped<T> {
    pub(super) end: T,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
}

/// Carries bytes until the process has ended and all that it wrote has been carried. What a process that lives on behind it
/// still holds open is not waited for. `after_input` is what follows the end of the client's bytes.
pub(super) async fn pump<T>(
    streams: Streams,
    io: ProcessIo,
    end: impl Future<Output = T>,
    after_input: impl Future<Output = ()>,
) -> Pumped<T> {
    let over = CancellationToken::new();
    let inwards = async {
        let sizes = follow_sizes(streams.sizes, io.terminal.as_ref());
        // A terminal has no end of input of its own: it stays as long as the session.
        let stdin = async {
            feed(streams.stdin, io.stdin, io.terminal.is_some()).await;
            after_input.await;
        };
        tokio::join!(sizes, stdin);
    };
    let outwards = async {
        let grace = if io.terminal.is_some() { TERMINAL_GRACE } else { Duration::ZERO };
        let stdout = drain(io.stdout, streams.stdout, &over, grace);
        let stderr = drain(io.stderr, streams.stderr, &over, grace);
        tokio::join!(stdout, stderr)
    };
    let ended = async {
        let end = end.await;
        over.cancel();
        end
    };
    let mut both = std::pin::pin!(async { tokio::join!(ended, outwards) });
    let (mut inwards, mut fed) = (std::pin::pin!(inwards), false);
    loop {
        tokio::select! {
            (end, (stdout, stderr)) = &mut both => return Pumped { end, stdout, stderr },
            () = &mut inwards, if !fed => fed = true,
        }
    }
}

async fn follow_sizes(sizes: Option<Sizes>, terminal: Option<&OwnedFd>) {
    let (Some(mut sizes), Some(terminal)) = (sizes, terminal) else { return };
    while let Some(size) = sizes.next().await {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
            tracing::warn!(%error, "the terminal does not take its new size");
        }
    }
}

/// Gives the client's bytes to the process; their end is the end of its input.
async fn feed(from: Option<Input>, to: Option<Sender>, keep_open: bool) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    let mut pieces = Pieces::default();
    while let Ok(Some(bytes)) = from.read().await {
        pieces.0.push_back(bytes);
        while pieces.0.len() < PIECES_MAX
            && let Some(bytes) = from.read_now()
        {
            pieces.0.push_back(bytes);
        }
        if to.write_all_buf(&mut pieces).await.is_err() {
            // Nobody reads any more: what still comes has no taker.
            return;
        }
    }
    if keep_open {
        std::future::pending::<()>().await;
    }
}

/// Bytes that are written one after the other, in as few system calls as may be.
#[derive(Default)]
struct Pieces(VecDeque<Bytes>);

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        slices.iter_mut().zip(&self.0).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.0.front_mut() {
            let step = count.min(piece.len());
            piece.advance(step);
            count -= step;
            if !piece.is_empty() {
                return;
            }
            self.0.pop_front();
        }
    }
}

/// Gives the process's bytes to the client until their end, or until the process has ended and no more are there. Without a
/// stream they are thrown away. When the client has gone the pipe is closed, and a process that writes on is told by SIGPIPE.
/// `grace` is how long the last bytes may take.
async fn drain(
    from: Option<Receiver>,
    mut to: Option<Output>,
    over: &CancellationToken,
    grace: Duration,
) -> Option<Output> {
    let Some(mut from) = from else { return to };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_SIZE);
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut buffer) => read,
            () = over.cancelled() => match from.try_read_buf(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    timeout(grace, from.read_buf(&mut buffer)).await.unwrap_or(Ok(0))
                }
                other => other,
            },
        };
        let bytes = match read {
            Ok(1..) => buffer.split().freeze(),
            // A terminal gives EIO while no process has it open: before the command has, and again after its end.
            Err(_) if !grace.is_zero() && !over.is_cancelled() => {
                let _ = timeout(TERMINAL_PAUSE, over.cancelled()).await;
                continue;
            }
            Ok(0) | Err(_) => return to,
        };
        if let Some(output) = &mut to {
            output.write(bytes).await.ok()?;
        }
    }
}
