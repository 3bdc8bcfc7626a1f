//! WebSocket (RFC 6455), with the subprotocols of Kubernetes: channels for exec, attach and port-forward, and a tunnel in
//! which SPDY is spoken for port-forward.

mod channels;
mod tunnel;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub use channels::{Channels, Direction, Input, Output};
pub use tunnel::tunnel;

/// The largest message that is read, in bytes; the clients send 32 KiB.
const MESSAGE_MAX: usize = 1 << 20;

/// How a channel's content is written into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A byte with the channel's number, then the content.
    Binary,
    /// The channel's number as a digit, then the content in base64.
    Base64,
}

/// The answer to `Sec-WebSocket-Key` (RFC 6455, 4.2.2).
pub fn accept_key(key: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest =
        ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    STANDARD.encode(digest)
}

/// The server's end of a connection that has been upgraded.
async fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .max_write_buffer_size(4 * MESSAGE_MAX);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_of_the_specification_has_its_answer() {
        assert_eq!(super::accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
