//! The names of devices: `vendor/class=name`.

use std::fmt;
use std::str::FromStr;

/// A device by its full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceName {
    /// `vendor/class`, which a spec file calls its kind.
    pub kind: String,
    /// The device among those of its kind.
    pub name: String,
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a device's name of the form vendor/class=name: {why}")]
pub struct NameError {
    text: String,
    why: &'static str,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.name)
    }
}

impl FromStr for DeviceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = |why| NameError { text: text.to_owned(), why };
        let (kind, name) = text.split_once('=').ok_or_else(|| error("there is no '='"))?;
        check_kind(kind).map_err(error)?;
        check_device(name).map_err(error)?;
        Ok(Self { kind: kind.to_owned(), name: name.to_owned() })
    }
}

/// Whether a text is `vendor/class`.
pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind.split_once('/').ok_or("there is no '/' between vendor and class")?;
    let good = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(inner)
    };
    match (good(vendor), good(class)) {
        (true, true) => Ok(()),
        (false, _) => Err("the vendor is not a letter, then letters, digits, '_', '-' and '.'"),
        (true, false) => Err("the class is not a letter, then letters, digits, '_', '-' and '.'"),
    }
}

/// Whether a text is a device's own name.
pub(super) fn check_device(name: &str) -> Result<(), &'static str> {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
    match name.starts_with(edge) && name.ends_with(edge) && name.bytes().all(inner) {
        true => Ok(()),
        false => Err("the device is not a letter or digit, then letters, digits, '_', '-', '.' and ':'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_or_refused() {
        let name: DeviceName = "nvidia.com/gpu=MIG-0:1".parse().unwrap();
        assert_eq!((name.kind.as_str(), name.name.as_str()), ("nvidia.com/gpu", "MIG-0:1"));
        assert_eq!(name.to_string(), "nvidia.com/gpu=MIG-0:1");
        for wrong in
            ["", "gpu", "a/b", "a/b=", "/b=c", "a/=c", "1a/b=c", "a/b.=c", "a/b=c-", "a/b/c=d", "a/b=c d"]
        {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong:?}");
        }
        let error = "gpu=0".parse::<DeviceName>().unwrap_err().to_string();
        assert!(
            error.starts_with("\"gpu=0\" is not a device's name of the form vendor/class=name: there is no")
        );
    }
}
