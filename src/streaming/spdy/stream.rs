//! One stream: what has come for it and was not read yet, what may still be sent, and how each direction ends.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::frame::{DATA_MAX, Frame, Reset, StreamId};
use super::headers::Headers;
use crate::streaming::inbox::{End, Inbox};

/// The window of a stream that the protocol begins with, and of the connection (2.6.8).
const WINDOW: i64 = 64 << 10;
/// What a window may never be larger than (2.6.8).
const WINDOW_MAX: i64 = (1 << 31) - 1;
/// How much is read of a stream before the peer is told that it may send as much again: at first, and once its window has been
/// made wider, which spares a busy stream most of the updates.
const UPDATE_EVERY: usize = 32 << 10;
const WIDE_UPDATE_EVERY: usize = 192 << 10;
/// By how much the window of a stream that is read is made wider. An inbox holds more than the whole of it.
const WIDENING: usize = 320 << 10;
/// How much may wait to be written on a connection, in bytes.
const QUEUE_MAX: usize = 1 << 20;

/// What the writer task is given.
pub(super) enum Out {
    Control(Frame),
    Data {
        id: StreamId,
        fin: bool,
        data: Bytes,
        /// Its place in the queue, given back when it is written.
        place: Option<OwnedSemaphorePermit>,
    },
    /// Nothing follows.
    End,
}

/// All streams of a connection, and what they share.
pub(super) struct Shared {
    // Held for a few instructions, never over an await.
    state: Mutex<State>,
    /// A window has grown, or a stream has ended.
    room_to_send: Notify,
    pub(super) out: mpsc::Sender<Out>,
    /// A permit for each byte of data that may yet wait to be written.
    queue: Arc<Semaphore>,
}

struct State {
    streams: HashMap<StreamId, Entry>,
    /// Whether the peer keeps windows.
    windows: bool,
    initial_window: i64,
    connection_window: i64,
    gone: bool,
}

struct Entry {
    inbox: Arc<Inbox>,
    window: i64,
    /// Each direction, until its FIN.
    receiving: bool,
    sending: bool,
}

impl Shared {
    pub(super) fn new(out: mpsc::Sender<Out>) -> Arc<Self> {
        let state = State {
            streams: HashMap::new(),
            windows: false,
            initial_window: WINDOW,
            connection_window: WINDOW,
            gone: false,
        };
        let queue = Arc::new(Semaphore::new(QUEUE_MAX));
        Arc::new(Self { state: Mutex::new(state), room_to_send: Notify::new(), out, queue })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many streams are open.
    pub(super) fn len(&self) -> usize {
        self.lock().streams.len()
    }

    /// Opens a stream of the peer's; `None` when there is one of that number.
    pub(super) fn open(self: &Arc<Self>, id: StreamId, fin: bool, headers: Headers) -> Option<Stream> {
        let inbox = Arc::new(Inbox::default());
        {
            let mut state = self.lock();
            if state.streams.contains_key(&id) {
                return None;
            }
            let window = state.initial_window;
            let entry = Entry { inbox: Arc::clone(&inbox), window, receiving: !fin, sending: true };
            state.streams.insert(id, entry);
        }
        if fin {
            inbox.end(End::Fin);
        }
        let read = ReadHalf { id, inbox, shared: Arc::clone(self), unreported: 0, wide: false };
        let write = WriteHalf { id, shared: Arc::clone(self), over: false };
        Some(Stream { id, headers, read, write })
    }

    /// A piece of a stream has come; one for a stream that is over is thrown away.
    pub(super) async fn deliver(&self, id: StreamId, fin: bool, data: Bytes) {
        let inbox = self.lock().streams.get(&id).map(|entry| Arc::clone(&entry.inbox));
        let Some(inbox) = inbox else { return };
        inbox.put(data).await;
        if fin {
            inbox.end(End::Fin);
            self.half_over(id, |entry| entry.receiving = false);
        }
    }

    fn half_over(&self, id: StreamId, end: impl FnOnce(&mut Entry)) {
        let mut state = self.lock();
        if let Some(entry) = state.streams.get_mut(&id) {
            end(entry);
            if !entry.receiving && !entry.sending {
                state.streams.remove(&id);
            }
        }
    }

    /// A stream ends in both directions, at once.
    pub(super) fn reset(&self, id: StreamId) {
        if let Some(entry) = self.lock().streams.remove(&id) {
            entry.inbox.end(End::Reset);
        }
        self.room_to_send.notify_waiters();
    }

    /// The connection has ended, and all streams with it.
    pub(super) fn gone(&self) {
        let streams = {
            let mut state = self.lock();
            state.gone = true;
            std::mem::take(&mut state.streams)
        };
        streams.into_values().for_each(|entry| entry.inbox.end(End::Reset));
        self.room_to_send.notify_waiters();
    }

    /// The peer lets more be sent, and so keeps windows. False, and nothing is changed, where the window would be larger than
    /// one can be.
    pub(super) fn widen(&self, id: StreamId, delta: u32) -> bool {
        let mut state = self.lock();
        state.windows = true;
        let window = match id {
            0 => Some(&mut state.connection_window),
            id => state.streams.get_mut(&id).map(|entry| &mut entry.window),
        };
        // A stream that is over has none.
        let Some(window) = window else { return true };
        let wider = *window + i64::from(delta);
        if wider > WINDOW_MAX {
            return false;
        }
        *window = wider;
        drop(state);
        self.room_to_send.notify_waiters();
        true
    }

    /// The peer names the window that streams begin with.
    pub(super) fn begin_with(&self, window: u32) {
        let mut state = self.lock();
        state.windows = true;
        let change = i64::from(window) - state.initial_window;
        state.initial_window = i64::from(window);
        state.streams.values_mut().for_each(|entry| entry.window += change);
        drop(state);
        self.room_to_send.notify_waiters();
    }

    /// How many of so many bytes may be sent on the stream now; they count as sent.
    fn take_room(&self, id: StreamId, wanted: usize) -> io::Result<usize> {
        let mut state = self.lock();
        let (windows, connection) = (state.windows, state.connection_window);
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let entry = state.streams.get_mut(&id).filter(|entry| entry.sending).ok_or_else(broken)?;
        let wanted = wanted.min(DATA_MAX);
        let room = match windows {
            false => wanted,
            true => usize::try_from(entry.window.min(connection)).unwrap_or(0).min(wanted),
        };
        let taken = i64::try_from(room).unwrap_or(i64::MAX);
        entry.window -= taken;
        state.connection_window -= taken;
        Ok(room)
    }

    /// Waits until some of so many bytes may be sent.
    async fn room(&self, id: StreamId, wanted: usize) -> io::Result<usize> {
        loop {
            let changed = self.room_to_send.notified();
            match self.take_room(id, wanted)? {
                0 => changed.await,
                room => return Ok(room),
            }
        }
    }

    /// Waits until so much more may wait to be written.
    async fn place(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        // A piece is far smaller than the queue.
        let permits = u32::try_from(length.min(QUEUE_MAX)).unwrap_or(0);
        Arc::clone(&self.queue).acquire_many_owned(permits).await.ok()
    }

    async fn send(&self, out: Out) -> io::Result<()> {
        self.out.send(out).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A stream that the client has opened.
pub struct Stream {
    /// Its number.
    pub id: StreamId,
    /// What the client said of it.
    pub headers: Headers,
    /// What comes from the client.
    pub read: ReadHalf,
    /// What goes to the client.
    pub write: WriteHalf,
}

/// What comes from the client on one stream. Dropped, it throws away what still comes.
pub struct ReadHalf {
    id: StreamId,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    unreported: usize,
    /// Whether the peer's window has been made wider.
    wide: bool,
}

impl ReadHalf {
    /// The next bytes; `None` is the end. An error says that the client, or the connection, broke it off.
    pub async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let piece = self.inbox.take().await?;
        self.report(piece.as_ref().map_or(0, Bytes::len));
        Ok(piece)
    }

    /// The next bytes, if there are some already.
    pub fn read_now(&mut self) -> Option<Bytes> {
        let piece = self.inbox.take_now()?;
        self.report(piece.len());
        Some(piece)
    }

    /// Tells the peer that what was read may be sent again. A queue that is full is told of it next time.
    fn report(&mut self, read: usize) {
        self.unreported += read;
        let (every, more) = if self.wide { (WIDE_UPDATE_EVERY, 0) } else { (UPDATE_EVERY, WIDENING) };
        if self.unreported < every {
            return;
        }
        let delta = u32::try_from(self.unreported + more).unwrap_or(u32::MAX);
        let update = Frame::WindowUpdate { id: self.id, delta };
        if self.shared.out.try_send(Out::Control(update)).is_ok() {
            (self.unreported, self.wide) = (0, true);
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.inbox.end(End::Unread);
    }
}

/// What goes to the client on one stream. Dropped before its end, it resets the stream.
pub struct WriteHalf {
    id: StreamId,
    shared: Arc<Shared>,
    over: bool,
}

impl WriteHalf {
    /// Sends bytes, when the client lets it. An error says that the client, or the connection, broke it off.
    pub async fn write(&mut self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let room = self.shared.room(self.id, data.len()).await?;
            let data = data.split_to(room);
            let place = self.shared.place(room).await;
            self.shared.send(Out::Data { id: self.id, fin: false, data, place }).await?;
        }
        Ok(())
    }

    /// Ends this direction; what was sent arrives before the end.
    pub async fn finish(mut self) -> io::Result<()> {
        self.over = true;
        self.shared.half_over(self.id, |entry| entry.sending = false);
        self.shared.send(Out::Data { id: self.id, fin: true, data: Bytes::new(), place: None }).await
    }

    /// Breaks the stream off in both directions.
    pub async fn reset(mut self, status: Reset) -> io::Result<()> {
        self.over = true;
        self.shared.reset(self.id);
        self.shared.send(Out::Control(Frame::RstStream { id: self.id, status })).await
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        if !self.over {
            self.shared.reset(self.id);
            // A queue that is full belongs to a connection that is about to end with its session.
            let frame = Frame::RstStream { id: self.id, status: Reset::Cancel };
            let _ = self.shared.out.try_send(Out::Control(frame));
        }
    }
}
