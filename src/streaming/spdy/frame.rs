//! Frames (SPDY/3.1, 2.2): from bytes and to bytes, without input or output.
//!
//! The parser holds at most one control frame, of bounded size; a data frame is given out in pieces as they come, so that
//! a peer which announces sixteen megabytes makes nobody wait or allocate for them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;
use super::headers::{Headers, Packer, Unpacker};

/// The version in control frames; 3.1 writes 3.
const VERSION: u16 = 3;
/// The largest control frame that is read, in bytes.
const CONTROL_MAX: usize = 64 << 10;
/// The largest data frame that is written, in bytes.
pub(super) const DATA_MAX: usize = 256 << 10;
const HEAD: usize = 8;
const FIN: u8 = 1;

/// A stream's number: odd for those that the client opens.
pub type StreamId = u32;

/// Why a stream ends before its time (2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reset {
    ProtocolError,
    InvalidStream,
    RefusedStream,
    Cancel,
    InternalError,
    FlowControl,
    /// A status that nothing here depends on.
    Other(u32),
}

impl Reset {
    fn from_code(code: u32) -> Self {
        match code {
            1 => Self::ProtocolError,
            2 => Self::InvalidStream,
            3 => Self::RefusedStream,
            5 => Self::Cancel,
            6 => Self::InternalError,
            7 => Self::FlowControl,
            other => Self::Other(other),
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::ProtocolError => 1,
            Self::InvalidStream => 2,
            Self::RefusedStream => 3,
            Self::Cancel => 5,
            Self::InternalError => 6,
            Self::FlowControl => 7,
            Self::Other(other) => other,
        }
    }
}

/// What a peer says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Frame {
    /// A new stream.
    SynStream { id: StreamId, fin: bool, headers: Headers },
    /// The stream is accepted.
    SynReply { id: StreamId, fin: bool, headers: Headers },
    /// The stream is over, at once and in both directions.
    RstStream { id: StreamId, status: Reset },
    /// The window that new streams begin with, where the peer names one.
    Settings { initial_window: Option<u32> },
    /// To be sent back.
    Ping { id: u32 },
    /// No more streams.
    GoAway { last: StreamId },
    /// More headers of a stream.
    Headers { id: StreamId, fin: bool, headers: Headers },
    /// How much more may be sent on a stream; 0 is the whole connection.
    WindowUpdate { id: StreamId, delta: u32 },
    /// A piece of a stream; `fin` with the last one of the frame.
    Data { id: StreamId, fin: bool, data: Bytes },
}

/// The reading end.
pub(super) struct Parser {
    unpacker: Unpacker,
    /// The data frame of which a part is still to come.
    open: Option<Open>,
}

#[derive(Clone, Copy)]
struct Open {
    id: StreamId,
    fin: bool,
    left: usize,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self { unpacker: Unpacker::new(), open: None }
    }

    /// The next frame, or piece of one, taken from the front of `input`; `None` until there is more.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some(open) = self.open {
                return Ok(self.piece(open, input));
            }
            let Some(head) = input.first_chunk::<HEAD>() else { return Ok(None) };
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let (flags, length) = (head[4], usize_of(u32::from_be_bytes([0, head[5], head[6], head[7]])));
            if word >> 31 == 0 {
                input.advance(HEAD);
                self.open = Some(Open { id: word, fin: flags & FIN != 0, left: length });
                continue;
            }
            if length > CONTROL_MAX {
                return Err(SpdyError::Protocol("a control frame is larger than 64 KiB"));
            }
            if input.len() < HEAD + length {
                input.reserve(HEAD + length - input.len());
                return Ok(None);
            }
            input.advance(HEAD);
            let payload = input.split_to(length).freeze();
            if u16::try_from(word >> 16 & 0x7fff) != Ok(VERSION) {
                return Err(SpdyError::Protocol("a control frame is not of SPDY/3"));
            }
            if let Some(frame) = self.control(word & 0xffff, flags, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self, open: Open, input: &mut BytesMut) -> Option<Frame> {
        if input.is_empty() && open.left > 0 {
            return None;
        }
        let data = input.split_to(open.left.min(input.len())).freeze();
        let left = open.left - data.len();
        self.open = (left > 0).then_some(Open { left, ..open });
        Some(Frame::Data { id: open.id, fin: open.fin && left == 0, data })
    }

    /// `None` is a kind of frame that this version of the protocol does not know, which is passed over (2.2.1).
    fn control(&mut self, kind: u32, flags: u8, mut payload: Bytes) -> Result<Option<Frame>, SpdyError> {
        let fin = flags & FIN != 0;
        let short = || SpdyError::Protocol("a control frame is too short for its kind");
        let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| short());
        let id = |number: u32| number & 0x7fff_ffff;
        Ok(Some(match kind {
            1 => {
                let stream = id(number(&mut payload)?);
                number(&mut payload)?;
                payload.try_get_u16().map_err(|_| short())?;
                Frame::SynStream { id: stream, fin, headers: self.unpacker.unpack(&payload)? }
            }
            2 => {
                let stream = id(number(&mut payload)?);
                Frame::SynReply { id: stream, fin, headers: self.unpacker.unpack(&payload)? }
            }
            3 => {
                let stream = id(number(&mut payload)?);
                Frame::RstStream { id: stream, status: Reset::from_code(number(&mut payload)?) }
            }
            4 => Frame::Settings { initial_window: settings(payload).ok_or_else(short)? },
            6 => Frame::Ping { id: number(&mut payload)? },
            7 => Frame::GoAway { last: id(number(&mut payload)?) },
            8 => {
                let stream = id(number(&mut payload)?);
                Frame::Headers { id: stream, fin, headers: self.unpacker.unpack(&payload)? }
            }
            9 => {
                let stream = id(number(&mut payload)?);
                Frame::WindowUpdate { id: stream, delta: id(number(&mut payload)?) }
            }
            _ => return Ok(None),
        }))
    }
}

/// SETTINGS_INITIAL_WINDOW_SIZE, the one setting that matters to a server (2.6.4).
fn settings(mut payload: Bytes) -> Option<Option<u32>> {
    const INITIAL_WINDOW_SIZE: u32 = 7;
    let count = payload.try_get_u32().ok()?;
    let mut window = None;
    for _ in 0..count {
        let (id, value) = (payload.try_get_u32().ok()? & 0xff_ffff, payload.try_get_u32().ok()?);
        if id == INITIAL_WINDOW_SIZE {
            window = Some(value & 0x7fff_ffff);
        }
    }
    Some(window)
}

/// The writing end.
pub(super) struct Writer {
    packer: Packer,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { packer: Packer::new() }
    }

    /// Appends a control frame. Data frames are not written here: their head is [`data_head`], their content is not copied.
    pub(super) fn control(&mut self, frame: &Frame, to: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let block = self.packer.pack(headers);
                head(to, 1, u8::from(*fin), 10 + block.len());
                to.put_u32(*id);
                to.put_u32(0);
                to.put_u16(0);
                to.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => self.with_block(to, 2, *id, *fin, headers),
            Frame::Headers { id, fin, headers } => self.with_block(to, 8, *id, *fin, headers),
            Frame::RstStream { id, status } => numbers(to, 3, &[*id, status.code()]),
            Frame::Settings { initial_window: None } => numbers(to, 4, &[0]),
            Frame::Settings { initial_window: Some(window) } => numbers(to, 4, &[1, 7, *window]),
            Frame::Ping { id } => numbers(to, 6, &[*id]),
            Frame::GoAway { last } => numbers(to, 7, &[*last, 0]),
            Frame::WindowUpdate { id, delta } => numbers(to, 9, &[*id, *delta]),
            Frame::Data { id, fin, data } => {
                to.put_slice(&data_head(*id, *fin, data.len()));
                to.put_slice(data);
            }
        }
    }

    fn with_block(&mut self, to: &mut BytesMut, kind: u16, id: StreamId, fin: bool, headers: &Headers) {
        let block = self.packer.pack(headers);
        head(to, kind, u8::from(fin), 4 + block.len());
        to.put_u32(id);
        to.put_slice(&block);
    }
}

/// The head of a data frame of so many bytes, no more than [`DATA_MAX`].
pub(super) fn data_head(id: StreamId, fin: bool, length: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&id.to_be_bytes());
    head[4..].copy_from_slice(&length_of(length).to_be_bytes());
    head[4] = u8::from(fin) * FIN;
    head
}

fn head(to: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    to.put_u16(0x8000 | VERSION);
    to.put_u16(kind);
    to.put_u32(u32::from(flags) << 24 | length_of(length));
}

fn numbers(to: &mut BytesMut, kind: u16, numbers: &[u32]) {
    head(to, kind, 0, numbers.len() * 4);
    numbers.iter().for_each(|number| to.put_u32(*number));
}

/// What is written is far below the 24 bits that a length has.
fn length_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX) & 0xff_ffff
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 0..=0x7fff_ffffu32;
        let headers = proptest::collection::vec(("[a-z-]{1,9}", ".{0,40}"), 0..5).prop_map(|fields| {
            fields.iter().fold(Headers::default(), |headers, (name, value)| headers.with(name, value))
        });
        prop_oneof![
            (id.clone(), any::<bool>(), headers.clone()).prop_map(|(id, fin, headers)| Frame::SynStream {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<bool>(), headers.clone()).prop_map(|(id, fin, headers)| Frame::SynReply {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<bool>(), headers).prop_map(|(id, fin, headers)| Frame::Headers {
                id,
                fin,
                headers
            }),
            (id.clone(), 0..20u32)
                .prop_map(|(id, code)| Frame::RstStream { id, status: Reset::from_code(code) }),
            proptest::option::of(id.clone()).prop_map(|initial_window| Frame::Settings { initial_window }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (id.clone(), id.clone()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
            (id, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..3000))
                .prop_map(|(id, fin, data)| Frame::Data { id, fin, data: data.into() }),
        ]
    }

    /// Joins the pieces of each data frame.
    fn read(parser: &mut Parser, input: &mut BytesMut, found: &mut Vec<Frame>) {
        while let Some(frame) = parser.next(input).unwrap() {
            match (found.last_mut(), frame) {
                (Some(Frame::Data { id, fin, data }), Frame::Data { id: next, fin: end, data: more })
                    if *id == next && !*fin =>
                {
                    *data = [&data[..], &more[..]].concat().into();
                    *fin = end;
                }
                (_, frame) => found.push(frame),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            frames in proptest::collection::vec(frames(), 1..8),
            cut in 1..200usize,
        ) {
            let (mut writer, mut bytes) = (Writer::new(), BytesMut::new());
            // Two data frames of one stream, of which the first does not end it, are one to whoever reads.
            let apart = |frame: &Frame| [frame.clone(), Frame::Ping { id: 1 }];
            let frames: Vec<_> = frames.iter().flat_map(apart).collect();
            frames.iter().for_each(|frame| writer.control(frame, &mut bytes));
            let (mut parser, mut input, mut found) = (Parser::new(), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                input.extend_from_slice(piece);
                read(&mut parser, &mut input, &mut found);
            }
            prop_assert_eq!(found, frames);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut input = BytesMut::from(&bytes[..]);
            let mut parser = Parser::new();
            while let Ok(Some(_)) = parser.next(&mut input) {}
        }
    }

    #[test]
    fn unknown_kinds_are_passed_over_and_huge_control_frames_refused() {
        let mut input = BytesMut::new();
        numbers(&mut input, 10, &[1, 2]);
        numbers(&mut input, 6, &[7]);
        assert_eq!(Parser::new().next(&mut input), Ok(Some(Frame::Ping { id: 7 })));
        let mut input = BytesMut::from(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert!(Parser::new().next(&mut input).is_err());
    }
}
