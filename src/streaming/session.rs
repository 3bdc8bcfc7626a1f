//! The streams of an exec or attach session, whichever protocol carries them.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::status::Outcome;
use super::{spdy, websocket};
use crate::runtime::Wants;

/// How long a client may take to open all streams that it needs.
const OPENING: Duration = Duration::from_secs(30);
/// The longest text of a terminal's size, in bytes.
const SIZE_MAX: usize = 4096;

/// What comes from the client.
pub enum Input {
    /// Over SPDY.
    Spdy(spdy::ReadHalf),
    /// Over a WebSocket.
    Channel(websocket::Input),
}

/// What goes to the client.
pub enum Output {
    /// Over SPDY.
    Spdy(spdy::WriteHalf),
    /// Over a WebSocket.
    Channel(websocket::Output),
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Lines.
    #[serde(rename = "Height")]
    pub height: u16,
}

/// Sizes as they come.
pub struct Sizes {
    from: Input,
    text: BytesMut,
}

/// An open session.
pub struct Session {
    /// The command's standard input.
    pub stdin: Option<Input>,
    /// Its standard output.
    pub stdout: Option<Output>,
    /// Its standard error.
    pub stderr: Option<Output>,
    /// The terminal's sizes.
    pub sizes: Option<Sizes>,
    end: Ending,
}

/// What is left for the end of a session.
pub struct Ending {
    status: Output,
    json: bool,
    /// The sending halves of streams on which only the client sends.
    unused: Vec<spdy::WriteHalf>,
    carrier: Carrier,
}

enum Carrier {
    Spdy(spdy::Connection),
    WebSocket(websocket::Channels),
}

impl Input {
    /// The next bytes; `None` is the end. An error says that the client, or the connection, broke it off.
    pub async fn read(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Spdy(half) => half.read().await,
            Self::Channel(input) => input.read().await,
        }
    }

    /// The next bytes, if there are some already.
    pub(super) fn read_now(&mut self) -> Option<Bytes> {
        match self {
            Self::Spdy(half) => half.read_now(),
            Self::Channel(input) => input.read_now(),
        }
    }
}

impl Output {
    /// Sends bytes, when the client takes them.
    pub async fn write(&mut self, data: Bytes) -> io::Result<()> {
        match self {
            Self::Spdy(half) => half.write(data).await,
            Self::Channel(output) if !data.is_empty() => output.write(data).await,
            Self::Channel(_) => Ok(()),
        }
    }

    /// Nothing follows.
    pub async fn finish(self) -> io::Result<()> {
        match self {
            Self::Spdy(half) => half.finish().await,
            // The clients wait for the end of the connection.
            Self::Channel(_) => Ok(()),
        }
    }
}

impl Sizes {
    fn new(from: Input) -> Self {
        Self { from, text: BytesMut::new() }
    }

    /// The next size; `None` when none follows, or what comes is not one.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            let mut sizes = serde_json::Deserializer::from_slice(&self.text).into_iter();
            match sizes.next() {
                Some(Ok(size)) => {
                    let taken = sizes.byte_offset();
                    let _ = self.text.split_to(taken);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => return None,
                Some(Err(_)) | None => {}
            }
            let piece = self.from.read().await.ok()??;
            if self.text.len() + piece.len() > SIZE_MAX {
                return None;
            }
            self.text.extend_from_slice(&piece);
        }
    }
}

impl Session {
    /// Waits for the client to open its streams; `None` when it does not.
    pub(super) async fn over_spdy(
        mut connection: spdy::Connection,
        wants: Wants,
        protocol: &str,
    ) -> Option<Self> {
        let sizes = wants.tty && !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
        let open = async {
            let (mut slots, mut unused) = (Slots::default(), Vec::new());
            while !slots.complete(wants, sizes) {
                let opening = connection.next().await?;
                let kind = opening.headers().get("streamtype").map(Kind::of);
                match kind.unwrap_or(None).filter(|kind| slots.slot(*kind).is_none()) {
                    Some(kind) => *slots.slot(kind) = Some(opening.accept().await.ok()?),
                    None => opening.refuse().await.ok()?,
                }
            }
            let mut input = |stream: spdy::Stream| {
                unused.push(stream.write);
                Input::Spdy(stream.read)
            };
            let stdin = slots.stdin.map(&mut input);
            let sizes = slots.resize.map(&mut input).map(Sizes::new);
            let output = |stream: spdy::Stream| Output::Spdy(stream.write);
            let (stdout, stderr, status) =
                (slots.stdout.map(output), slots.stderr.map(output), output(slots.error?));
            Some((stdin, stdout, stderr, sizes, status, unused))
        };
        let opened = timeout(OPENING, open).await.ok().flatten();
        let Some((stdin, stdout, stderr, sizes, status, unused)) = opened else {
            tracing::warn!("a client of exec or attach did not open its streams in time");
            return None;
        };
        let json = matches!(protocol, "v4.channel.k8s.io" | "v5.channel.k8s.io");
        let end = Ending { status, json, unused, carrier: Carrier::Spdy(connection) };
        Some(Self { stdin, stdout, stderr, sizes, end })
    }

    /// The streams of a WebSocket have their numbers, and are there at once.
    pub(super) async fn over_channels(
        channels: websocket::Channels,
        wants: Wants,
        json: bool,
    ) -> Option<Self> {
        let output = |number, wanted: bool| wanted.then(|| channels.output(number));
        let (mut stdout, mut stderr, mut status) =
            (output(1, wants.stdout), output(2, wants.stderr), channels.output(3));
        // By an empty message the client knows that the session is there.
        let first = stdout.as_mut().or(stderr.as_mut()).unwrap_or(&mut status);
        first.write(Bytes::new()).await.ok()?;
        Some(Self {
            stdin: wants.stdin.then(|| Input::Channel(channels.input(0))),
            stdout: stdout.map(Output::Channel),
            stderr: stderr.map(Output::Channel),
            sizes: wants.tty.then(|| Sizes::new(Input::Channel(channels.input(4)))),
            end: Ending {
                status: Output::Channel(status),
                json,
                unused: Vec::new(),
                carrier: Carrier::WebSocket(channels),
            },
        })
    }

    /// Takes the streams and the end of the session apart.
    pub fn split(self) -> (Streams, Ending) {
        let Self { stdin, stdout, stderr, sizes, end } = self;
        (Streams { stdin, stdout, stderr, sizes }, end)
    }
}

/// The streams of a session, to be connected to a process.
#[allow(missing_docs)]
pub struct Streams {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub sizes: Option<Sizes>,
}

impl Ending {
    /// Waits until the client has left.
    pub async fn left(&mut self) {
        match &mut self.carrier {
            // Streams that it opens now have no meaning.
            Carrier::Spdy(connection) => while connection.next().await.is_some() {},
            Carrier::WebSocket(channels) => channels.closed().await,
        }
    }

    /// Tells the client how it ended, and ends the connection. What was written before arrives before it.
    pub async fn tell(mut self, outcome: &Outcome) {
        let text = if self.json { outcome.to_json() } else { outcome.to_text() };
        let told = self.status.write(text.into()).await;
        if told.is_ok() {
            let _ = self.status.finish().await;
        }
        for half in self.unused {
            let _ = half.finish().await;
        }
        match self.carrier {
            Carrier::Spdy(connection) => connection.close().await,
            Carrier::WebSocket(channels) => channels.close().await,
        }
    }
}

/// The streams that a client has opened.
#[derive(Default)]
struct Slots {
    error: Option<spdy::Stream>,
    stdin: Option<spdy::Stream>,
    stdout: Option<spdy::Stream>,
    stderr: Option<spdy::Stream>,
    resize: Option<spdy::Stream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Stdin,
    Stdout,
    Stderr,
    Resize,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        match name {
            "error" => Some(Self::Error),
            "stdin" => Some(Self::Stdin),
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            "resize" => Some(Self::Resize),
            _ => None,
        }
    }
}

impl Slots {
    fn slot(&mut self, kind: Kind) -> &mut Option<spdy::Stream> {
        match kind {
            Kind::Error => &mut self.error,
            Kind::Stdin => &mut self.stdin,
            Kind::Stdout => &mut self.stdout,
            Kind::Stderr => &mut self.stderr,
            Kind::Resize => &mut self.resize,
        }
    }

    fn complete(&self, wants: Wants, sizes: bool) -> bool {
        self.error.is_some()
            && (!wants.stdin || self.stdin.is_some())
            && (!wants.stdout || self.stdout.is_some())
            && (!wants.stderr || self.stderr.is_some())
            && (!sizes || self.resize.is_some())
    }
}
