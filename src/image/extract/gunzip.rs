//! gunzip (RFC 1952) over zlib-rs's inflate, or ISA-L's where that was loaded, without the checksum.
//!
//! A layer's tar is hashed with SHA-256 in any case, and that decides; so the CRC-32 of each member, a twentieth of a pull's
//! processor time, is not computed. The length in the trailer is compared.

use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};

use crate::sys::isal;

/// The fixed part of a member's header.
const HEADER: usize = 10;

/// The checksum and the length after a member.
const TRAILER: usize = 8;

// Flags of a header (RFC 1952, 2.3.1).
const HEADER_CHECKSUM: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// The content of a gzip stream of one or more members.
pub(super) struct Gunzip<R> {
    input: Input<R>,
    inflate: Inflate,
    /// What the member has given.
    given: u64,
    state: State,
}

/// The compressed bytes, with those before them that a decoder has taken and not used.
struct Input<R> {
    unused: Vec<u8>,
    reader: R,
}

enum Inflate {
    Zlib(Decompress),
    Isal(isal::Inflate),
}

/// What comes next in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Member,
    Content,
    End,
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(input: R) -> Self {
        let inflate =
            isal::Inflate::new().map_or_else(|| Inflate::Zlib(Decompress::new(false)), Inflate::Isal);
        let input = Input { unused: Vec::new(), reader: input };
        Self { input, inflate, given: 0, state: State::Member }
    }

    /// What the compressed bytes come from.
    pub(super) fn get_mut(&mut self) -> &mut R {
        &mut self.input.reader
    }

    /// The header of a member (RFC 1952, 2.3).
    fn member(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER];
        self.input.read_exact(&mut header)?;
        let [0x1f, 0x8b, 8, flags, ..] = header else {
            return Err(invalid("what follows is not gzip's deflate"));
        };
        if flags & RESERVED != 0 {
            return Err(invalid("its header has flags that no one knows"));
        }
        if flags & EXTRA != 0 {
            let mut length = [0; 2];
            self.input.read_exact(&mut length)?;
            self.skip(u16::from_le_bytes(length).into())?;
        }
        for flag in [NAME, COMMENT] {
            if flags & flag != 0 {
                self.skip_text()?;
            }
        }
        self.skip(if flags & HEADER_CHECKSUM != 0 { 2 } else { 0 })?;
        match &mut self.inflate {
            Inflate::Zlib(inflate) => inflate.reset(false),
            Inflate::Isal(inflate) => inflate.reset(),
        }
        self.given = 0;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.input.by_ref().take(count), &mut io::sink())?;
        if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// A text of any length, up to its NUL, without keeping it.
    fn skip_text(&mut self) -> io::Result<()> {
        let mut byte = [1];
        while byte != [0] {
            self.input.read_exact(&mut byte)?;
        }
        Ok(())
    }

    /// Decodes what is at hand; nothing may come of it.
    fn content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let input = self.input.fill_buf()?;
        if input.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (read, written, ended) = match &mut self.inflate {
            Inflate::Zlib(inflate) => {
                let (read, written) = (inflate.total_in(), inflate.total_out());
                let status = inflate.decompress(input, buffer, FlushDecompress::None)?;
                // Neither is more than the length of its slice.
                let (read, written) = (inflate.total_in() - read, inflate.total_out() - written);
                self.input.consume(read as usize);
                (read as usize, written as usize, status == Status::StreamEnd)
            }
            Inflate::Isal(inflate) => {
                let step = inflate.decode(input, buffer)?;
                self.input.consume(step.read);
                self.input.unused.splice(0..0, step.unused().iter().copied());
                (step.read, step.written, step.ended)
            }
        };
        self.given += written as u64;
        if ended {
            self.state = self.trailer()?;
        } else if read == 0 && written == 0 && !buffer.is_empty() {
            return Err(invalid("the deflate stream does not go on"));
        }
        Ok(written)
    }

    /// The end of a member, after which there may be another (RFC 1952, 2.2).
    fn trailer(&mut self) -> io::Result<State> {
        let mut trailer = [0; TRAILER];
        self.input.read_exact(&mut trailer)?;
        let [.., a, b, c, d] = trailer;
        if u32::from_le_bytes([a, b, c, d]) != self.given as u32 {
            return Err(invalid("it has another length than its trailer says"));
        }
        Ok(if self.input.fill_buf()?.is_empty() { State::End } else { State::Member })
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state {
                State::Member => {
                    self.member()?;
                    self.state = State::Content;
                }
                State::Content => {
                    let written = self.content(buffer)?;
                    if written > 0 || buffer.is_empty() {
                        return Ok(written);
                    }
                }
                State::End => return Ok(0),
            }
        }
    }
}

impl<R: BufRead> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unused.is_empty() { self.reader.fill_buf() } else { Ok(&self.unused) }
    }

    fn consume(&mut self, count: usize) {
        if self.unused.is_empty() {
            self.reader.consume(count);
        } else {
            self.unused.drain(..count.min(self.unused.len()));
        }
    }
}

impl<R: BufRead> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    /// With zlib-rs; and ISA-L, where the machine has it, must agree.
    fn gunzip(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut decoder = Gunzip::new(packed);
        decoder.inflate = Inflate::Zlib(Decompress::new(false));
        let result = decode(decoder);
        if isal::load().is_ok() {
            let by_isal = decode(Gunzip::new(packed));
            assert_eq!(by_isal.as_ref().ok(), result.as_ref().ok(), "{by_isal:?} and {result:?}");
        }
        result
    }

    fn decode(mut decoder: Gunzip<&[u8]>) -> io::Result<Vec<u8>> {
        let (mut content, mut buffer) = (Vec::new(), [0; 777]);
        loop {
            let count = decoder.read(&mut buffer)?;
            if count == 0 {
                return Ok(content);
            }
            content.extend_from_slice(&buffer[..count]);
        }
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_follow_each_other_and_optional_headers_are_passed_over() {
        let second = gzip(b"two");
        let mut packed = gzip(b"one ");
        packed.extend([0x1f, 0x8b, 8, HEADER_CHECKSUM | EXTRA | NAME | COMMENT, 0, 0, 0, 0, 0, 3]);
        packed.extend(b"\x03\0abcname\0a comment\0\xaa\xbb");
        packed.extend(&second[HEADER..]);
        assert_eq!(gunzip(&packed).unwrap(), b"one two");
    }

    #[test]
    fn what_is_not_a_stream_says_why() {
        let good = gzip(b"content");
        let longer = [&good[..good.len() - 4], &[9, 0, 0, 0]].concat();
        let cases: [(&[u8], &str); 5] = [
            (b"not gzip at all", "not gzip's deflate"),
            (&[0x1f, 0x8b, 8, 0x80, 0, 0, 0, 0, 0, 3, 3, 0], "flags"),
            (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 7, 7, 7], "deflate"),
            (&longer, "another length"),
            (&[&good[..], b"the rest of it"].concat(), "not gzip's deflate"),
        ];
        for (packed, reason) in cases {
            let error = gunzip(packed).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} where {reason:?} was expected");
        }
        for end in 0..good.len() {
            assert_eq!(gunzip(&good[..end]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), 0_usize..300), 0..20),
        ) {
            let content: Vec<u8> = pieces.iter().flat_map(|(piece, times)| piece.repeat(*times)).collect();
            prop_assert!(gunzip(&gzip(&content)).unwrap() == content);
        }
    }
}
