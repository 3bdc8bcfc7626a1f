//! A way in for the fuzz targets (`fuzz/`), compiled for nothing else.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::forward;
use super::spdy::{Connection, parse_all, script};
use super::websocket::{Channels, Direction, Encoding};

/// How many frames a parser finds that is fed pieces of that size; the same for each size, or the parser is wrong.
pub fn spdy_frames(bytes: &[u8], piece: usize) -> usize {
    parse_all(bytes, piece.max(1))
}

/// Has the server's end of a SPDY connection hear these bytes, accepting and reading whatever is opened.
pub fn spdy_connection(bytes: &[u8]) {
    runtime().block_on(async {
        let (mut client, server) = duplex(64 << 10);
        let mut connection = Connection::new(server, Duration::from_secs(5));
        let heard = async move {
            while let Some(opening) = connection.next().await {
                let Ok(mut stream) = opening.accept().await else { break };
                tokio::spawn(async move {
                    while let Ok(Some(bytes)) = stream.read.read().await {
                        if stream.write.write(bytes).await.is_err() {
                            return;
                        }
                    }
                    let _ = stream.write.finish().await;
                });
            }
        };
        let said = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        };
        tokio::join!(heard, said);
    });
}

/// Has a port-forward without a pod behind it serve a client that does what the bytes say.
pub fn port_forward(bytes: &[u8]) {
    let said = script(bytes);
    runtime().block_on(async {
        let (client, server) = duplex(64 << 10);
        let connection = Connection::new(server, Duration::from_secs(5));
        let serving = forward::over_spdy(connection, |port| async move { Err(format!("no port {port}")) });
        let (mut from, mut to) = tokio::io::split(client);
        let saying = async {
            let _ = to.write_all(&said).await;
            let _ = to.shutdown().await;
        };
        let hearing = async { tokio::io::copy(&mut from, &mut tokio::io::sink()).await };
        let all = async { tokio::join!(serving, saying, hearing) };
        let _ = tokio::time::timeout(Duration::from_secs(8), all).await.expect("a port-forward does not end");
    });
}

/// Has the server's end of a WebSocket with channels hear these bytes.
pub fn websocket_channels(bytes: &[u8]) {
    runtime().block_on(async {
        let (mut client, server) = duplex(64 << 10);
        let encoding = if bytes.first().is_some_and(|first| first % 2 == 0) {
            Encoding::Binary
        } else {
            Encoding::Base64
        };
        let directions = [Direction::In, Direction::Out, Direction::Both];
        let mut channels = Channels::new(server, &directions, encoding, true, Duration::from_secs(5)).await;
        let (mut stdin, mut both) = (channels.input(0), channels.input(2));
        let heard = async move {
            let read = async { while let Ok(Some(_)) = stdin.read().await {} };
            let read_too = async { while let Ok(Some(_)) = both.read().await {} };
            tokio::join!(read, read_too, channels.closed());
        };
        let said = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        };
        tokio::join!(heard, said);
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a fuzz target needs a runtime")
}
