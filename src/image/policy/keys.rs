//! Public keys: from a PEM file to something that verifies.
//!
//! Taken are what the peers take, with SHA-256 throughout: ECDSA on P-256 and P-384 (signatures in ASN.1), RSA of 2048 to
//! 8192 bits with PKCS #1 v1.5, and Ed25519. Only the outline of SubjectPublicKeyInfo (RFC 5280, section 4.1) is read
//! here; what is in it ring checks.

use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use super::ReadKey;

/// The largest file of a key, in bytes; an RSA key of 8192 bits has 1,500.
pub(super) const LARGEST_KEY: usize = 64 * 1024;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// RSA moduli that ring takes, in bytes.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Where a requirement has its keys; one that verifies is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeySource {
    /// `keyPath` and `keyPaths`: read at each use, so that a key can be exchanged without more ado.
    Files(Vec<PathBuf>),
    /// `keyData` and `keyDatas`: PEM.
    Inline(Vec<Vec<u8>>),
}

/// A public key.
pub(super) struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

/// Why a text is not a key that podd can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidKey {
    #[error("it is not in PEM form, with -----BEGIN PUBLIC KEY-----")]
    NotPem,
    #[error("it has more than one PEM block; name each key in a file of its own in keyPaths")]
    Several,
    #[error("it is larger than {LARGEST_KEY} bytes")]
    TooLarge,
    #[error("its content is not a public key")]
    Malformed,
    #[error("its kind is not supported: use ECDSA on P-256 or P-384, RSA of 2048 to 8192 bits, or Ed25519")]
    Unsupported,
}

impl KeySource {
    /// All keys, or the first that cannot be used.
    pub(super) fn load(&self, read: ReadKey<'_>) -> Result<Vec<Key>, String> {
        match self {
            Self::Files(paths) => paths
                .iter()
                .map(|path| {
                    let text = read(path).map_err(|e| match e.kind() {
                        io::ErrorKind::NotFound => format!("its key {} does not exist", path.display()),
                        _ => format!("its key {} cannot be read: {e}", path.display()),
                    })?;
                    Key::from_pem(&text)
                        .map_err(|e| format!("its key {} cannot be used: {e}", path.display()))
                })
                .collect(),
            Self::Inline(keys) => keys
                .iter()
                .enumerate()
                .map(|(index, text)| {
                    Key::from_pem(text)
                        .map_err(|e| format!("key {} of its data cannot be used: {e}", index + 1))
                })
                .collect(),
        }
    }
}

impl Key {
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, InvalidKey> {
        if text.len() > LARGEST_KEY {
            return Err(InvalidKey::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| InvalidKey::NotPem)?;
        let (_, rest) = text.split_once("-----BEGIN ").ok_or(InvalidKey::NotPem)?;
        let (label, rest) = rest.split_once("-----").ok_or(InvalidKey::NotPem)?;
        let (body, rest) = rest.split_once("-----END ").ok_or(InvalidKey::NotPem)?;
        if rest.contains("-----BEGIN ") {
            return Err(InvalidKey::Several);
        }
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| InvalidKey::NotPem)?;
        match label {
            "PUBLIC KEY" => Self::from_spki(&der),
            "RSA PUBLIC KEY" => Self::rsa(&der),
            _ => Err(InvalidKey::NotPem),
        }
    }

    fn from_spki(der: &[u8]) -> Result<Self, InvalidKey> {
        let Spki { algorithm, curve, key } = Spki::read(der).ok_or(InvalidKey::Malformed)?;
        match algorithm {
            EC_PUBLIC_KEY => match curve {
                Some(P256) => Self::point(&signature::ECDSA_P256_SHA256_ASN1, key, 65),
                // The hash is SHA-256 for every curve, as cosign signs.
                Some(P384) => Self::point(&signature::ECDSA_P384_SHA256_ASN1, key, 97),
                _ => Err(InvalidKey::Unsupported),
            },
            RSA_ENCRYPTION => Self::rsa(key),
            ED25519 if key.len() == 32 => Ok(Self { algorithm: &signature::ED25519, bytes: key.to_owned() }),
            ED25519 => Err(InvalidKey::Malformed),
            _ => Err(InvalidKey::Unsupported),
        }
    }

    /// An uncompressed point of a curve.
    fn point(
        algorithm: &'static dyn VerificationAlgorithm,
        key: &[u8],
        length: usize,
    ) -> Result<Self, InvalidKey> {
        match key.len() == length && key[0] == 0x04 {
            true => Ok(Self { algorithm, bytes: key.to_owned() }),
            false => Err(InvalidKey::Malformed),
        }
    }

    /// An RSAPublicKey (RFC 8017, appendix A.1.1).
    fn rsa(der: &[u8]) -> Result<Self, InvalidKey> {
        let mut outer = Der(der);
        let modulus = outer.take(SEQUENCE).and_then(|inner| Der(inner).take(INTEGER));
        let modulus = modulus.ok_or(InvalidKey::Malformed)?;
        let length = modulus.iter().skip_while(|byte| **byte == 0).count();
        match RSA_MODULUS.contains(&length) {
            true => Ok(Self { algorithm: &signature::RSA_PKCS1_2048_8192_SHA256, bytes: der.to_owned() }),
            false => Err(InvalidKey::Unsupported),
        }
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

/// A SubjectPublicKeyInfo, as far as it matters.
struct Spki<'a> {
    algorithm: &'a [u8],
    /// The algorithm's parameter, where that is an identifier.
    curve: Option<&'a [u8]>,
    key: &'a [u8],
}

impl<'a> Spki<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut whole = Der(der);
        let mut inner = Der(whole.take(SEQUENCE)?);
        let mut identifier = Der(inner.take(SEQUENCE)?);
        let algorithm = identifier.take(OBJECT_ID)?;
        let curve = identifier.take(OBJECT_ID);
        let (unused_bits, key) = inner.take(BIT_STRING)?.split_first()?;
        let is_whole = *unused_bits == 0 && whole.0.is_empty() && inner.0.is_empty();
        is_whole.then_some(Self { algorithm, curve, key })
    }
}

/// What is left of a run of DER elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has that tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let rest = self.0.strip_prefix(&[tag])?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
            // Indefinite, or more than any key has.
            _ => return None,
        };
        let content = rest.get(..length)?;
        self.0 = &rest[length..];
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> Vec<u8> {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)).into_bytes()
    }

    fn error(text: &[u8]) -> InvalidKey {
        Key::from_pem(text).err().expect("not a key")
    }

    #[test]
    fn what_is_no_key_is_told_apart() {
        assert_eq!(error(b""), InvalidKey::NotPem);
        assert_eq!(error(b"-----BEGIN PUBLIC KEY-----\n%%\n-----END PUBLIC KEY-----"), InvalidKey::NotPem);
        assert_eq!(error(&pem("PRIVATE KEY", b"x")), InvalidKey::NotPem);
        assert_eq!(error(&pem("PUBLIC KEY", b"")), InvalidKey::Malformed);
        assert_eq!(error(&vec![b' '; LARGEST_KEY + 1]), InvalidKey::TooLarge);
        assert_eq!(error(&pem("PUBLIC KEY", b"").repeat(2)), InvalidKey::Several);
        let short = [[SEQUENCE, 6, INTEGER, 1, 5, INTEGER, 1, 3].as_slice()].concat();
        assert_eq!(error(&pem("RSA PUBLIC KEY", &short)), InvalidKey::Unsupported);
    }

    proptest! {
        #[test]
        fn hostile_keys_never_panic(der in proptest::collection::vec(any::<u8>(), 0..64), text in ".{0,80}") {
            let _ = Key::from_pem(&pem("PUBLIC KEY", &der));
            let _ = Key::from_pem(&pem("RSA PUBLIC KEY", &der));
            let _ = Key::from_pem(text.as_bytes());
            let nested = [&[SEQUENCE, u8::try_from(der.len()).unwrap_or_default()], der.as_slice()].concat();
            let _ = Key::from_pem(&pem("PUBLIC KEY", &nested));
        }
    }
}
