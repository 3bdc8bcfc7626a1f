//! `[devices]`: device nodes that the operator gives, or lets pods ask for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// Device nodes that the operator gives, or lets pods ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DevicesConfig {
    /// Host paths that a pod may ask for by annotation.
    pub allowed: Vec<PathBuf>,
    /// What every container gets.
    pub additional: Vec<NamedDevice>,
    /// Whether devices that the client asks for belong to the user that it asks for.
    pub ownership_from_security_context: bool,
}

/// A device in the form `host[:container[:permissions]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedDevice {
    /// Its path on the host.
    pub host: PathBuf,
    /// Its path in the container.
    pub container: PathBuf,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

impl FromStr for NamedDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let host = parts.next().unwrap_or_default();
        let container = parts.next().unwrap_or(host);
        let permissions = parts.next().unwrap_or("rwm");
        let plain = |path: &str| {
            Path::new(path).is_absolute() && !path.contains('\0') && !path.split('/').any(|part| part == "..")
        };
        let letters = !permissions.is_empty() && permissions.bytes().all(|letter| b"rwm".contains(&letter));
        match parts.next().is_none() && plain(host) && plain(container) && letters {
            true => {
                Ok(Self { host: host.into(), container: container.into(), permissions: permissions.into() })
            }
            false => Err(format!(
                "{text:?} is not host[:container[:permissions]] with absolute paths and letters of rwm"
            )),
        }
    }
}

impl fmt::Display for NamedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host.display(), self.container.display(), self.permissions)
    }
}

impl Serialize for NamedDevice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl DevicesConfig {
    pub(super) fn defaults() -> Self {
        Self {
            allowed: vec!["/dev/fuse".into(), "/dev/net/tun".into()],
            additional: Vec::new(),
            ownership_from_security_context: false,
        }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.paths("allowed", &mut self.allowed);
        reader.parsed("additional", &mut self.additional);
        reader.flag("ownership_from_security_context", &mut self.ownership_from_security_context);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("devices", "device nodes, besides those of the CRI");
        let allowed = print::list(self.allowed.iter().map(|path| print::path(path)));
        page.key("allowed", allowed, "what the annotation io.kubernetes.cri-o.Devices may name");
        let additional = print::list(self.additional.iter().map(|device| print::text(&device.to_string())));
        page.key("additional", additional, "for every container: host[:container[:rwm]]");
        let ownership = self.ownership_from_security_context;
        page.key("ownership_from_security_context", ownership, "the CRI's devices belong to run_as_user");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_a_host_path_and_what_it_is_inside() {
        let of = |text: &str| text.parse::<NamedDevice>().map(|device| device.to_string());
        assert_eq!(of("/dev/fuse").unwrap(), "/dev/fuse:/dev/fuse:rwm");
        assert_eq!(of("/dev/fuse:/dev/x:r").unwrap(), "/dev/fuse:/dev/x:r");
        for wrong in ["", "fuse", "/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/dev/b:", "/a:/b:r:r", "/dev/../etc"]
        {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
