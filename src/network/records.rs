//! Records of attachments: what DEL has to be called with, kept from before ADD until DEL has succeeded.
//!
//! A pod has two files in the cache directory. `<id>.json`, the intent, is written before the first plugin runs and never
//! changed; it is flushed, so that a reboot leaves no address that nobody knows of, and the flush overlaps the plugins'
//! run. `<id>.result` is what ADD gave. It is not flushed: DEL may be called without a result (CNI specification,
//! section 4), so one that a power cut took or tore costs nothing, and rewriting the intent for it could cost the intent.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use super::config::NetworkList;
use super::error::NetworkError;
use crate::id::PodId;
use crate::record::{self, Durability, RecordError};

/// Everything that plugins were told about an attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The sandbox.
    pub(super) pod: PodId,
    /// Its network namespace.
    pub(super) netns: PathBuf,
    /// The interface in it.
    pub(super) interface: String,
    /// `CNI_ARGS`.
    pub(super) args: String,
    /// The values of the capabilities.
    pub(super) capabilities: Map<String, Value>,
    /// The network as it was configured then.
    pub(super) network: NetworkList,
}

/// The cache directory.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    /// Makes the directory, for root alone because configurations may hold secrets, and sweeps what a crash left.
    pub(super) fn open(directory: PathBuf) -> Result<Self, NetworkError> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let prepare = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
            record::sweep(&directory)
        };
        prepare().map_err(|source| NetworkError::Open { path: directory.clone(), source })?;
        Ok(Self(directory))
    }

    fn intent(&self, pod: &PodId) -> PathBuf {
        self.0.join(format!("{pod}.json"))
    }

    fn result(&self, pod: &PodId) -> PathBuf {
        self.0.join(format!("{pod}.result"))
    }

    /// Writes the intent; [`Self::flush`] makes it survive a power cut.
    pub(super) async fn write(&self, record: &Record) -> Result<(), RecordError> {
        let (path, record) = (self.intent(&record.pod), record.clone());
        blocking(path.clone(), move || record::write(&path, &record, Durability::Process)).await
    }

    /// Flushes the intent and its name to the disk.
    pub(super) async fn flush(&self, pod: &PodId) -> Result<(), RecordError> {
        let (path, directory) = (self.intent(pod), self.0.clone());
        let operation = move || {
            let flushed = File::open(&path)
                .and_then(|file| file.sync_data())
                .and_then(|()| File::open(&directory)?.sync_all());
            flushed.map_err(|source| RecordError::Io { operation: "flush", path, source })
        };
        blocking(self.intent(pod), operation).await
    }

    /// Keeps what ADD gave.
    pub(super) async fn write_result(&self, pod: &PodId, result: &Value) -> Result<(), RecordError> {
        let (path, result) = (self.result(pod), result.clone());
        blocking(path.clone(), move || record::write(&path, &result, Durability::Process)).await
    }

    /// What ADD gave, if it is there and whole.
    pub(super) fn read_result(&self, pod: &PodId) -> Option<Value> {
        record::read(&self.result(pod)).unwrap_or_default()
    }

    /// The intent, and the result where there is one that is whole.
    pub(super) async fn load(&self, pod: &PodId) -> Result<Option<(Record, Option<Value>)>, RecordError> {
        let (intent, result) = (self.intent(pod), self.result(pod));
        let operation = move || {
            let Some(found) = record::read::<Record>(&intent)? else { return Ok(None) };
            Ok(Some((found, record::read(&result).unwrap_or_default())))
        };
        blocking(self.intent(pod), operation).await
    }

    /// Removes both files, the intent last.
    pub(super) async fn remove(&self, pod: &PodId) -> Result<(), RecordError> {
        let (intent, result) = (self.intent(pod), self.result(pod));
        let operation = move || record::remove(&result).and_then(|()| record::remove(&intent));
        blocking(self.intent(pod), operation).await
    }

    /// All pods that have a record, also a damaged one.
    pub(super) async fn list(&self) -> Result<Vec<PodId>, RecordError> {
        let directory = self.0.clone();
        let operation = move || {
            let names = fs::read_dir(&directory).and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
            });
            let names =
                names.map_err(|source| RecordError::Io { operation: "list", path: directory, source })?;
            Ok(names.iter().filter_map(|name| name.to_str()?.strip_suffix(".json")?.parse().ok()).collect())
        };
        blocking(self.0.clone(), operation).await
    }
}

/// Runs file operations away from the async threads.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    operation: impl FnOnce() -> Result<T, RecordError> + Send + 'static,
) -> Result<T, RecordError> {
    spawn_blocking(operation)
        .await
        .unwrap_or_else(|e| Err(RecordError::Io { operation: "handle", path, source: io::Error::other(e) }))
}
