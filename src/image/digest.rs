//! Content digests: `sha256:` and 64 lower-case hexadecimal digits (OCI image specification, "Digests").
//!
//! A value of [`Digest`] is always well-formed, so its [`Digest::hex`] is safe as one path component.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const ALGORITHM: &str = "sha256:";
const HEX_DIGITS: usize = 64;

/// A sha256 digest. Serialized as its text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a digest which podd can verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// Not `algorithm:hex` at all, or of the wrong length.
    #[error("{0:?} is not a digest of the form sha256:<64 lower-case hexadecimal digits>")]
    Malformed(String),
    /// A digest by another algorithm than sha256.
    #[error("digest algorithm {0:?} is not supported, only sha256 is")]
    Unsupported(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of all that `input` gives.
    pub fn of_all(mut input: impl Read) -> io::Result<Self> {
        let mut hasher = Hasher::default();
        let mut chunk = vec![0; 128 * 1024];
        loop {
            match input.read(&mut chunk) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => hasher.update(&chunk[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The digest whose 32 bytes are known.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(ALGORITHM.len() + HEX_DIGITS);
        text.push_str(ALGORITHM);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The whole text, `sha256:<hex>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits alone.
    pub fn hex(&self) -> &str {
        &self.0[ALGORITHM.len()..]
    }
}

/// Computes a [`Digest`] of bytes that pass by.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        Digest::from_sha256(self.0.finalize().into())
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(InvalidDigest::Malformed(excerpt(&text)));
        };
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_known = matches!(algorithm, "sha384" | "sha512" | "blake3");
        match algorithm {
            "sha256" if is_hex && hex.len() == HEX_DIGITS => Ok(Self(text)),
            _ if is_known && is_hex => Err(InvalidDigest::Unsupported(algorithm.to_owned())),
            _ => Err(InvalidDigest::Malformed(excerpt(&text))),
        }
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        Self::try_from(text.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What of a bad text is worth repeating in an error.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_known_bytes() {
        let digest = Digest::of(b"");
        assert_eq!(digest.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.as_str().parse(), Ok(digest.clone()));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn bytes_in_pieces_give_the_same_digest() {
        let mut hasher = Hasher::default();
        hasher.update(b"one ");
        hasher.update(b"layer");
        assert_eq!(hasher.finish(), Digest::of(b"one layer"));
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        let upper = format!("sha256:{}", "A".repeat(64));
        let long = format!("sha256:{}", "a".repeat(65));
        let climbing = format!("sha256:../{}", "a".repeat(61));
        for text in ["", "sha256", "sha256:", "sha256:abc", ":", "md5:00", &upper, &long, &climbing] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest::Malformed(text.to_owned())));
        }
        let sha512 = format!("sha512:{}", "a".repeat(128)).parse::<Digest>();
        assert_eq!(sha512, Err(InvalidDigest::Unsupported("sha512".to_owned())));
    }
}
