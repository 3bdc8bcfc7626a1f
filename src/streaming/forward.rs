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
/// How many halves may wait at a time. Their streams may have been reset meanwhile, and so count nowhere else.
const HALVES_MAX: usize = 1000;
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
    let room = halves.len() < HALVES_MAX;
    let room = |label: &Label| room || halves.contains_key(&label.pair);
    let Some(label) = label.filter(|label| !twice(label) && room(label)) else {
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

/// Carries bytes both ways, each until its own end, and tells what went wrong. A client reads the error stream to its end when
/// it has had all from the pod, and only then lets go of what it still sends: so that stream ends with the pod's bytes, and the
/// client's have their way until their own end.
async fn forward(connected: Result<TcpStream, String>, mut from: Input, mut to: Output, mut error: Output) {
    let mut socket = match connected {
        Ok(socket) => socket,
        Err(why) => {
            let _ = error.write(why.into()).await;
            let _ = error.finish().await;
            return;
        }
    };
    // Channels have no end of their own but that of the connection, which tells the client that the pod has said all.
    let ends_apart = matches!(from, Input::Spdy(_));
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
    let (mut upwards, mut downwards) = (std::pin::pin!(upwards), std::pin::pin!(downwards));
    let (ended, goes_on) = tokio::select! {
        down = &mut downwards => {
            let goes_on = ends_apart && down.is_ok();
            (down, goes_on)
        }
        up = &mut upwards => match up {
            Ok(()) => (downwards.await, false),
            Err(why) => (Err(why), false),
        },
    };
    if let Err(why) = ended {
        let _ = error.write(why.to_string().into()).await;
    }
    let _ = error.finish().await;
    if goes_on {
        // The pod may have ended its own direction alone.
        let _ = upwards.await;
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::spdy::tests::Client;
    use super::super::websocket::{Direction, Encoding};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A client of a port-forward to the loopback.
    fn serve() -> Client {
        let (client, connection) = Client::new(HOUR);
        let dial = |port| async move {
            TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())
        };
        tokio::spawn(over_spdy(connection, dial));
        client
    }

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn a_pod_that_has_said_all_still_hears_the_client() {
        let (listener, port) = listen().await;
        let pod = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(b"all").await.unwrap();
            socket.shutdown().await.unwrap();
            let mut heard = Vec::new();
            socket.read_to_end(&mut heard).await.unwrap();
            heard
        });
        let mut client = serve();
        client.open_half(1, "error", port, "0").await;
        client.open_half(3, "data", port, "0").await;
        assert_eq!(client.hear_all_of(3).await, b"all");
        // The client learns that there is no error, as long as it likes to send.
        assert_eq!(client.hear_all_of(1).await, b"");
        client.data(3, false, b"more ").await;
        client.data(3, true, b"and more").await;
        assert_eq!(pod.await.unwrap(), b"more and more");
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_hears_the_answer() {
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            socket.read_to_end(&mut heard).await.unwrap();
            socket.write_all(&heard).await.unwrap();
        });
        let mut client = serve();
        client.open_half(1, "data", port, "0").await;
        client.open_half(3, "error", port, "0").await;
        client.data(1, true, b"question").await;
        assert_eq!(client.hear_all_of(1).await, b"question");
        assert_eq!(client.hear_all_of(3).await, b"");
    }

    #[tokio::test]
    async fn a_closed_port_is_told_on_its_error_stream_and_other_connections_go_on() {
        let (listener, port) = listen().await;
        let (gone, closed) = listen().await;
        drop(gone);
        let mut client = serve();
        client.open_half(1, "error", port, "0").await;
        client.open_half(3, "data", port, "0").await;
        let (mut pod, _) = listener.accept().await.unwrap();
        client.open_half(5, "error", closed, "1").await;
        client.open_half(7, "data", closed, "1").await;
        let text = String::from_utf8(client.hear_all_of(5).await).unwrap();
        assert!(text.contains("refused"), "{text}");
        client.data(3, false, b"on").await;
        assert_eq!(pod.read_u16().await.unwrap(), u16::from_be_bytes(*b"on"));
        drop(pod);
        assert_eq!(client.hear_all_of(3).await, b"");
    }

    #[tokio::test]
    async fn over_channels_the_connection_ends_when_the_pod_has_said_all() {
        let (listener, port) = listen().await;
        let pod = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut heard = [0; 2];
            socket.read_exact(&mut heard).await.unwrap();
            socket.write_all(b"all").await.unwrap();
            heard
        });
        let (client, server) = tokio::io::duplex(64 << 10);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let directions = [Direction::Both, Direction::Out];
        let channels = Channels::new(server, &directions, Encoding::Binary, false, HOUR).await;
        let dial = |port| async move {
            TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())
        };
        let serving = tokio::spawn(async move { over_channels(channels, &[port], dial).await });
        client.send(Message::Binary(Bytes::from_static(b"\0on"))).await.unwrap();
        let (mut said, mut announced) = (Vec::new(), 0);
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Binary(data) if data[1..] == port.to_le_bytes() => {
                    announced += 1;
                }
                Message::Binary(data) => said.push(data),
                _ => {}
            }
        }
        assert_eq!((announced, said), (2, vec![Bytes::from_static(b"\0all")]));
        assert_eq!(&pod.await.unwrap(), b"on");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn halves_without_their_other_halves_are_bounded_and_a_second_of_a_kind_is_refused() {
        let mut client = serve();
        client.open_half(1, "data", 1, "twice").await;
        assert!(client.is_accepted(1).await);
        client.open_half(3, "data", 1, "twice").await;
        assert!(!client.is_accepted(3).await);
        // Each is given up at once, so that the number of streams is no bound.
        for n in 1..HALVES_MAX {
            let id = 3 + 2 * u32::try_from(n).unwrap();
            client.open_half(id, "data", 1, &n.to_string()).await;
            assert!(client.is_accepted(id).await, "{n}");
            client.reset(id).await;
        }
        client.open_half(100_001, "data", 1, "one too many").await;
        assert!(!client.is_accepted(100_001).await);
        client.open_half(100_003, "error", 1, "twice").await;
        assert!(client.is_accepted(100_003).await);
    }
}
