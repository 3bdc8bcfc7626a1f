//! The bridge from the async side: a blob that arrives in pieces, read as a stream.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::Receiver;

/// Reads the pieces of a channel. A sender that goes away is the end of the blob; whether that came too soon, the
/// announced length tells. Must be read on a thread of its own, as [`super::extract_layer`] does, never in a task.
pub struct ChannelReader {
    pieces: Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChannelReader {
    /// The reader of a channel, whose bound limits how much is in memory.
    pub fn new(pieces: Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let len = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}
