//! Small state files: one JSON document per object, replaced whole and never edited in place.
//!
//! A write goes to a temporary name in the same directory and is renamed, so a reader sees the old or the new document and
//! nothing between. [`Durability`] says whether the file also has to survive a power cut: what lies on tmpfs does not,
//! because a reboot ends all that it describes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The ending of files that were being written when the daemon died; [`sweep`] removes them.
const TEMPORARY: &str = ".tmp";

/// What a written record has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the daemon: rename without a flush.
    Process,
    /// A power cut: the file and its directory are flushed.
    Power,
}

/// A record that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// The record's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not the JSON document that it should be.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The record's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// Writes `value` to `path`, whole or not at all.
pub fn write<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<(), RecordError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|source| RecordError::Damaged { path: path.to_owned(), source })?;
    replace(path, &text, durability)
}

/// Writes `bytes` to `path`, whole or not at all.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), RecordError> {
    let temporary = temporary_name(path);
    let result = write_and_rename(&temporary, path, bytes, durability);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(|source| RecordError::Io { operation: "write", path: path.to_owned(), source })
}

/// Makes the directory that a record is to lie in.
pub fn make_parent(path: &Path) -> Result<(), RecordError> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(|source| RecordError::Io {
        operation: "make the directory",
        path: directory.to_owned(),
        source,
    })
}

/// Reads the record at `path`; `None` when there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecordError::Io { operation: "read", path: path.to_owned(), source }),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| RecordError::Damaged { path: path.to_owned(), source })
}

/// Removes the record at `path`; one that is not there is a success.
pub fn remove(path: &Path) -> Result<(), RecordError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(RecordError::Io { operation: "remove", path: path.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

/// Removes what interrupted writes left in `directory`.
pub fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(TEMPORARY) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    PathBuf::from(name)
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    if durability == Durability::Power {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(temporary, path)?;
    match (durability, path.parent()) {
        (Durability::Power, Some(directory)) => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole_and_its_remains_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(read::<u32>(&path).unwrap(), None);
        write(&path, &1u32, Durability::Process).unwrap();
        write(&path, &2u32, Durability::Power).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), Some(2));
        fs::write(temporary_name(&path), "half").unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "{").unwrap();
        let error = read::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("a.json is damaged"), "{error}");
    }
}
