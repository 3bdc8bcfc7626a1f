//! Frames: `u32 length, u16 kind, payload`, little endian, the length being that of the payload.
//!
//! [`Frames`] collects the bytes of one connection and gives whole frames back. It never holds more than the limit that its
//! owner names, so a peer cannot make it grow.

use super::ProtocolError;

/// The longest frame that a monitor takes before it has its settings: hundreds of layers fit.
pub const MAX_SETTINGS_FRAME: usize = 1 << 20;

/// The longest frame otherwise, both ways.
pub const MAX_CONTROL_FRAME: usize = 16 << 10;

const HEADER: usize = 6;

/// The bytes received on one connection that are not used up yet.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    used: usize,
    limit: usize,
}

impl Frames {
    /// An empty buffer for frames with payloads of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), used: 0, limit }
    }

    /// Adds what was read from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame: its kind and payload. After an error the connection is of no more use.
    pub fn take(&mut self) -> Result<Option<(u16, &[u8])>, ProtocolError> {
        let rest = &self.bytes[self.used..];
        let Some((header, rest)) = rest.split_at_checked(HEADER) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_le_bytes([header[4], header[5]]);
        if length > self.limit {
            return Err(ProtocolError::TooLong { length, limit: self.limit });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.used + HEADER;
        self.used = start + length;
        Ok(Some((kind, &self.bytes[start..start + length])))
    }
}

/// Builds one frame; the payload is appended field by field.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(kind: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_le_bytes());
        Self(bytes)
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - HEADER).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// Takes a payload apart. Bytes that are left over belong to a newer minor version and are not looked at.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ProtocolError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn rest_as_text(&mut self) -> Result<String, ProtocolError> {
        let text = std::str::from_utf8(self.0).map_err(|_| ProtocolError::NotText)?;
        self.0 = &[];
        Ok(text.to_owned())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }
}
