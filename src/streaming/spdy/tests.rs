//! Two ends of a connection in one process: the server's, and a client made of bare frames.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::frame::{Frame, Parser, Reset, Writer};
use super::{Connection, Headers};

const HOUR: Duration = Duration::from_secs(3600);

pub(in crate::streaming) struct Client {
    io: DuplexStream,
    parser: Parser,
    writer: Writer,
    input: BytesMut,
}

impl Client {
    pub(in crate::streaming) fn new(idle: Duration) -> (Self, Connection) {
        let (io, server) = duplex(1 << 20);
        let client = Self { io, parser: Parser::new(), writer: Writer::new(), input: BytesMut::new() };
        (client, Connection::new(server, idle))
    }

    async fn say(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        self.writer.control(&frame, &mut out);
        self.io.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, id: u32) {
        self.say(Frame::SynStream { id, fin: false, headers: Headers::default().with("streamType", "data") })
            .await;
    }

    /// Opens a stream of a port-forward.
    pub(in crate::streaming) async fn open_half(&mut self, id: u32, kind: &str, port: u16, pair: &str) {
        let headers = Headers::default().with("streamType", kind).with("port", &port.to_string());
        self.say(Frame::SynStream { id, fin: false, headers: headers.with("requestID", pair) }).await;
    }

    /// What comes on a stream up to its end; what comes on others is passed over.
    pub(in crate::streaming) async fn hear_all_of(&mut self, of: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.hear().await.expect("the connection ended before the stream") {
                Frame::Data { id, fin, data } if id == of => {
                    all.extend_from_slice(&data);
                    if fin {
                        return all;
                    }
                }
                Frame::RstStream { id, status } if id == of => panic!("reset: {status:?}"),
                _ => {}
            }
        }
    }

    /// Whether a stream is accepted.
    pub(in crate::streaming) async fn is_accepted(&mut self, of: u32) -> bool {
        loop {
            match self.hear().await.expect("the connection ended before an answer") {
                Frame::SynReply { id, .. } if id == of => return true,
                Frame::RstStream { id, .. } if id == of => return false,
                _ => {}
            }
        }
    }

    pub(in crate::streaming) async fn reset(&mut self, id: u32) {
        self.say(Frame::RstStream { id, status: Reset::Cancel }).await;
    }

    pub(in crate::streaming) async fn data(&mut self, id: u32, fin: bool, data: &[u8]) {
        self.say(Frame::Data { id, fin, data: Bytes::copy_from_slice(data) }).await;
    }

    /// The next frame; `None` is the end of the connection.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parser.next(&mut self.input).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_goes_both_ways_and_each_end_is_one_of_its_own() {
    let (mut client, mut server) = Client::new(HOUR);
    client.open(1).await;
    client.data(1, false, b"ping").await;
    client.data(1, true, b"").await;
    let opening = server.next().await.unwrap();
    assert_eq!(opening.headers().get("streamtype"), Some("data"));
    let mut stream = opening.accept().await.unwrap();
    assert_eq!(stream.read.read().await.unwrap().unwrap(), "ping");
    assert_eq!(stream.read.read().await.unwrap(), None);
    stream.write.write(Bytes::from_static(b"pong")).await.unwrap();
    stream.write.finish().await.unwrap();
    assert!(matches!(client.hear().await, Some(Frame::SynReply { id: 1, .. })));
    assert_eq!(
        client.hear().await,
        Some(Frame::Data { id: 1, fin: false, data: Bytes::from_static(b"pong") })
    );
    assert_eq!(client.hear().await, Some(Frame::Data { id: 1, fin: true, data: Bytes::new() }));
    let closing = tokio::spawn(server.close());
    assert!(matches!(client.hear().await, Some(Frame::GoAway { .. })));
    assert_eq!(client.hear().await, None);
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_client_without_windows_is_sent_all_and_one_with_windows_no_more_than_they_hold() {
    for windows in [false, true] {
        let (mut client, mut server) = Client::new(HOUR);
        if windows {
            client.say(Frame::Settings { initial_window: Some(1000) }).await;
        }
        client.open(1).await;
        let mut stream = server.next().await.unwrap().accept().await.unwrap();
        client.hear().await.unwrap();
        let sending = tokio::spawn(async move {
            stream.write.write(vec![7; 100_000].into()).await.unwrap();
            stream
        });
        let mut got = 0;
        while got < 100_000 {
            let Some(Frame::Data { data, .. }) = client.hear().await else {
                unreachable!("only data is sent")
            };
            got += data.len();
            if windows {
                assert!(data.len() <= 1000, "{}", data.len());
                client.say(Frame::WindowUpdate { id: 1, delta: 1000 }).await;
                client.say(Frame::WindowUpdate { id: 0, delta: 1000 }).await;
            }
        }
        assert_eq!(got, 100_000);
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_reader_holds_up_the_connection_and_loses_nothing() {
    let (mut client, mut server) = Client::new(HOUR);
    client.open(1).await;
    let mut stream = server.next().await.unwrap().accept().await.unwrap();
    let sending = tokio::spawn(async move {
        for n in 0..400u32 {
            client.data(1, n == 399, &vec![n.to_le_bytes()[0]; 16 << 10]).await;
        }
        client
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!sending.is_finished(), "all of 6 MiB was taken though nobody reads");
    let mut total = 0;
    while let Some(piece) = stream.read.read().await.unwrap() {
        total += piece.len();
    }
    assert_eq!(total, 400 * (16 << 10));
    sending.await.unwrap();
}

#[tokio::test]
async fn resets_reach_the_other_side_and_the_other_streams_go_on() {
    let (mut client, mut server) = Client::new(HOUR);
    for id in [1, 3, 5] {
        client.open(id).await;
    }
    let mut first = server.next().await.unwrap().accept().await.unwrap();
    let second = server.next().await.unwrap().accept().await.unwrap();
    server.next().await.unwrap().refuse().await.unwrap();
    client.say(Frame::RstStream { id: 1, status: Reset::Cancel }).await;
    assert!(first.read.read().await.is_err());
    assert!(first.write.write(Bytes::from_static(b"x")).await.is_err());
    drop(second);
    let mut resets = Vec::new();
    while resets.len() < 2 {
        if let Some(Frame::RstStream { id, status }) = client.hear().await {
            resets.push((id, status));
        }
    }
    resets.sort_by_key(|(id, _)| *id);
    assert_eq!(resets, [(3, Reset::Cancel), (5, Reset::RefusedStream)]);
    client.open(7).await;
    assert_eq!(server.next().await.unwrap().id(), 7);
}

#[tokio::test]
async fn pings_are_answered_numbers_must_rise_and_what_breaks_the_protocol_ends_the_connection() {
    let (mut client, mut server) = Client::new(HOUR);
    client.say(Frame::Ping { id: 9 }).await;
    assert_eq!(client.hear().await, Some(Frame::Ping { id: 9 }));
    client.open(2).await;
    assert_eq!(client.hear().await, Some(Frame::RstStream { id: 2, status: Reset::ProtocolError }));
    client.io.write_all(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).await.unwrap();
    assert!(server.next().await.is_none());
}

#[tokio::test]
async fn a_window_that_overflows_ends_its_stream_and_that_of_the_connection_all() {
    let (mut client, mut server) = Client::new(HOUR);
    client.open(1).await;
    let mut stream = server.next().await.unwrap().accept().await.unwrap();
    client.hear().await.unwrap();
    client.say(Frame::WindowUpdate { id: 1, delta: 0x7fff_ffff }).await;
    assert_eq!(client.hear().await, Some(Frame::RstStream { id: 1, status: Reset::FlowControl }));
    assert!(stream.write.write(Bytes::from_static(b"x")).await.is_err());
    client.say(Frame::WindowUpdate { id: 0, delta: 0x7fff_ffff }).await;
    assert!(server.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_and_a_busy_one_does_not() {
    let (mut client, mut server) = Client::new(Duration::from_secs(60));
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        client.say(Frame::Ping { id: 1 }).await;
        assert!(client.hear().await.is_some());
    }
    let began = tokio::time::Instant::now();
    assert!(server.next().await.is_none());
    assert!((55..70).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
