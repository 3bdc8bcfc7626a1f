//! What has come from a client for one stream, and was not read yet: bounded, so that a slow reader holds up the connection.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// How much a stream holds before its connection is read no further, in bytes. More than a window of SPDY, so that a client
/// that keeps the window is never held up: what it waits for may have to come over the same connection.
const BYTES_MAX: usize = 512 << 10;

/// One writer puts in, one reader takes out.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    // Held for a few instructions, never over an await.
    content: Mutex<Content>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Content {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
}

/// Why nothing follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client has sent all.
    Fin,
    /// The client, or the connection, broke it off; what was not read is lost.
    Reset,
    /// Nobody reads it any more: what still comes is thrown away.
    Unread,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing follows.
    pub(super) fn end(&self, end: End) {
        let mut content = self.lock();
        if content.end.is_none() || end == End::Unread {
            content.end = Some(end);
            if end != End::Fin {
                content.pieces.clear();
                content.bytes = 0;
            }
        }
        drop(content);
        self.filled.notify_one();
        self.emptied.notify_one();
    }

    /// Puts a piece in, when there is room. After the end it is thrown away.
    pub(super) async fn put(&self, piece: Bytes) {
        loop {
            {
                let mut content = self.lock();
                if content.end.is_some() || piece.is_empty() {
                    return;
                }
                if content.bytes < BYTES_MAX {
                    content.bytes += piece.len();
                    content.pieces.push_back(piece);
                    break;
                }
            }
            self.emptied.notified().await;
        }
        self.filled.notify_one();
    }

    /// A piece that is there already.
    pub(super) fn take_now(&self) -> Option<Bytes> {
        let mut content = self.lock();
        let piece = content.pieces.pop_front()?;
        content.bytes -= piece.len();
        drop(content);
        self.emptied.notify_one();
        Some(piece)
    }

    /// The next piece; `None` is the end, an error one before its time.
    pub(super) async fn take(&self) -> io::Result<Option<Bytes>> {
        loop {
            {
                let mut content = self.lock();
                if let Some(piece) = content.pieces.pop_front() {
                    content.bytes -= piece.len();
                    drop(content);
                    self.emptied.notify_one();
                    return Ok(Some(piece));
                }
                match content.end {
                    Some(End::Fin | End::Unread) => return Ok(None),
                    Some(End::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
                    None => {}
                }
            }
            self.filled.notified().await;
        }
    }
}
