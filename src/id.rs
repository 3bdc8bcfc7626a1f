//! Identifiers of pods and containers: 64 lower-case hexadecimal digits from the kernel's random source.
//!
//! They become names of files, cgroups and mounts, so a value of these types is always safe as one path component.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an ID of 64 hexadecimal digits")]
pub struct InvalidId(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random ID.
            pub fn generate() -> Self {
                Self(random_hex())
            }

            /// The 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    Ok(Self(text))
                } else {
                    Err(InvalidId(text))
                }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// The ID of a pod sandbox (CRI `pod_sandbox_id`).
    PodId
);
id!(
    /// The ID of a container (CRI `container_id`).
    ContainerId
);

/// 64 hexadecimal digits that nobody can guess.
pub fn random_hex() -> String {
    use std::fmt::Write;
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => unreachable!("getrandom(2) of 32 bytes cannot fail on a running kernel: {e}"),
        }
    }
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_are_valid_and_differ() {
        let (a, b) = (PodId::generate(), PodId::generate());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<PodId>(), Ok(a.clone()));
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "abc", "../../../../etc/passwd", &"A".repeat(64), &"0".repeat(65)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
        }
    }
}
