//! The spec files of the configured directories, and which of them has a device.
//!
//! A later directory wins over an earlier one. Two files of one directory with the same device are a conflict, which is an
//! error only to who asks for that device; the same with a file that is broken.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::document::{self, Document, DocumentError, Form};
use super::name::DeviceName;

/// The largest spec file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The most spec files of one directory.
const MAX_FILES: usize = 1024;

/// A spec file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct Broken {
    /// The file, or the directory.
    pub path: PathBuf,
    /// What is wrong.
    pub why: BrokenWhy,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum BrokenWhy {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It says what it must not.
    #[error("{0}")]
    Document(#[from] DocumentError),
}

/// A spec file.
#[derive(Debug)]
pub(super) struct SpecFile {
    pub(super) path: PathBuf,
    pub(super) document: Document,
}

/// Where a device is described.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: Rc<SpecFile>,
    /// The device's index in the file.
    pub(super) device: usize,
}

/// All that the directories hold.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Each device with the files of the last directory that has it: more than one is a conflict.
    pub(super) devices: BTreeMap<DeviceName, Vec<Place>>,
    /// Files that cannot be used.
    pub(super) broken: Vec<Broken>,
}

/// Reads the directories; one that is missing is empty.
pub(super) fn find(directories: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for directory in directories {
        let mut here: BTreeMap<DeviceName, Vec<Place>> = BTreeMap::new();
        for (path, form) in found.files(directory) {
            match read(&path, form) {
                Ok(document) => list(&Rc::new(SpecFile { path, document }), &mut here),
                Err(why) => found.broken.push(Broken { path, why }),
            }
        }
        found.devices.extend(here);
    }
    found
}

impl Found {
    fn files(&mut self, directory: &Path) -> Vec<(PathBuf, Form)> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    self.broken.push(Broken { path: directory.to_owned(), why: BrokenWhy::Unreadable(e) });
                }
                return Vec::new();
            }
        };
        let form = |path: &Path| match path.extension()?.to_str()? {
            "json" => Some(Form::Json),
            "yaml" => Some(Form::Yaml),
            _ => None,
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files: Vec<_> = paths.filter_map(|path| Some((form(&path)?, path))).collect();
        files.sort_by(|a, b| a.1.cmp(&b.1));
        if files.len() > MAX_FILES {
            let why = io::Error::other(format!("it holds more than {MAX_FILES} spec files"));
            self.broken.push(Broken { path: directory.to_owned(), why: BrokenWhy::Unreadable(why) });
            files.truncate(MAX_FILES);
        }
        files.into_iter().map(|(form, path)| (path, form)).collect()
    }
}

fn read(path: &Path, form: Form) -> Result<Document, BrokenWhy> {
    let mut bytes = Vec::new();
    // A FIFO by that name would hold the reader for ever.
    let regular = fs::metadata(path).map_err(BrokenWhy::Unreadable)?.is_file();
    if !regular {
        return Err(BrokenWhy::Unreadable(io::Error::other("it is not a file")));
    }
    let file = File::open(path).map_err(BrokenWhy::Unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(BrokenWhy::Unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(BrokenWhy::Unreadable(io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    Ok(document::parse(&bytes, form)?)
}

fn list(file: &Rc<SpecFile>, devices: &mut BTreeMap<DeviceName, Vec<Place>>) {
    for (device, described) in file.document.devices.iter().enumerate() {
        let name = DeviceName { kind: file.document.kind.clone(), name: described.name.clone() };
        devices.entry(name).or_default().push(Place { file: Rc::clone(file), device });
    }
}
