//! Between the streams of a session and the pipes, or the terminal, of a process.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use rustix::termios::Winsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::session::{Input, Output, Sizes, Streams};

/// How much is read from a process at once, in bytes; a pipe holds as much at its largest without privilege.
const READ_SIZE: usize = 256 << 10;

/// The daemon's ends of a process's streams.
#[derive(Default)]
pub struct ProcessIo {
    /// Its standard input; dropped, it reads as ended.
    pub stdin: Option<Sender>,
    /// Its standard output, or all that its terminal shows.
    pub stdout: Option<Receiver>,
    /// Its standard error.
    pub stderr: Option<Receiver>,
    /// Its terminal, to change its size.
    pub terminal: Option<OwnedFd>,
}

/// Carries bytes until the process has ended and all that it wrote has been carried, or until its outputs have ended and
/// it, too. What a process that lives on behind it still holds open is not waited for.
pub async fn pump<T>(streams: Streams, io: ProcessIo, end: impl Future<Output = T>) -> T {
    let over = CancellationToken::new();
    let inwards = async {
        let sizes = follow_sizes(streams.sizes, io.terminal.as_ref());
        // A terminal has no end of input of its own: it stays as long as the session.
        let stdin = feed(streams.stdin, io.stdin, io.terminal.is_some());
        tokio::join!(sizes, stdin);
    };
    let outwards = async {
        let (stdout, stderr) =
            (drain(io.stdout, streams.stdout, &over), drain(io.stderr, streams.stderr, &over));
        tokio::join!(stdout, stderr)
    };
    let (mut inwards, mut outwards) = (std::pin::pin!(inwards), std::pin::pin!(outwards));
    let mut end = std::pin::pin!(end);
    let (mut fed, mut drained) = (false, false);
    let result = loop {
        tokio::select! {
            result = &mut end => break result,
            () = &mut inwards, if !fed => fed = true,
            _ = &mut outwards, if !drained => drained = true,
        }
    };
    over.cancel();
    if !drained {
        outwards.await;
    }
    result
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
    while let Ok(Some(bytes)) = from.read().await {
        if to.write_all(&bytes).await.is_err() {
            // Nobody reads any more: what still comes has no taker.
            return;
        }
    }
    if keep_open {
        std::future::pending::<()>().await;
    }
}

/// Gives the process's bytes to the client until their end, or until the process has ended and no more are there. Without a
/// stream they are thrown away. When the client has gone the pipe is closed, and a process that writes on is told by SIGPIPE.
async fn drain(from: Option<Receiver>, to: Option<Output>, over: &CancellationToken) {
    let Some(mut from) = from else { return };
    let Some(mut to) = to else {
        let mut rest = [0; 4096];
        while !over.is_cancelled() {
            tokio::select! {
                read = from.read(&mut rest) => if !matches!(read, Ok(1..)) { break },
                () = over.cancelled() => break,
            }
        }
        return;
    };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_SIZE);
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut buffer) => read,
            () = over.cancelled() => match from.try_read_buf(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                other => other,
            },
        };
        // A terminal whose last process has gone gives EIO.
        let bytes: Bytes = match read {
            Ok(1..) => buffer.split().freeze(),
            Ok(0) | Err(_) => break,
        };
        if to.write(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.finish().await;
}
