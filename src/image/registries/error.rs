//! What can be wrong with a file about registries. No text of a file is repeated that could hold a password.

use std::io;
use std::path::PathBuf;

/// A mistake in the text of `registries.conf` or `hosts.toml`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfError {
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    #[error("line {line} is not TOML: {reason}")]
    Syntax { line: usize, reason: String },
    #[error(
        "it is in version 1 of the format ([registries.search] and the like), which podd does not read: write \
         unqualified-search-registries and [[registry]] as in containers-registries.conf(5)"
    )]
    Version1,
    #[error("{key} is not {wanted}")]
    Type { key: String, wanted: &'static str },
    #[error("{key} = {value:?}: {reason}")]
    Value { key: String, value: String, reason: String },
    #[error("{key}: {reason}")]
    Key { key: String, reason: &'static str },
    #[error("registry {location:?} is described more than once with different values of {key}")]
    Conflict { location: String, key: &'static str },
}

/// A file about registries that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LoadError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be used", path.display())]
    Invalid {
        path: PathBuf,
        #[source]
        source: ConfError,
    },
    #[error("{} has more than {limit} entries", path.display())]
    TooMany { path: PathBuf, limit: usize },
}

/// A value of a file for an error: short, and without user information.
pub(super) fn shown(value: &str) -> String {
    const LONGEST: usize = 200;
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), value),
    };
    let host_end = rest.find('/').unwrap_or(rest.len());
    let rest = match rest[..host_end].rfind('@') {
        Some(at) => format!("***{}", &rest[at..]),
        None => rest.to_owned(),
    };
    format!("{scheme}{rest}").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_information_is_not_shown() {
        assert_eq!(shown("https://user:hush@r.io/a"), "https://***@r.io/a");
        assert_eq!(shown("user:hush@r.io"), "***@r.io");
        assert_eq!(shown("r.io/a@sha256:00"), "r.io/a@sha256:00");
    }
}
