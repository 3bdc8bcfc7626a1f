//! Header blocks: names and values, compressed by one zlib stream for each direction of a connection (SPDY/3.1, 2.6.10).
//!
//! Both streams begin with the dictionary of the specification. A block is hostile: its size is bounded packed and
//! unpacked, and so is the number of its fields, whose lengths must fit what is there.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::SpdyError;

/// The most that a block may unpack to, in bytes; the clients send a handful of short fields.
const BLOCK_MAX: usize = 64 << 10;

/// The dictionary's words, each of which it has with its length before it.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// The dictionary's end.
const TEXT: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

/// The fields of a block, in their order; names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a field; the name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Adds a field.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }
}

/// The direction that is read.
pub(super) struct Unpacker(Decompress);

/// The direction that is written.
pub(super) struct Packer(Compress);

impl Unpacker {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Unpacks and reads a block. After an error the connection cannot go on: the two ends have lost each other.
    pub(super) fn unpack(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        read(&self.inflate(packed)?).ok_or(SpdyError::Headers("a field is longer than the block"))
    }

    fn inflate(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut block = Vec::with_capacity(1024);
        loop {
            let (taken, given) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress_vec(packed, &mut block, FlushDecompress::Sync);
            packed = packed.get(moved(self.0.total_in(), taken)..).unwrap_or_default();
            match outcome {
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    let bad = |_| SpdyError::Headers("the block is packed with another dictionary");
                    self.0.set_dictionary(&dictionary()).map_err(bad)?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Headers("the block is not zlib data")),
            }
            if block.len() > BLOCK_MAX {
                return Err(SpdyError::Headers("the block unpacks to more than 64 KiB"));
            }
            let more = block.len() == block.capacity();
            if more {
                block.reserve(block.capacity());
            } else if packed.is_empty() {
                return Ok(block);
            } else if self.0.total_in() == taken && self.0.total_out() == given {
                return Err(SpdyError::Headers("bytes follow the end of the zlib data"));
            }
        }
    }
}

impl Packer {
    pub(super) fn new() -> Self {
        let mut packer = Compress::new(Compression::fast(), true);
        packer.set_dictionary(&dictionary()).expect("a fresh zlib stream takes a dictionary");
        Self(packer)
    }

    /// Packs a block so that it can be read at once.
    pub(super) fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        let block = write(headers);
        let mut packed = Vec::with_capacity(block.len() + 64);
        let mut rest = block.as_slice();
        loop {
            let before = self.0.total_in();
            self.0
                .compress_vec(rest, &mut packed, FlushCompress::Sync)
                .expect("packing to memory has nothing that could fail");
            rest = rest.get(moved(self.0.total_in(), before)..).unwrap_or_default();
            if packed.len() < packed.capacity() && rest.is_empty() {
                return packed;
            }
            packed.reserve(packed.capacity());
        }
    }
}

fn moved(now: u64, before: u64) -> usize {
    usize::try_from(now - before).unwrap_or(usize::MAX)
}

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS {
        put_text(&mut dictionary, word);
    }
    dictionary.extend(TEXT.bytes());
    dictionary
}

fn read(mut block: &[u8]) -> Option<Headers> {
    let count = take_length(&mut block)?;
    let mut fields = Vec::new();
    for _ in 0..count {
        // Each field takes eight bytes at least, so the count is bounded by the block.
        fields.push((take_text(&mut block)?.to_ascii_lowercase(), take_text(&mut block)?));
    }
    Some(Headers(fields))
}

fn take_length(block: &mut &[u8]) -> Option<usize> {
    let (length, rest) = block.split_first_chunk::<4>()?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

fn take_text(block: &mut &[u8]) -> Option<String> {
    let length = take_length(block)?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn write(headers: &Headers) -> Vec<u8> {
    let mut block = Vec::new();
    block.extend(u32::try_from(headers.0.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (name, value) in &headers.0 {
        put_text(&mut block, name);
        put_text(&mut block, value);
    }
    block
}

fn put_text(block: &mut Vec<u8>, text: &str) {
    block.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    block.extend(text.bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_specification() {
        // Its length and Adler-32, which zlib streams name it by.
        let dictionary = dictionary();
        let (mut low, mut high) = (1u32, 0u32);
        for byte in &dictionary {
            low = (low + u32::from(*byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!((dictionary.len(), high << 16 | low), (1423, 0xE3C6_A7C2));
    }

    #[test]
    fn blocks_of_one_connection_are_read_in_their_order() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for n in 0..200 {
            let headers = Headers::default()
                .with("streamType", "data")
                .with("port", &n.to_string())
                .with("x", &"y".repeat(n * 7));
            assert_eq!(unpacker.unpack(&packer.pack(&headers)).unwrap(), headers);
        }
        assert_eq!(unpacker.unpack(&packer.pack(&Headers::default())).unwrap(), Headers::default());
    }

    #[test]
    fn a_block_that_lies_is_an_error_and_a_large_one_too() {
        assert!(Unpacker::new().unpack(b"not zlib").is_err());
        let mut packer = Packer::new();
        let bomb = packer.pack(&Headers::default().with("a", &"0".repeat(1 << 20)));
        assert!(bomb.len() < 64 << 10);
        assert_eq!(
            Unpacker::new().unpack(&bomb).unwrap_err(),
            SpdyError::Headers("the block unpacks to more than 64 KiB")
        );
        for block in [&[0, 0, 0, 1][..], &[0, 0, 0, 1, 0, 0, 0, 9, b'a'], &[0xff; 4]] {
            assert_eq!(read(block), None);
        }
    }
}
