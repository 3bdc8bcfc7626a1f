//! A connection: one task that reads and one that writes, streams as the client opens them, and an end that loses nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::SpdyError;
use super::frame::{Frame, Parser, Reset, StreamId, Writer, data_head};
use super::headers::Headers;
use super::stream::{Out, Shared, Stream};

/// How many streams a client may have open at a time; exec has five, a port-forward two for each connection.
const STREAMS_MAX: usize = 1000;
/// How many streams wait to be accepted.
const OPENING_MAX: usize = 256;
/// How much is read at once, in bytes.
const READ_SIZE: usize = 128 << 10;
/// How much comes on a connection before the peer is told that it may send as much again. What nobody reads counts as well: the
/// windows of the streams hold up a peer, this one does not.
const UPDATE_EVERY: usize = 32 << 10;
const WIDE_UPDATE_EVERY: usize = 1 << 20;
/// By how much the connection's window is made wider with the first update.
const WIDENING: usize = 4 << 20;
/// How many messages wait to be written. How much data they may hold is bounded apart from that.
const OUT_MAX: usize = 32;
/// Pieces up to this size are gathered into one write.
const SMALL: usize = 4 << 10;
/// How long a client may take to close its end after we have closed ours.
const LINGER: Duration = Duration::from_secs(5);

/// The server's end of a connection. Dropped without [`close`](Self::close), it is cut off.
pub struct Connection {
    opened: mpsc::Receiver<Opening>,
    shared: Arc<Shared>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// A stream that the client wants to open.
pub struct Opening {
    stream: Stream,
    shared: Arc<Shared>,
}

impl Opening {
    /// What the client says of it.
    pub fn headers(&self) -> &Headers {
        &self.stream.headers
    }

    /// Its number.
    pub fn id(&self) -> StreamId {
        self.stream.id
    }

    /// Lets the client have it.
    pub async fn accept(self) -> io::Result<Stream> {
        let reply = Frame::SynReply { id: self.stream.id, fin: false, headers: Headers::default() };
        let sent = self.shared.out.send(Out::Control(reply)).await;
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(self.stream)
    }

    /// Refuses it.
    pub async fn refuse(self) -> io::Result<()> {
        self.stream.write.reset(Reset::RefusedStream).await
    }
}

impl Connection {
    /// Speaks SPDY from now on. A connection on which nothing happens for so long is ended.
    pub fn new<T: AsyncRead + AsyncWrite + Send + 'static>(io: T, idle: Duration) -> Self {
        let (out, queue) = mpsc::channel(OUT_MAX);
        let (opener, opened) = mpsc::channel(OPENING_MAX);
        let shared = Shared::new(out);
        let (from, to) = tokio::io::split(io);
        let active = Arc::new(Activity::new());
        let received = Received::default();
        let reader =
            Reader { from, parser: Parser::new(), opener, last: 0, received, shared: Arc::clone(&shared) };
        let writing = tokio::spawn(write(to, queue, Arc::clone(&shared), Arc::clone(&active)));
        let reading = tokio::spawn(reader.run(active, idle));
        Self { opened, shared, reading, writing }
    }

    /// The next stream that the client opens; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Opening> {
        self.opened.recv().await
    }

    /// Ends the connection after all that was written has been sent. Then waits a moment for the client to end it as well:
    /// when a socket is closed before all was read, the kernel throws away what was sent and not yet received.
    pub async fn close(mut self) {
        self.opened.close();
        self.shared.gone();
        let _ = self.shared.out.send(Out::Control(Frame::GoAway { last: 0 })).await;
        let _ = self.shared.out.send(Out::End).await;
        let _ = timeout(LINGER, async { tokio::join!(&mut self.reading, &mut self.writing) }).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.gone();
        self.reading.abort();
        self.writing.abort();
    }
}

/// When something happened last, in milliseconds since the beginning.
struct Activity {
    began: Instant,
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn now(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

struct Reader<T> {
    from: ReadHalf<T>,
    parser: Parser,
    opener: mpsc::Sender<Opening>,
    /// The highest number of a stream up to now.
    last: StreamId,
    received: Received,
    shared: Arc<Shared>,
}

/// Data that the peer has not been told of that it may send as much again.
#[derive(Default)]
struct Received {
    bytes: usize,
    /// Whether the connection's window has been made wider.
    wide: bool,
}

impl<T: AsyncRead> Reader<T> {
    /// Reads until the client ends the connection, breaks the protocol or is silent for too long.
    async fn run(mut self, active: Arc<Activity>, idle: Duration) {
        let mut input = BytesMut::with_capacity(READ_SIZE);
        loop {
            input.reserve(READ_SIZE);
            match timeout_at(active.last() + idle, self.from.read_buf(&mut input)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => active.now(),
                Err(_) if active.last().elapsed() < idle => continue,
                Err(_) => {
                    tracing::info!(?idle, "a streaming connection was idle for too long");
                    break;
                }
            }
            if let Err(error) = self.frames(&mut input).await {
                tracing::warn!(%error, "a streaming connection is ended");
                break;
            }
        }
        self.shared.gone();
    }

    async fn frames(&mut self, input: &mut BytesMut) -> Result<(), SpdyError> {
        while let Some(frame) = self.parser.next(input)? {
            match frame {
                Frame::SynStream { id, fin, headers } => self.open(id, fin, headers),
                Frame::Data { id, fin, data } => {
                    self.report(data.len());
                    self.shared.deliver(id, fin, data).await;
                }
                Frame::Headers { id, fin: true, .. } => self.shared.deliver(id, true, Bytes::new()).await,
                Frame::RstStream { id, .. } => self.shared.reset(id),
                Frame::WindowUpdate { id, delta } => self.widen(id, delta)?,
                Frame::Settings { initial_window: Some(window) } => self.shared.begin_with(window),
                // An even number is the answer to a ping of ours, of which there are none.
                Frame::Ping { id } if id % 2 == 1 => self.say(Frame::Ping { id }),
                Frame::Ping { .. }
                | Frame::Settings { initial_window: None }
                | Frame::Headers { fin: false, .. }
                | Frame::SynReply { .. }
                | Frame::GoAway { .. } => {}
            }
        }
        Ok(())
    }

    /// A queue that is full is told next time.
    fn report(&mut self, bytes: usize) {
        let Received { bytes: before, wide } = self.received;
        let (every, more) = if wide { (WIDE_UPDATE_EVERY, 0) } else { (UPDATE_EVERY, WIDENING) };
        self.received.bytes = before + bytes;
        if self.received.bytes < every {
            return;
        }
        let delta = u32::try_from(self.received.bytes + more).unwrap_or(u32::MAX);
        let update = Frame::WindowUpdate { id: 0, delta };
        if self.shared.out.try_send(Out::Control(update)).is_ok() {
            self.received = Received { bytes: 0, wide: true };
        }
    }

    /// A window that overflows is the end of its stream, or of the connection (2.6.8).
    fn widen(&self, id: StreamId, delta: u32) -> Result<(), SpdyError> {
        match (self.shared.widen(id, delta), id) {
            (true, _) => Ok(()),
            (false, 0) => Err(SpdyError::Protocol("the window of the connection is wider than 2 GiB")),
            (false, id) => {
                self.shared.reset(id);
                self.say(Frame::RstStream { id, status: Reset::FlowControl });
                Ok(())
            }
        }
    }

    fn open(&mut self, id: StreamId, fin: bool, headers: Headers) {
        let in_order = id % 2 == 1 && id > self.last;
        if !in_order {
            return self.say(Frame::RstStream { id, status: Reset::ProtocolError });
        }
        self.last = id;
        let room = self.shared.len() < STREAMS_MAX;
        match self.shared.open(id, fin, headers).filter(|_| room) {
            // Refused when it is dropped, where nobody is there to accept it.
            Some(stream) => drop(self.opener.try_send(Opening { stream, shared: Arc::clone(&self.shared) })),
            None => self.say(Frame::RstStream { id, status: Reset::RefusedStream }),
        }
    }

    /// Never waits: what the writer waits for may have to be read first.
    fn say(&self, frame: Frame) {
        let _ = self.shared.out.try_send(Out::Control(frame));
    }
}

/// Writes until it is told to end, or cannot any more. Small messages that wait together are one write.
async fn write<T: AsyncWrite>(
    mut to: WriteHalf<T>,
    mut queue: mpsc::Receiver<Out>,
    shared: Arc<Shared>,
    active: Arc<Activity>,
) {
    let mut writer = Writer::new();
    let (mut batch, mut small) = (Vec::with_capacity(OUT_MAX), BytesMut::new());
    while queue.recv_many(&mut batch, OUT_MAX).await > 0 {
        let written = write_batch(&mut to, &mut writer, &mut batch, &mut small).await;
        active.now();
        if !matches!(written, Ok(true)) {
            break;
        }
    }
    let _ = to.shutdown().await;
    shared.gone();
}

/// Whether it goes on.
async fn write_batch<T: AsyncWrite>(
    to: &mut WriteHalf<T>,
    writer: &mut Writer,
    batch: &mut Vec<Out>,
    small: &mut BytesMut,
) -> io::Result<bool> {
    let mut goes_on = true;
    for out in batch.drain(..) {
        match out {
            Out::Control(frame) => writer.control(&frame, small),
            // The place is given back with the end of this turn, when the data is written or with the small ones.
            Out::Data { id, fin, data, place: _place } => {
                small.extend_from_slice(&data_head(id, fin, data.len()));
                if data.len() <= SMALL {
                    small.extend_from_slice(&data);
                } else {
                    to.write_all_buf(&mut small.split().chain(data)).await?;
                }
            }
            Out::End => goes_on = false,
        }
    }
    to.write_all_buf(small).await?;
    to.flush().await?;
    Ok(goes_on)
}
