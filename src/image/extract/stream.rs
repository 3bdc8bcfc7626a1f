//! The tar bytes on their way from the decoding thread to the thread that writes files.
//!
//! Chunks are shared, not copied: the same ones go to the thread that computes the diffID. The channels are bounded, so
//! that a slow disk holds up the network and a layer never collects in memory.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::error::ExtractError;
use crate::image::digest::Digest;

/// The size of a chunk: large enough that handing it over costs nothing, small enough to stay in the cache.
pub(super) const CHUNK_SIZE: usize = 256 * 1024;

/// How many chunks wait at most: half a megabyte for each layer and consumer.
const CHUNKS_AHEAD: usize = 4;

/// The memory of chunks that no one reads any more, to be used again: fresh memory costs more than what is done to it.
#[derive(Clone, Default)]
pub(super) struct Pool {
    // Held to push or pop.
    spare: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// A chunk to be filled, and then shared.
pub(super) struct Chunk {
    memory: Box<[u8]>,
    filled: usize,
    pool: Pool,
}

impl Pool {
    /// An empty chunk.
    pub(super) fn take(&self) -> Chunk {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = spare.unwrap_or_else(|| vec![0; CHUNK_SIZE].into_boxed_slice());
        Chunk { memory, filled: 0, pool: self.clone() }
    }
}

impl Chunk {
    /// Reads until it is full or the stream ends.
    pub(super) fn fill(&mut self, from: &mut impl Read) -> io::Result<()> {
        while self.filled < self.memory.len() {
            match from.read(&mut self.memory[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What was read, to be shared; `None` when it is nothing.
    pub(super) fn into_bytes(self) -> Option<Bytes> {
        (self.filled > 0).then(|| Bytes::from_owner(self))
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

/// A channel for chunks.
pub(super) fn channel() -> (SyncSender<Bytes>, Receiver<Bytes>) {
    sync_channel(CHUNKS_AHEAD)
}

/// The digest of all that comes.
pub(super) fn hash(chunks: &Receiver<Bytes>) -> Digest {
    let mut hash = Sha256::new();
    while let Ok(chunk) = chunks.recv() {
        hash.update(&chunk);
    }
    Digest::from_sha256(hash.finalize().into())
}

/// The receiving end, as a stream that can be looked at before it is taken.
pub(super) struct Stream {
    chunks: Receiver<Bytes>,
    waiting: VecDeque<Bytes>,
}

impl Stream {
    pub(super) fn new(chunks: Receiver<Bytes>) -> Self {
        Self { chunks, waiting: VecDeque::new() }
    }

    /// The next bytes, contiguous: `min` of them, or fewer at the end of the stream.
    pub(super) fn peek(&mut self, min: usize) -> &[u8] {
        if self.waiting.front().is_none_or(|front| front.len() < min) {
            self.join(min);
        }
        self.waiting.front().map_or(&[], |front| front)
    }

    /// Drops `count` bytes that were peeked at.
    pub(super) fn consume(&mut self, count: usize) {
        if let Some(front) = self.waiting.front_mut() {
            let _ = front.split_to(count.min(front.len()));
        }
    }

    /// The next chunk of at most `max` bytes; empty at the end of the stream.
    pub(super) fn next(&mut self, max: u64) -> Bytes {
        let len = self.peek(1).len();
        match self.waiting.front_mut() {
            Some(front) => front.split_to(len.min(usize::try_from(max).unwrap_or(usize::MAX))),
            None => Bytes::new(),
        }
    }

    /// Passes over `count` bytes.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), ExtractError> {
        while count > 0 {
            let chunk = self.next(count);
            if chunk.is_empty() {
                return Err(ExtractError::Truncated("its tar archive"));
            }
            count -= chunk.len() as u64;
        }
        Ok(())
    }

    /// Reads to the end, for the sake of those who hash.
    pub(super) fn drain(self) {
        while self.chunks.recv().is_ok() {}
    }

    /// Makes the front chunk `min` bytes long, copying no more than those.
    fn join(&mut self, min: usize) {
        let mut joined = Vec::with_capacity(min);
        while joined.len() < min {
            let next = self.waiting.pop_front().or_else(|| self.chunks.recv().ok());
            let Some(mut next) = next else { break };
            if joined.is_empty() && next.len() >= min {
                self.waiting.push_front(next);
                return;
            }
            joined.extend_from_slice(&next.split_to(next.len().min(min - joined.len())));
            if !next.is_empty() {
                self.waiting.push_front(next);
            }
        }
        if !joined.is_empty() {
            self.waiting.push_front(Bytes::from(joined));
        }
    }
}
