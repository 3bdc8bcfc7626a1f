//! Port-forward: each pair of streams, one for bytes and one for an error, is a connection to a port in the pod.
//!
//! Over SPDY, in a tunnel or not, the client opens pairs as it likes, and names the port in each stream's headers. Over the
//! channels of a WebSocket the pairs are those of the ports in the request, and each channel begins with its port's number.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::session::{Input, Output};
use super::spdy::{Connection, Headers, Opening, Stream};
use super::websocket::Channels;

/// How long a client may take for the second stream of a pair.
const PAIRING: Duration = Duration::from_secs(30);
/// How much is read from the pod at once, in bytes.
const READ_SIZE: usize = 64 << 10;

/// What a stream is of, and for which port.
struct Label {
    port: u16,
    is_data: bool,
    pair: String,
}

/// One half of a pair, which waits for the other.
struct Half {
    stream: Stream,
    is_data: bool,
    until: Instant,
}

/// The two streams of one forwarded connection.
struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// Serves pairs of streams until the client ends the connection. `dial` connects to a port in the pod; its error is a text
/// for the client.
pub(super) async fn over_spdy<D, F>(mut connection: Connection, dial: D)
where
    D: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = Result<TcpStream, String>> + Send,
{
    let dial = Arc::new(dial);
    let (mut halves, mut forwards) = (HashMap::<String, Half>::new(), JoinSet::new());
    loop {
        let soonest = halves.values().map(|half| half.until).min();
        let opening = tokio::select! {
            opening = connection.next() => opening,
            Some(_) = forwards.join_next() => continue,
            () = sleep_until(soonest.unwrap_or_else(Instant::now)), if soonest.is_some() => {
                let now = Instant::now();
                halves.retain(|_, half| half.until > now);
                continue;
            }
        };
        let Some(opening) = opening else { break };
        let Ok(pair) = pair_up(opening, &mut halves).await else { break };
        if let Some(Pair { port, data, error }) = pair {
            let dial = Arc::clone(&dial);
            forwards.spawn(async move {
                let connected = dial(port).await;
                let (input, output) = (Input::Spdy(data.read), Output::Spdy(data.write));
                forward(connected, input, output, Output::Spdy(error.write)).await;
            });
        }
    }
    forwards.shutdown().await;
    connection.close().await;
}

/// Accepts a stream that can be of use, and gives it with its other half when that is there. An error says that the connection
/// has ended.
async fn pair_up(opening: Opening, halves: &mut HashMap<String, Half>) -> io::Result<Option<Pair>> {
    let label = label(opening.headers(), &opening);
    let twice = |label: &Label| halves.get(&label.pair).is_some_and(|half| half.is_data == label.is_data);
    let Some(label) = label.filter(|label| !twice(label)) else {
        return opening.refuse().await.map(|()| None);
    };
    let stream = opening.accept().await?;
    let Some(half) = halves.remove(&label.pair) else {
        let until = Instant::now() + PAIRING;
        halves.insert(label.pair, Half { stream, is_data: label.is_data, until });
        return Ok(None);
    };
    let (data, error) = if label.is_data { (stream, half.stream) } else { (half.stream, stream) };
    Ok(Some(Pair { port: label.port, data, error }))
}

/// Serves the pairs of channels of those ports until all of them, or the client, have ended.
pub(super) async fn over_channels<D, F>(mut channels: Channels, ports: &[u16], dial: D)
where
    D: Fn(u16) -> F,
    F: Future<Output = Result<TcpStream, String>> + Send + 'static,
{
    let mut forwards = JoinSet::new();
    for (index, port) in ports.iter().enumerate() {
        let Ok(number) = u8::try_from(2 * index) else { break };
        let (mut data, mut error) = (channels.output(number), channels.output(number + 1));
        let (input, connecting) = (Input::Channel(channels.input(number)), dial(*port));
        let port = Bytes::copy_from_slice(&port.to_le_bytes());
        forwards.spawn(async move {
            let announced = data.write(port.clone()).await.is_ok() && error.write(port).await.is_ok();
            if announced {
                forward(connecting.await, input, Output::Channel(data), Output::Channel(error)).await;
            }
        });
    }
    tokio::select! {
        () = channels.closed() => forwards.shutdown().await,
        () = async { while forwards.join_next().await.is_some() {} } => {}
    }
    channels.close().await;
}

/// Carries bytes both ways, each until its own end, and tells what went wrong.
async fn forward(connected: Result<TcpStream, String>, mut from: Input, mut to: Output, mut error: Output) {
    let trouble = match connected {
        Ok(mut socket) => {
            let (mut reader, mut writer) = socket.split();
            let upwards = async {
                while let Some(bytes) = from.read().await? {
                    writer.write_all(&bytes).await?;
                }
                writer.shutdown().await
            };
            let downwards = async {
                let mut buffer = BytesMut::new();
                loop {
                    buffer.reserve(READ_SIZE);
                    if reader.read_buf(&mut buffer).await? == 0 {
                        return to.finish().await;
                    }
                    to.write(buffer.split().freeze()).await?;
                }
            };
            both(upwards, downwards).await.err().map(|error| error.to_string())
        }
        Err(why) => Some(why),
    };
    if let Some(text) = trouble {
        let _ = error.write(text.into()).await;
    }
    let _ = error.finish().await;
}

/// The end of both directions. When the pod's side has ended, nothing that the client still sends has a reader; when
/// either fails the other is over, too.
async fn both(
    upwards: impl Future<Output = io::Result<()>>,
    downwards: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let (mut upwards, mut downwards) = (std::pin::pin!(upwards), std::pin::pin!(downwards));
    tokio::select! {
        down = &mut downwards => down,
        up = &mut upwards => {
            // What the pod has to say to the end of the client's bytes.
            up?;
            downwards.await
        }
    }
}

fn label(headers: &Headers, opening: &Opening) -> Option<Label> {
    let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let is_data = match headers.get("streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    // Clients of long ago name no pair: there the error stream comes first, and the data stream right after it.
    let first = if is_data { opening.id().wrapping_sub(2) } else { opening.id() };
    let pair = headers.get("requestid").map_or_else(|| format!("#{first}"), str::to_owned);
    Some(Label { port, is_data, pair })
}
