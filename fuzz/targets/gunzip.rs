//! podd's gunzip beside flate2's own, which also checks the CRC: what both take is the same. The first byte is the size of
//! the buffer; with its lowest bit set the rest is a deflate stream, which gets a proper header and trailer.
#![no_main]

use std::io::{self, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder};
use libfuzzer_sys::fuzz_target;
use podd::image::extract::fuzzing::gunzip;

fn all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.read_to_end(&mut content).map(|_| content)
}

/// A gzip member around a deflate stream and what may follow it.
fn wrap(stream: &[u8]) -> Option<Vec<u8>> {
    let mut inflate = DeflateDecoder::new(stream);
    let mut content = Vec::new();
    inflate.read_to_end(&mut content).ok()?;
    let end = usize::try_from(inflate.total_in()).ok()?;
    let mut crc = flate2::Crc::new();
    crc.update(&content);
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    packed.extend(&stream[..end]);
    packed.extend(crc.sum().to_le_bytes());
    packed.extend((content.len() as u32).to_le_bytes());
    packed.extend(&stream[end..]);
    Some(packed)
}

fuzz_target!(|data: &[u8]| {
    let Some((&capacity, rest)) = data.split_first() else { return };
    let wrapped = if capacity & 1 == 1 { wrap(rest) } else { None };
    let packed = wrapped.as_deref().unwrap_or(rest);
    let (own, other) = (gunzip(packed, capacity.into()), all(MultiGzDecoder::new(packed)));
    match (own, other) {
        (Ok(own), Ok(other)) => assert!(own == other, "{} bytes and {}", own.len(), other.len()),
        (Ok(_), Err(_)) | (Err(_), Err(_)) => {}
        // Flags that RFC 1952 reserves are refused by us alone.
        (Err(error), Ok(_)) => assert!(error.to_string().contains("flags"), "{error}"),
    }
});
