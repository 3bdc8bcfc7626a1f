//! `[containers]`: what every container gets that does not say otherwise.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// The limits of setrlimit(2), by the names that ulimits have.
const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What every container gets that does not say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContainersConfig {
    /// Variables; the image's and the container's own win.
    pub env: Vec<Variable>,
    /// Resource limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Directories of hooks, oci-hooks(5); of two files of one name, that in the later directory counts.
    pub hooks_dirs: Vec<PathBuf>,
}

/// `NAME=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("{text:?} is not NAME=value")),
        }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// `nofile=1024:2048`: a limit with its soft and hard value, or one for both; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// The name, in lower case.
    pub name: &'static str,
    /// What holds at first.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

impl FromStr for Ulimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not name=soft[:hard], as in \"nofile=1024:2048\"");
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        let name = LIMITS.into_iter().find(|known| *known == name);
        let name = name.ok_or_else(|| format!("{text:?} names none of the limits {}", LIMITS.join(", ")))?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(u64::MAX),
            text => text.parse().map_err(|_| wrong()),
        };
        let (soft, hard) = (value(soft)?, value(hard)?);
        match soft <= hard {
            true => Ok(Self { name, soft, hard }),
            false => Err(format!("{text:?} has a soft limit above its hard limit")),
        }
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: u64| if value == u64::MAX { "-1".to_owned() } else { value.to_string() };
        write!(f, "{}={}:{}", self.name, value(self.soft), value(self.hard))
    }
}

macro_rules! serialized_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
serialized_as_text!(Variable, Ulimit);

impl ContainersConfig {
    pub(super) fn defaults() -> Self {
        Self::default()
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.parsed("env", &mut self.env);
        reader.parsed("ulimits", &mut self.ulimits);
        reader.paths("hooks_dirs", &mut self.hooks_dirs);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("containers", "what every container gets that does not say otherwise");
        let env = print::list(self.env.iter().map(|variable| print::text(&variable.to_string())));
        page.key("env", env, "NAME=value; the image's and the container's own win");
        let ulimits = print::list(self.ulimits.iter().map(|limit| print::text(&limit.to_string())));
        page.key("ulimits", ulimits, "name=soft[:hard], as in \"nofile=1024:2048\"; -1: unlimited");
        let dirs = print::list(self.hooks_dirs.iter().map(|dir| print::path(dir)));
        page.key("hooks_dirs", dirs, "oci-hooks(5); a later file of the same name counts");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulimit_is_a_name_with_one_or_two_values() {
        let of = |text: &str| text.parse::<Ulimit>().map(|limit| limit.to_string());
        assert_eq!(of("nofile=1024:2048").unwrap(), "nofile=1024:2048");
        assert_eq!(of("core=0").unwrap(), "core=0:0");
        assert_eq!(of("memlock=1:unlimited").unwrap(), "memlock=1:-1");
        for wrong in
            ["", "nofile", "files=1", "nofile=", "nofile=2:1", "nofile=-1:5", "nofile=1:2:3", "nofile=x"]
        {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
