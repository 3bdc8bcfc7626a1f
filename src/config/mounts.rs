//! `[mounts]`: what containers see besides what their pods ask for.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// The word for the node's own timezone.
const LOCAL: &str = "Local";

/// Where the node has its own timezone, and a container is to have its.
const LOCALTIME: &str = "/etc/localtime";

/// Where the node keeps all timezones.
const ZONES: &str = "/usr/share/zoneinfo";

const IMAGE_VOLUMES: [(&str, ImageVolumes); 2] =
    [("mkdir", ImageVolumes::Mkdir), ("ignore", ImageVolumes::Ignore)];

/// What containers see besides what their pods ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountsConfig {
    /// The zone of `/etc/localtime`.
    pub timezone: Timezone,
    /// What every container gets mounted.
    pub default_mounts: Vec<HostMount>,
    /// What becomes of the volumes that an image declares.
    pub image_volumes: ImageVolumes,
}

/// A path of the host in every container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostMount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub destination: PathBuf,
    /// Whether containers may only read it.
    pub readonly: bool,
}

/// Whose time containers show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Timezone {
    /// That of the image.
    Image,
    /// That of the node.
    Local,
    /// A zone by its name, such as `Europe/Berlin`.
    Zone(String),
}

/// What becomes of the volumes that an image declares (`VOLUME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageVolumes {
    /// Directories in the container's writable layer, where the image has none.
    Mkdir,
    /// Nothing.
    Ignore,
}

impl MountsConfig {
    pub(super) fn defaults() -> Self {
        Self { timezone: Timezone::Image, default_mounts: Vec::new(), image_volumes: ImageVolumes::Mkdir }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.value("timezone", &mut self.timezone);
        reader.parsed("default_mounts", &mut self.default_mounts);
        reader.word("image_volumes", &IMAGE_VOLUMES, &mut self.image_volumes);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("mounts", "what containers see besides what their pods ask for");
        let zone = print::text(self.timezone.name());
        page.key("timezone", zone, "a name, or Local: the node's; empty: the image's");
        let mounts = print::list(self.default_mounts.iter().map(|mount| print::text(&mount.text())));
        page.key("default_mounts", mounts, "in all containers: /of/host:/of/container[:ro]");
        page.key("image_volumes", print::word(&self.image_volumes), "an image's VOLUMEs: mkdir or ignore");
    }

    /// All that every container gets mounted, the timezone with it.
    pub fn of_every_container(&self) -> Vec<HostMount> {
        let zone = self.timezone.file();
        let zone = zone.map(|source| HostMount { source, destination: LOCALTIME.into(), readonly: true });
        self.default_mounts.iter().cloned().chain(zone).collect()
    }
}

impl FromStr for HostMount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(':').collect();
        let (source, destination, readonly) = match parts[..] {
            [source, destination] => (source, destination, false),
            [source, destination, "ro"] => (source, destination, true),
            _ => return Err(format!("{text:?} is not of the form \"/of/host:/of/container[:ro]\"")),
        };
        match [source, destination].into_iter().find(|path| !is_plain(path)) {
            Some(path) => Err(format!("{path:?} in {text:?} is not an absolute path without \"..\"")),
            None if Path::new(destination) == Path::new("/") => {
                Err(format!("{text:?} would take the place of the root filesystem"))
            }
            None => Ok(Self { source: source.into(), destination: destination.into(), readonly }),
        }
    }
}

impl HostMount {
    fn text(&self) -> String {
        let access = if self.readonly { ":ro" } else { "" };
        format!("{}:{}{access}", self.source.display(), self.destination.display())
    }
}

fn is_plain(path: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    path.starts_with('/') && !path.contains('\0') && Path::new(path).components().all(plain)
}

impl FromStr for Timezone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Image),
            LOCAL => Ok(Self::Local),
            name if !name.starts_with('/')
                && is_plain(&format!("/{name}"))
                && Path::new(ZONES).join(name).is_file() =>
            {
                Ok(Self::Zone(name.to_owned()))
            }
            name => Err(format!(
                "{name:?} is neither {LOCAL:?} nor a file below {ZONES}, where tzdata has the zones"
            )),
        }
    }
}

impl Timezone {
    fn name(&self) -> &str {
        match self {
            Self::Image => "",
            Self::Local => LOCAL,
            Self::Zone(name) => name,
        }
    }

    /// The host's file that describes it.
    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Image => None,
            Self::Local => Some(LOCALTIME.into()),
            Self::Zone(name) => Some(Path::new(ZONES).join(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_mounts_are_two_plain_paths_and_perhaps_ro() {
        for text in ["/a:/b", "/a/b:/c:ro"] {
            assert_eq!(text.parse::<HostMount>().unwrap().text(), text);
        }
        for text in ["/a", "a:/b", "/a:b", "/a:/b:rw", "/a:/b/../c", "/a:/", "", ":", "/a:/b:ro:ro"] {
            assert!(text.parse::<HostMount>().unwrap_err().contains(&format!("{text:?}")), "{text}");
        }
    }

    #[test]
    fn a_zone_is_one_that_the_node_knows() {
        let of = |text: &str| text.parse::<Timezone>().map(|zone| zone.file());
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("Local"), Ok(Some("/etc/localtime".into())));
        for text in ["Europe/Nowhere", "../../../etc/passwd", "/etc/passwd", "Europe"] {
            assert!(of(text).unwrap_err().contains(&format!("{text:?} is neither")), "{text}");
        }
    }
}
