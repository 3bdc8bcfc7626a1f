//! Network configurations: what an administrator or a network add-on put into the configuration directory.
//!
//! The first valid file by name is the network of all pods; broken ones before it are passed over and named when none is
//! valid (B23). The directory's listing with its time stamps is compared at every use, so a change counts at once and
//! an unchanged directory costs a few stat(2) calls. Plugin configurations stay JSON objects: keys that are not ours pass through.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The largest configuration file that is read: 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// A version of the CNI specification that is spoken here, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CniVersion {
    #[serde(rename = "0.1.0")]
    V0_1_0,
    #[serde(rename = "0.2.0")]
    V0_2_0,
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl CniVersion {
    const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The version's number, as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A network: the plugins that attach a pod to it, in order (CNI specification, section 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkList {
    /// Its name, unique on the node.
    pub name: String,
    /// The version that is spoken with every plugin of the list.
    pub cni_version: CniVersion,
    /// CHECK must not be called. It never is; kept for the record.
    pub disable_check: bool,
    /// GC must not be called.
    pub disable_gc: bool,
    /// The plugins, in the order of ADD.
    pub plugins: Vec<PluginConfig>,
}

/// The configuration of one plugin, as it was written; its `type` is a plain file name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct PluginConfig(Map<String, Value>);

impl PluginConfig {
    /// The plugin's `type`: the name of its binary.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the plugin asks for what `capability` stands for.
    pub fn wants(&self, capability: &str) -> bool {
        self.0.get("capabilities").and_then(|all| all.get(capability)) == Some(&Value::Bool(true))
    }

    /// All keys.
    pub fn object(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl TryFrom<Map<String, Value>> for PluginConfig {
    type Error = InvalidConfig;
    fn try_from(object: Map<String, Value>) -> Result<Self, InvalidConfig> {
        match object.get("type").and_then(Value::as_str) {
            None | Some("") => Err(InvalidConfig::NoType),
            Some(kind) if kind.contains(['/', '\\', '\0']) || kind.starts_with('.') => {
                Err(InvalidConfig::Type(kind.to_owned()))
            }
            Some(_) => Ok(Self(object)),
        }
    }
}

impl From<PluginConfig> for Map<String, Value> {
    fn from(config: PluginConfig) -> Self {
        config.0
    }
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidConfig {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is larger than {MAX_FILE} bytes")]
    TooLarge,
    #[error("is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "has the name {0:?}; a network's name has letters, digits, '_', '.' and '-' and begins with a letter or digit"
    )]
    Name(String),
    #[error("speaks only CNI {0:?}; known are 0.1.0 to 1.1.0")]
    Version(Vec<String>),
    #[error("has a plugin without a type")]
    NoType,
    #[error("has a plugin of the type {0:?}, which is not the name of a file")]
    Type(String),
    #[error("has no plugins")]
    NoPlugins,
}

/// Why pods cannot get a network now: the message of the CRI's `NetworkReady` condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The directory cannot be listed.
    #[error("the CNI configuration directory {} cannot be read: {reason}", directory.display())]
    Unreadable {
        /// The directory.
        directory: PathBuf,
        /// The cause.
        reason: String,
    },
    /// There is nothing to use.
    #[error("there is no CNI configuration in {}: install a network add-on", .0.display())]
    NoConfig(PathBuf),
    /// There are files, and all are broken.
    #[error("there is no valid CNI configuration in {}: {}", directory.display(), reasons.join("; "))]
    Invalid {
        /// The directory.
        directory: PathBuf,
        /// Each file with what is wrong with it.
        reasons: Vec<String>,
    },
    /// The network is configured, and a program of it is not installed.
    #[error(transparent)]
    Plugin(#[from] MissingPlugin),
}

/// A plugin's binary is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CNI plugin {plugin:?} of network {network:?} is not installed in {directories}")]
pub struct MissingPlugin {
    /// The plugin's type.
    pub plugin: String,
    /// The network that needs it.
    pub network: String,
    /// Where it was looked for.
    pub directories: String,
}

/// The configuration directory and what was last read from it.
#[derive(Debug)]
pub(super) struct ConfigDir {
    path: PathBuf,
    /// Held for a few stat(2) calls, and while a changed directory is read.
    last: Mutex<Option<(Listing, Selected)>>,
}

type Selected = Result<Arc<NetworkList>, NotReady>;

impl ConfigDir {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, last: Mutex::new(None) }
    }

    /// The network of new pods as the directory has it now.
    pub(super) fn current(&self) -> Selected {
        let listing = match Listing::of(&self.path) {
            Ok(listing) => listing,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(NotReady::NoConfig(self.path.clone()));
            }
            Err(e) => {
                return Err(NotReady::Unreadable { directory: self.path.clone(), reason: e.to_string() });
            }
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, selected)) = &*last
            && *known == listing
        {
            return selected.clone();
        }
        let selected = self.select(&listing);
        *last = Some((listing, selected.clone()));
        selected
    }

    fn select(&self, listing: &Listing) -> Selected {
        let mut reasons = Vec::new();
        for path in listing.candidates(&self.path) {
            match load(path) {
                Ok(list) => {
                    tracing::info!(file = %path.display(), network = list.name, skipped = ?reasons, "pod network selected");
                    return Ok(Arc::new(list));
                }
                Err(e) => reasons.push(format!("{} {e}", path.display())),
            }
        }
        match reasons.is_empty() {
            true => Err(NotReady::NoConfig(self.path.clone())),
            false => Err(NotReady::Invalid { directory: self.path.clone(), reasons }),
        }
    }
}

/// The configuration files of a directory and of the directories in it, by name, with what changes when they change.
#[derive(Debug, PartialEq, Eq)]
struct Listing(Vec<Entry>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Listing {
    fn of(directory: &Path) -> io::Result<Self> {
        let mut entries = Vec::new();
        Self::collect(directory, true, &mut entries)?;
        entries.sort();
        Ok(Self(entries))
    }

    /// Those that may be networks: what lies deeper belongs to one of them.
    fn candidates<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a Path> {
        let paths = self.0.iter().map(|entry| entry.path.as_path());
        paths.filter(move |path| path.parent() == Some(directory))
    }

    fn collect(directory: &Path, descend: bool, entries: &mut Vec<Entry>) -> io::Result<()> {
        for path in fs::read_dir(directory)? {
            let path = path?.path();
            // What was removed meanwhile, and dangling links, are as good as absent.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() && descend {
                let _ = Self::collect(&path, false, entries);
            } else if metadata.is_file() && has_extension(&path, &["conf", "conflist", "json"]) {
                entries.push(Entry {
                    path,
                    inode: metadata.ino(),
                    size: metadata.size(),
                    modified: (metadata.mtime(), metadata.mtime_nsec()),
                    changed: (metadata.ctime(), metadata.ctime_nsec()),
                });
            }
        }
        Ok(())
    }
}

/// The files of a directory that may be networks, in the order in which they are tried.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = Listing::of(directory)?;
    Ok(listing.candidates(directory).map(Path::to_owned).collect())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e))
}

/// The top level of a `.conflist`, and of a `.conf`, which has no plugins but is one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "flag")]
    disable_check: bool,
    #[serde(default, rename = "disableGC", deserialize_with = "flag")]
    disable_gc: bool,
    #[serde(default, deserialize_with = "flag")]
    load_only_inlined_plugins: bool,
    #[serde(default)]
    plugins: Vec<Map<String, Value>>,
}

pub(super) fn load(path: &Path) -> Result<NetworkList, InvalidConfig> {
    let bytes = read(path)?;
    let header: Header = serde_json::from_slice(&bytes)?;
    check_name(&header.name)?;
    let plugins = if has_extension(path, &["conflist"]) {
        let mut plugins = header.plugins;
        if !header.load_only_inlined_plugins {
            plugins.extend(dropped_in(&path.with_file_name(&header.name))?);
        }
        plugins
    } else {
        vec![serde_json::from_slice(&bytes)?]
    };
    if plugins.is_empty() {
        return Err(InvalidConfig::NoPlugins);
    }
    Ok(NetworkList {
        cni_version: version(header.cni_version, header.cni_versions)?,
        name: header.name,
        disable_check: header.disable_check,
        disable_gc: header.disable_gc,
        plugins: plugins.into_iter().map(PluginConfig::try_from).collect::<Result<_, _>>()?,
    })
}

/// Plugins of a network that stand in files of their own, in the directory of the network's name.
fn dropped_in(directory: &Path) -> Result<Vec<Map<String, Value>>, InvalidConfig> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let files = Listing::of(directory)?.0.into_iter().map(|entry| entry.path);
    files
        .filter(|path| path.parent() == Some(directory) && has_extension(path, &["conf"]))
        .map(|path| Ok(serde_json::from_slice(&read(&path)?)?))
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, InvalidConfig> {
    match fs::metadata(path)?.len() > MAX_FILE {
        true => Err(InvalidConfig::TooLarge),
        false => Ok(fs::read(path)?),
    }
}

fn check_name(name: &str) -> Result<(), InvalidConfig> {
    let valid = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if valid { Ok(()) } else { Err(InvalidConfig::Name(name.to_owned())) }
}

/// The highest version that both sides know; a configuration without any means the first (as libcni has it).
fn version(single: Option<String>, several: Vec<String>) -> Result<CniVersion, InvalidConfig> {
    let mut offered: Vec<String> = several.into_iter().chain(single).filter(|v| !v.is_empty()).collect();
    if offered.is_empty() {
        offered.push("0.1.0".to_owned());
    }
    let known = CniVersion::ALL.into_iter().rev().find(|v| offered.iter().any(|o| o == v.as_str()));
    known.ok_or(InvalidConfig::Version(offered))
}

/// A boolean, also as a string: older add-ons write `"true"`.
fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match Value::deserialize(from)? {
        Value::Bool(value) => Ok(value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(serde::de::Error::custom(format!("{other} is neither true nor false"))),
    }
}
