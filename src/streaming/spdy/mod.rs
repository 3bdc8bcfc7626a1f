//! SPDY/3.1, the server's side, as kubectl, the kubelet, crictl and the Go client use it below exec, attach and port-forward.
//!
//! ```text
//!  connection ── bytes ──► Parser ── frames ──► reader task ──► Inbox of each stream ──► Stream::read
//!             ◄── bytes ── writer task ◄── bounded channel ◄── Stream::write
//!
//!  frame.rs    bytes to frames and back, nothing else      stream.rs      one stream: its inbox, its windows, its ends
//!  headers.rs  header blocks and their compression         connection.rs  the two tasks; streams that open; the end
//! ```
//!
//! Invariants: what a peer may make us hold is bounded, for each stream and in the number of streams. A slow reader of a
//! stream holds up its connection, never our memory. The Go clients neither send nor obey WINDOW_UPDATE: we send it, and
//! obey the windows of those peers alone that have shown to keep them.

mod connection;
mod frame;
mod headers;
mod stream;
#[cfg(test)]
pub(super) mod tests;

pub use connection::{Connection, Opening};
pub use frame::{Reset, StreamId};
pub use headers::Headers;
pub use stream::{ReadHalf, Stream, WriteHalf};

/// How many frames there are in bytes that come in pieces of a size; the pieces of one data frame count as one.
#[cfg(podd_fuzzing)]
pub(super) fn parse_all(bytes: &[u8], piece: usize) -> usize {
    let (mut parser, mut input, mut found, mut open) =
        (frame::Parser::new(), bytes::BytesMut::new(), 0, None);
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        while let Ok(Some(frame)) = parser.next(&mut input) {
            match frame {
                frame::Frame::Data { id, fin, .. } => {
                    found += usize::from(open != Some(id));
                    open = Some(id).filter(|_| !fin);
                }
                _ => (found, open) = (found + 1, None),
            }
        }
    }
    found
}

/// What a client says that does for each four bytes one of the things that a client of port-forward can do, or should not:
/// pack a little or much into a header block, name a stream twice, widen a window without end.
#[cfg(podd_fuzzing)]
pub(super) fn script(bytes: &[u8]) -> Vec<u8> {
    use frame::Frame;
    let (mut writer, mut out) = (frame::Writer::new(), bytes::BytesMut::new());
    for step in bytes.chunks_exact(4) {
        let [what, id, a, b] = [step[0], step[1], step[2], step[3]];
        let id = StreamId::from(id);
        let kind = if a % 2 == 0 { "data" } else { "error" };
        let headers = Headers::default().with("streamType", kind).with("port", &(b % 3).to_string());
        let frame = match what % 8 {
            0 => Frame::SynStream {
                id,
                fin: a > 250,
                headers: headers.with("requestID", &(b % 8).to_string()),
            },
            1 => Frame::SynStream { id, fin: false, headers },
            2 => Frame::SynStream {
                id,
                fin: false,
                headers: headers.with("x", &"0".repeat(usize::from(a) << 9)),
            },
            3 => Frame::Data { id, fin: a > 200, data: vec![b; usize::from(b) << 6].into() },
            4 => Frame::RstStream { id, status: Reset::Other(u32::from(a)) },
            5 => Frame::WindowUpdate { id, delta: u32::from(a) << 23 },
            6 => Frame::Settings { initial_window: Some(u32::from(a) << 23 | u32::from(b)) },
            _ => Frame::Ping { id },
        };
        writer.control(&frame, &mut out);
    }
    out.to_vec()
}

/// A connection that cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// The peer broke the protocol.
    #[error("the peer does not keep to SPDY/3.1: {0}")]
    Protocol(&'static str),
    /// A header block that cannot be read.
    #[error("a SPDY header block cannot be read: {0}")]
    Headers(&'static str),
}
