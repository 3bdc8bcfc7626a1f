//! Channels: each message begins with the number of the stream that the rest of it belongs to.
//!
//! ```text
//!  message ──► reader task ──► Inbox of the channel ──► Input::read
//!  message ◄── writer task ◄── bounded channel ◄─────── Output::write
//! ```
//!
//! Version 5 of remotecommand has a message, 255 and a number, by which the client ends one stream (stdin). Before it only the
//! end of the connection did.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Encoding;
use crate::streaming::inbox::{End, Inbox};

/// The first byte of the message by which a client ends a stream.
const CLOSE_SIGNAL: u8 = 255;
/// How many messages wait to be written, each of at most 256 KiB.
const OUT_MAX: usize = 4;
/// The most of a stream that goes into one message, in bytes.
const PIECE_MAX: usize = 256 << 10;
/// How long a client may take to close its end after we have closed ours.
const LINGER: Duration = Duration::from_secs(5);

/// Who writes to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    In,
    /// The server.
    Out,
    /// Both.
    Both,
    /// Nobody: what comes is thrown away.
    Unused,
}

/// A connection with its channels. Dropped without [`close`](Self::close), it is cut off.
pub struct Channels {
    inboxes: Arc<[Inbox]>,
    out: mpsc::Sender<Message>,
    encoding: Encoding,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// What comes from the client on one channel.
pub struct Input {
    inboxes: Arc<[Inbox]>,
    number: usize,
}

/// What goes to the client on one channel.
#[derive(Clone)]
pub struct Output {
    out: mpsc::Sender<Message>,
    encoding: Encoding,
    number: u8,
}

impl Channels {
    /// Takes up the connection. `close_signal` is whether the client may end single streams; a connection on which no data
    /// comes or goes for so long is ended.
    pub async fn new<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        io: T,
        directions: &[Direction],
        encoding: Encoding,
        close_signal: bool,
        idle: Duration,
    ) -> Self {
        let (sink, stream) = super::server(io).await.split();
        let inboxes: Arc<[Inbox]> = directions.iter().map(|_| Inbox::default()).collect();
        for (inbox, direction) in inboxes.iter().zip(directions) {
            match direction {
                Direction::In | Direction::Both => {}
                Direction::Out | Direction::Unused => inbox.end(End::Unread),
            }
        }
        let (out, queue) = mpsc::channel(OUT_MAX);
        let active = watch::Sender::new(Instant::now());
        let reader = Reader { stream, inboxes: Arc::clone(&inboxes), encoding, close_signal };
        let reading = tokio::spawn(reader.run(active.clone(), idle));
        let writing = tokio::spawn(write(sink, queue, active));
        Self { inboxes, out, encoding, reading, writing }
    }

    /// The reading end of a channel; to be asked for once.
    pub fn input(&self, number: u8) -> Input {
        Input { inboxes: Arc::clone(&self.inboxes), number: usize::from(number) }
    }

    /// The writing end of a channel.
    pub fn output(&self, number: u8) -> Output {
        Output { out: self.out.clone(), encoding: self.encoding, number }
    }

    /// Waits for the end of the connection.
    pub async fn closed(&mut self) {
        let _ = (&mut self.reading).await;
    }

    /// Ends the connection after all that was written has been sent, and waits a moment for the client to end it as well.
    pub async fn close(mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.end(End::Unread));
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.out.send(Message::Close(Some(frame))).await;
        let _ = timeout(LINGER, async { tokio::join!(&mut self.writing, &mut self.reading) }).await;
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.end(End::Reset));
        self.reading.abort();
        self.writing.abort();
    }
}

impl Input {
    /// The next bytes; `None` is the end. An error says that the client, or the connection, broke it off.
    pub async fn read(&mut self) -> io::Result<Option<Bytes>> {
        self.inboxes[self.number].take().await
    }

    /// The next bytes, if there are some already.
    pub fn read_now(&mut self) -> Option<Bytes> {
        self.inboxes[self.number].take_now()
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.inboxes[self.number].end(End::Unread);
    }
}

impl Output {
    /// Sends bytes; none is a message, too, by which the clients know that the server is there.
    pub async fn write(&mut self, mut data: Bytes) -> io::Result<()> {
        loop {
            let piece = data.split_to(data.len().min(PIECE_MAX));
            let message = encode(self.encoding, self.number, &piece);
            self.out.send(message).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }
}

fn encode(encoding: Encoding, number: u8, data: &[u8]) -> Message {
    match encoding {
        Encoding::Binary => {
            let mut message = BytesMut::with_capacity(1 + data.len());
            message.put_u8(number);
            message.put_slice(data);
            Message::Binary(message.freeze())
        }
        Encoding::Base64 => {
            let mut message = String::from(char::from(b'0' + number));
            STANDARD.encode_string(data, &mut message);
            Message::Text(message.into())
        }
    }
}

struct Reader<T> {
    stream: SplitStream<WebSocketStream<T>>,
    inboxes: Arc<[Inbox]>,
    encoding: Encoding,
    close_signal: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    /// Reads until the client ends the connection, breaks the protocol or is silent for too long.
    async fn run(mut self, active: watch::Sender<Instant>, idle: Duration) {
        let end = loop {
            let last = *active.borrow();
            let message = match timeout_at(last + idle, self.stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(None | Some(Err(_))) => break End::Reset,
                Err(_) if active.borrow().elapsed() < idle => continue,
                Err(_) => {
                    tracing::info!(?idle, "a streaming connection was idle for too long");
                    break End::Reset;
                }
            };
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => break End::Fin,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            active.send_replace(Instant::now());
            if let Err(why) = self.message(data).await {
                tracing::warn!("a streaming connection is ended: {why}");
                break End::Reset;
            }
        };
        // Version 4 has no other end of stdin than that of the connection.
        self.inboxes.iter().for_each(|inbox| inbox.end(end));
    }

    /// A message for a channel that is not there is thrown away.
    async fn message(&self, mut data: Bytes) -> Result<(), &'static str> {
        if data.is_empty() {
            return Ok(());
        }
        let first = data.split_to(1)[0];
        if self.close_signal && first == CLOSE_SIGNAL {
            let [number] = data[..] else { return Err("the signal to close a stream names none") };
            let inbox = self.inboxes.get(usize::from(number));
            inbox.ok_or("the signal to close a stream names one that is not there")?.end(End::Fin);
            return Ok(());
        }
        let (number, data) = match self.encoding {
            Encoding::Binary => (first, data),
            Encoding::Base64 => {
                let decoded = STANDARD.decode(&data).map_err(|_| "a message is not base64")?;
                (first.wrapping_sub(b'0'), decoded.into())
            }
        };
        if let Some(inbox) = self.inboxes.get(usize::from(number)) {
            inbox.put(data).await;
        }
        Ok(())
    }
}

/// Writes until the connection is closed, or cannot be written to. What waits together is flushed together.
async fn write<T: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut queue: mpsc::Receiver<Message>,
    active: watch::Sender<Instant>,
) {
    while let Some(message) = queue.recv().await {
        let mut next = Some(message);
        while let Some(message) = next {
            let last = matches!(message, Message::Close(_));
            if sink.feed(message).await.is_err() {
                return;
            }
            if last {
                let _ = sink.flush().await;
                return;
            }
            next = queue.try_recv().ok();
        }
        active.send_replace(Instant::now());
        if sink.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const EXEC: [Direction; 3] = [Direction::In, Direction::Out, Direction::Unused];

    async fn pair(encoding: Encoding, close_signal: bool) -> (WebSocketStream<DuplexStream>, Channels) {
        let (client, server) = duplex(1 << 20);
        let channels = Channels::new(server, &EXEC, encoding, close_signal, HOUR).await;
        (WebSocketStream::from_raw_socket(client, Role::Client, None).await, channels)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_stream_ends_by_its_signal() {
        let (mut client, channels) = pair(Encoding::Binary, true).await;
        let (mut stdin, mut stdout) = (channels.input(0), channels.output(1));
        for message in [&b"\0abc"[..], b"\x02lost", b"\x09lost", b"\xff\0", b"\0late"] {
            client.send(Message::Binary(Bytes::copy_from_slice(message))).await.unwrap();
        }
        assert_eq!(stdin.read().await.unwrap().unwrap(), "abc");
        assert_eq!(stdin.read().await.unwrap(), None);
        stdout.write(Bytes::from_static(b"xyz")).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(Bytes::from_static(b"\x01xyz")));
        let closing = tokio::spawn(channels.close());
        let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else { panic!("no close") };
        assert_eq!(frame.code, CloseCode::Normal);
        while client.next().await.is_some() {}
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn base64_is_read_and_written_and_the_connections_end_is_that_of_stdin() {
        let (mut client, channels) = pair(Encoding::Base64, false).await;
        let (mut stdin, mut stdout) = (channels.input(0), channels.output(1));
        client.send(Message::Text("0Zm9vCg==".into())).await.unwrap();
        assert_eq!(stdin.read().await.unwrap().unwrap(), "foo\n");
        stdout.write(Bytes::from_static(b"\n")).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Text("1Cg==".into()));
        client.close(None).await.unwrap();
        assert_eq!(stdin.read().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_message_that_makes_no_sense_ends_the_connection() {
        for (encoding, message) in
            [(Encoding::Base64, &b"0!"[..]), (Encoding::Binary, b"\xff"), (Encoding::Binary, b"\xff\x09")]
        {
            let (mut client, mut channels) = pair(encoding, true).await;
            client.send(Message::Binary(Bytes::copy_from_slice(message))).await.unwrap();
            assert!(channels.input(0).read().await.is_err());
            channels.closed().await;
        }
    }
}
