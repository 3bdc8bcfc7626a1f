//! The files: read at start, and again when one of them has changed.
//!
//! There is no watcher. Who begins a pull asks for [`Registries::refreshed`], which compares the stamps (inode, size and
//! times) of all files and directories concerned with those of the last reading. What cannot be used is reported once,
//! and what was in force stays in force.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::conf::{LARGEST_FILE, RegistriesConf};
use super::error::{ConfError, LoadError};
use super::hosts::{HostsFile, parse_hosts};
use super::lookup::Lookup;
use super::{Plan, parse};
use crate::image::reference::Reference;

/// More files than an administrator writes.
const MOST_ENTRIES: usize = 1000;
/// The directory that is for every host without one of its own.
const DEFAULT_HOST: &str = "_default";

/// Where the files are; empty paths are not read.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// `registries.conf`; its drop-ins are in the directory of the same name with `.d`.
    pub registries_conf: PathBuf,
    /// As containers-certs.d(5).
    pub certs_dir: PathBuf,
    /// containerd's `certs.d`, with a `hosts.toml` in each directory.
    pub hosts_dir: PathBuf,
}

/// What the files said when they were read.
#[derive(Debug, Default)]
pub struct Snapshot {
    conf: RegistriesConf,
    /// By the name of the directory.
    hosts: BTreeMap<String, HostsFile>,
    certs_dir: Option<PathBuf>,
}

/// The files and what is in force of them.
#[derive(Debug, Default)]
pub struct Registries {
    paths: Paths,
    // Of the last reading. Held while the files are read, by threads that may wait.
    stamps: Mutex<Stamps>,
    // Held to copy a pointer; never over an await.
    in_force: Mutex<Arc<Snapshot>>,
}

type Stamps = Vec<(PathBuf, Option<Stamp>)>;

/// What changes when a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Registries {
    /// Reads the files. Blocks.
    pub fn open(paths: Paths) -> Result<Self, LoadError> {
        let stamps = stamps(&paths);
        let in_force = Mutex::new(Arc::new(Snapshot::read(&paths)?));
        Ok(Self { paths, stamps: Mutex::new(stamps), in_force })
    }

    /// What one `registries.conf` says, for ever.
    #[cfg(test)]
    pub(crate) fn fixed(conf: RegistriesConf) -> Self {
        let paths = Paths::default();
        let stamps = Mutex::new(stamps(&paths));
        Self { paths, stamps, in_force: Mutex::new(Arc::new(Snapshot::of(conf))) }
    }

    /// What was in force when last asked.
    pub fn in_force(&self) -> Arc<Snapshot> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is in force now: the files are read again if they have changed. Blocks.
    pub fn refreshed(&self) -> Arc<Snapshot> {
        let mut last = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the files are read: a change after this is seen the next time.
        let now = stamps(&self.paths);
        if *last != now {
            *last = now;
            match Snapshot::read(&self.paths) {
                Ok(snapshot) => {
                    tracing::info!("the configuration of registries has changed and is in force");
                    *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
                }
                Err(e) => {
                    let why = e.source_text();
                    tracing::error!("{e}{why}; the configuration of registries from before stays in force");
                }
            }
        }
        self.in_force()
    }
}

impl Snapshot {
    /// What one `registries.conf` alone says.
    #[cfg(test)]
    pub(crate) fn of(conf: RegistriesConf) -> Self {
        Self { conf, ..Self::default() }
    }

    /// The endpoints of an image.
    pub fn plan(&self, reference: &Reference) -> Plan {
        let hosts = self.hosts_of(reference.registry());
        Lookup { conf: &self.conf, hosts, certs_dir: self.certs_dir.as_deref() }.plan(reference)
    }

    /// `registries.conf` with its drop-ins.
    pub fn conf(&self) -> &RegistriesConf {
        &self.conf
    }

    /// The directory of a host: `host_port_`, `host:port`, or the one for all others.
    fn hosts_of(&self, registry: &str) -> Option<&HostsFile> {
        let escaped = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
        let names = [escaped.as_deref(), Some(registry), Some(DEFAULT_HOST)];
        names.into_iter().flatten().find_map(|name| self.hosts.get(name))
    }

    fn read(paths: &Paths) -> Result<Self, LoadError> {
        let mut conf = RegistriesConf::default();
        for path in conf_files(paths)? {
            let Some(text) = read(&path)? else { continue };
            let invalid = |source| LoadError::Invalid { path: path.clone(), source };
            let mut file = parse(&text).map_err(invalid)?;
            for registry in &mut file.registries {
                registry.origin = path.display().to_string();
            }
            warn(&path, &std::mem::take(&mut file.warnings));
            conf.lay_over(file).map_err(invalid)?;
        }
        let mut hosts = BTreeMap::new();
        for directory in entries(&paths.hosts_dir)? {
            let name = directory.file_name().and_then(|name| name.to_str());
            let (Some(name), true) = (name, directory.is_dir()) else { continue };
            hosts.insert(name.to_owned(), read_hosts(&directory)?);
        }
        let certs_dir = (!paths.certs_dir.as_os_str().is_empty()).then(|| paths.certs_dir.clone());
        Ok(Self { conf, hosts, certs_dir })
    }
}

impl LoadError {
    fn source_text(&self) -> String {
        std::error::Error::source(self).map(|source| format!(": {source}")).unwrap_or_default()
    }
}

/// One directory of `hosts_dir`; without a `hosts.toml` its certificates are for the registry itself, as Docker has it.
fn read_hosts(directory: &Path) -> Result<HostsFile, LoadError> {
    let path = directory.join("hosts.toml");
    match read(&path)? {
        Some(text) if !text.trim().is_empty() => {
            let file = parse_hosts(&text, directory)
                .map_err(|source| LoadError::Invalid { path: path.clone(), source })?;
            warn(&path, &file.warnings);
            Ok(file)
        }
        Some(_) | None => {
            let files = entries(directory)?;
            let with = |extension: &str| {
                let extension = extension.to_owned();
                files
                    .iter()
                    .filter(move |file| file.extension().is_some_and(|own| *own == *extension))
                    .cloned()
            };
            let client = with("cert").map(|cert| (cert.clone(), cert.with_extension("key"))).collect();
            Ok(HostsFile { ca: with("crt").collect(), client, ..HostsFile::default() })
        }
    }
}

fn warn(path: &Path, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
}

/// `registries.conf` and its drop-ins, in the order in which they are laid over each other.
fn conf_files(paths: &Paths) -> Result<Vec<PathBuf>, LoadError> {
    let main = &paths.registries_conf;
    if main.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let mut files = vec![main.clone()];
    let drop_ins = entries(&drop_in_dir(main))?.into_iter();
    files.extend(drop_ins.filter(|path| path.extension().is_some_and(|extension| extension == "conf")));
    Ok(files)
}

fn drop_in_dir(main: &Path) -> PathBuf {
    let mut directory = main.as_os_str().to_owned();
    directory.push(".d");
    directory.into()
}

/// What is in a directory, by name; nothing where there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, LoadError> {
    if directory.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let failed = |source| LoadError::Read { path: directory.to_owned(), source };
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed(e)),
    };
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry.map_err(failed)?.path());
        if paths.len() > MOST_ENTRIES {
            return Err(LoadError::TooMany { path: directory.to_owned(), limit: MOST_ENTRIES });
        }
    }
    paths.sort();
    Ok(paths)
}

/// The text of a file of bounded size; `None` where there is none.
fn read(path: &Path) -> Result<Option<String>, LoadError> {
    use std::io::Read;
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut text = String::new();
    file.take(LARGEST_FILE as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() > LARGEST_FILE {
        let source = ConfError::TooLarge(LARGEST_FILE);
        return Err(LoadError::Invalid { path: path.to_owned(), source });
    }
    Ok(Some(text))
}

/// The stamps of all that [`Snapshot::read`] reads.
fn stamps(paths: &Paths) -> Stamps {
    let mut files = conf_files(paths).unwrap_or_default();
    files.extend(files.first().map(|main| drop_in_dir(main)));
    files.push(paths.hosts_dir.clone());
    for directory in entries(&paths.hosts_dir).unwrap_or_default() {
        files.push(directory.join("hosts.toml"));
        files.push(directory);
    }
    let stamp = |path: PathBuf| {
        let stamp = fs::metadata(&path).ok().map(|metadata| Stamp {
            file: (metadata.dev(), metadata.ino(), metadata.size()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        });
        (path, stamp)
    };
    files.into_iter().map(stamp).collect()
}
