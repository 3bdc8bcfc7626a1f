//! A tunnel: the bytes of another protocol, SPDY, in binary messages of any size.

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::Message;

/// How much is on its way at most in each direction, and in one message, in bytes.
const BUFFER: usize = 128 << 10;

/// The inner end of a tunnel through the connection. Both ends end together.
pub async fn tunnel<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: T) -> DuplexStream {
    let (inner, outer) = duplex(BUFFER);
    let (mut sink, mut stream) = super::server(io).await.split();
    let (mut from, mut to) = tokio::io::split(outer);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER);
            match from.read_buf(&mut buffer).await {
                Ok(1..) if sink.send(Message::Binary(buffer.split().freeze())).await.is_ok() => {}
                _ => break,
            }
        }
        let _ = sink.close().await;
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(data) if to.write_all(&data).await.is_ok() => {}
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) | Message::Text(_) | Message::Close(_) | Message::Frame(_) => break,
            }
        }
        let _ = to.shutdown().await;
    });
    inner
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn bytes_go_through_both_ways_and_either_end_ends_it() {
        let (client, server) = duplex(1 << 20);
        let mut inner = tunnel(server).await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.send(Message::Binary(vec![7; 300_000].into())).await.unwrap();
        let mut got = vec![0; 300_000];
        inner.read_exact(&mut got).await.unwrap();
        assert!(got.iter().all(|byte| *byte == 7));
        inner.write_all(b"back").await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap().into_data(), "back");
        client.close(None).await.unwrap();
        assert_eq!(inner.read(&mut got).await.unwrap(), 0);
        drop(inner);
        while client.next().await.is_some_and(|message| message.is_ok()) {}
    }
}
