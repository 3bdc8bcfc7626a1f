//! Clients that put the socket's path into HTTP/2's `:authority`.
//!
//! What the authority of a unix socket is, no specification says. Many clients send `localhost`; gRPC's C core (so C++, Python,
//! Ruby) has sent the percent-encoded path since 1.57, Java and Swift send it too, plain or encoded. Neither form is a URI
//! authority, so h2 resets their streams with PROTOCOL_ERROR before any service sees them. Nothing here reads the authority,
//! so it need not be right, only well-formed: on its way in, each byte of it that may not stand there is replaced by one
//! that may.
//!
//! No byte is added or taken away, which is what makes this safe. Frames keep their lengths. The table of recent headers that
//! both sides keep (HPACK, RFC 7541) counts an entry by the lengths of its texts, so it stays in step, and a later request
//! that names the entry by its index needs no change. [`Authorities`] therefore follows the stream's outline alone: frames
//! (RFC 9113, section 4.1), and in HEADERS the fields (RFC 7541, section 6). It holds back nothing and decides nothing;
//! what it cannot follow it leaves as it is, for h2 to judge. A stream whose authorities are well-formed passes unchanged.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// What a client says before its first frame, in bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The bytes that PRIORITY adds.
const PRIORITY_LEN: usize = 5;

/// The field's name, as it is and in HPACK's Huffman code, and its place in HPACK's static table.
const NAME: &[u8] = b":authority";
const NAME_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
const NAME_INDEX: u8 = 1;

/// A client's connection, with what it sends made acceptable.
#[derive(Debug)]
pub(super) struct Tolerant {
    stream: UnixStream,
    authorities: Authorities,
}

impl Tolerant {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, authorities: Authorities::default() }
    }
}

impl Connected for Tolerant {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Tolerant {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.authorities.pass(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tolerant {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a client's stream the next byte belongs.
#[derive(Debug)]
struct Authorities {
    head: [u8; HEAD],
    head_len: usize,
    /// What is left of the payload, in this order; all zero between two frames.
    has_pad_length: bool,
    priority: usize,
    fields: usize,
    rest: usize,
    block: FieldBlock,
}

impl Default for Authorities {
    fn default() -> Self {
        Self {
            head: [0; HEAD],
            head_len: 0,
            has_pad_length: false,
            priority: 0,
            fields: 0,
            rest: PREFACE,
            block: FieldBlock::default(),
        }
    }
}

impl Authorities {
    /// Takes the next bytes of the stream, in pieces of any size.
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = &mut bytes[taken..];
        }
    }

    fn step(&mut self, bytes: &mut [u8]) -> usize {
        if self.has_pad_length {
            self.has_pad_length = false;
            let padding = usize::from(bytes[0]).min(self.fields);
            (self.fields, self.rest) = (self.fields - padding, padding);
            1
        } else if self.priority > 0 {
            skip(&mut self.priority, bytes)
        } else if self.fields > 0 {
            let taken = skip(&mut self.fields, bytes);
            bytes[..taken].iter_mut().for_each(|byte| self.block.take(byte));
            taken
        } else if self.rest > 0 {
            skip(&mut self.rest, bytes)
        } else {
            self.head[self.head_len] = bytes[0];
            self.head_len = (self.head_len + 1) % HEAD;
            if self.head_len == 0 {
                self.open();
            }
            1
        }
    }

    /// A frame's head is complete.
    fn open(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            HEADERS => {
                self.block = FieldBlock::default();
                self.has_pad_length = flags & PADDED != 0 && length > 0;
                let length = length - usize::from(self.has_pad_length);
                self.priority = if flags & PRIORITY != 0 { PRIORITY_LEN.min(length) } else { 0 };
                self.fields = length - self.priority;
            }
            // The same block goes on.
            CONTINUATION => self.fields = length,
            _ => self.rest = length,
        }
    }
}

fn skip(left: &mut usize, bytes: &[u8]) -> usize {
    let taken = bytes.len().min(*left);
    *left -= taken;
    taken
}

/// Where in a block of header fields the next byte belongs.
#[derive(Debug, Default)]
struct FieldBlock {
    expected: Expected,
    /// Whether the name that is being read has been ":authority" so far.
    same_name: bool,
    code: Code,
}

#[derive(Debug, Clone, Copy, Default)]
enum Expected {
    /// The first byte of a field.
    #[default]
    Field,
    /// More bytes of an index, after which a value comes or does not.
    Index { value: bool },
    /// The first byte of a text's length.
    Length(Part),
    /// More bytes of it.
    MoreLength { part: Part, coded: bool, length: usize, shift: u32 },
    /// The text.
    Text { part: Part, coded: bool, length: usize, at: usize },
    /// Nothing that could be followed.
    Lost,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Name,
    Authority,
    OtherValue,
}

impl FieldBlock {
    fn take(&mut self, byte: &mut u8) {
        self.expected = match self.expected {
            Expected::Field => field(*byte),
            Expected::Index { value } if *byte & 0x80 != 0 => Expected::Index { value },
            Expected::Index { value: true } => Expected::Length(Part::OtherValue),
            Expected::Index { value: false } => Expected::Field,
            Expected::Length(part) => {
                let (coded, length) = (*byte & 0x80 != 0, usize::from(*byte & 0x7f));
                match length {
                    0x7f => Expected::MoreLength { part, coded, length, shift: 0 },
                    _ => self.text(part, coded, length),
                }
            }
            // A length of more than four bytes is beyond any frame.
            Expected::MoreLength { shift: 28.., .. } | Expected::Lost => Expected::Lost,
            Expected::MoreLength { part, coded, length, shift } => {
                let length = length + (usize::from(*byte & 0x7f) << shift);
                match *byte & 0x80 {
                    0 => self.text(part, coded, length),
                    _ => Expected::MoreLength { part, coded, length, shift: shift + 7 },
                }
            }
            Expected::Text { part, coded, length, at } => {
                self.take_text(part, coded, length, at, byte);
                match at + 1 == length {
                    true => self.after(part),
                    false => Expected::Text { part, coded, length, at: at + 1 },
                }
            }
        };
    }

    fn text(&mut self, part: Part, coded: bool, length: usize) -> Expected {
        self.same_name = false;
        self.code = Code::default();
        match length {
            0 => self.after(part),
            _ => Expected::Text { part, coded, length, at: 0 },
        }
    }

    fn take_text(&mut self, part: Part, coded: bool, length: usize, at: usize, byte: &mut u8) {
        match part {
            Part::Name => {
                let name = if coded { NAME_CODED } else { NAME };
                let fits = length == name.len() && name[at] == *byte;
                self.same_name = fits && (at == 0 || self.same_name);
            }
            Part::Authority if coded => self.code.amend(byte),
            Part::Authority if !may_stand_in_an_authority(*byte) => *byte = b'-',
            Part::Authority | Part::OtherValue => {}
        }
    }

    fn after(&self, part: Part) -> Expected {
        match part {
            Part::Name if self.same_name => Expected::Length(Part::Authority),
            Part::Name => Expected::Length(Part::OtherValue),
            Part::Authority | Part::OtherValue => Expected::Field,
        }
    }
}

/// The first byte of a field tells its kind, and the index of the field or of its name, or the beginning of one.
fn field(byte: u8) -> Expected {
    let (mask, value) = match byte {
        0x80.. => (0x7f, false),      // a field of the tables
        0x40..=0x7f => (0x3f, true),  // a new one, to be kept
        0x20..=0x3f => (0x1f, false), // no field: the size of the table
        0x00..=0x1f => (0x0f, true),  // a new one, not to be kept
    };
    match (byte & mask, value) {
        (index, _) if index == mask => Expected::Index { value },
        (_, false) => Expected::Field,
        (0, true) => Expected::Length(Part::Name),
        (NAME_INDEX, true) => Expected::Length(Part::Authority),
        (_, true) => Expected::Length(Part::OtherValue),
    }
}

/// As RFC 3986 has it (section 3.2), but for `%`, which h2 takes in no host.
fn may_stand_in_an_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:@[]!$&'()*+,;=".contains(&byte)
}

/// The symbol of HPACK's Huffman code (RFC 7541, appendix B) of which the last bits were seen.
///
/// Symbols have 5 bits or more, and the code orders them so that a prefix tells how many. In it space is 010100, `%` 010101,
/// `-` 010110, `.` 010111, `/` 011000 and `3` 011001. So one bit makes either of the first two one of the next two, and
/// `/` a `3`; and that bit is always the one which is being looked at, never one that has gone by.
#[derive(Debug, Clone, Copy, Default)]
struct Code {
    bits: u16,
    count: u32,
}

impl Code {
    fn amend(&mut self, byte: &mut u8) {
        for mask in (0..8).rev().map(|bit| 1 << bit) {
            self.bits = self.bits << 1 | u16::from(*byte & mask != 0);
            self.count += 1;
            if matches!((self.count, self.bits), (5, 0b01010) | (6, 0b01_1000)) {
                self.bits |= 1;
                *byte |= mask;
            }
            match self.count {
                5 if self.bits <= 0x09 => *self = Self::default(),
                6 if (0x14..=0x2d).contains(&self.bits) => *self = Self::default(),
                7 if (0x5c..=0x7b).contains(&self.bits) => *self = Self::default(),
                8 if (0xf8..=0xfd).contains(&self.bits) => *self = Self::default(),
                // A rare symbol of 10 to 30 bits. The rest of the text is left alone: no count fits any more.
                8.. => *self = Self { bits: 0, count: 8 },
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
