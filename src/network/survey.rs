//! A look at the node's network from beside the daemon, for a person: every configuration file, every plugin, in its own
//! words. Reads and asks, and changes nothing: no record is opened.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::chain::{Chain, is_program};
use super::config::{self, CniVersion, InvalidConfig, MissingPlugin, NetworkList};
use super::error::PluginError;
use super::{LOOPBACK, PROBE};
use crate::config::NetworkConfig;

/// How long all plugins together may take to say which versions they know: each of them only prints a line.
const PATIENCE: Duration = Duration::from_secs(5);

/// The files of the configuration directory by name, each with what it describes.
#[derive(Debug)]
pub struct Survey {
    /// The first that is valid is the network of all pods.
    pub files: Vec<(PathBuf, Result<NetworkList, InvalidConfig>)>,
    plugin_dirs: Vec<PathBuf>,
}

/// What one plugin of the network said of itself.
#[derive(Debug)]
pub struct PluginAnswer {
    /// Its type.
    pub plugin: String,
    /// The versions of CNI that it speaks.
    pub versions: Result<Vec<String>, PluginError>,
}

impl Survey {
    /// Reads the directory. One that is missing is empty.
    pub fn of(network: &NetworkConfig) -> io::Result<Self> {
        let files = match config::files(&network.conf_dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            files => files?,
        };
        let files = files.into_iter().map(|path| {
            let list = config::load(&path);
            (path, list)
        });
        Ok(Self { files: files.collect(), plugin_dirs: network.plugin_dirs.clone() })
    }

    /// The network of new pods.
    pub fn selected(&self) -> Option<&NetworkList> {
        self.files.iter().find_map(|(_, list)| list.as_ref().ok())
    }

    /// The selected network's plugins that are not installed. `loopback` is never run, so it is not missed.
    pub fn missing(&self) -> Vec<String> {
        let plugins = self.selected().into_iter().flat_map(|list| &list.plugins).map(|plugin| plugin.kind());
        let installed = |kind: &str| self.plugin_dirs.iter().any(|dir| is_program(&dir.join(kind)));
        let missing = plugins.filter(|kind| *kind != LOOPBACK && !installed(kind));
        missing.map(str::to_owned).collect()
    }

    /// Asks each plugin of the selected network which versions it speaks (`VERSION`).
    pub async fn versions(&self) -> Result<Vec<PluginAnswer>, MissingPlugin> {
        let Some(list) = self.selected() else { return Ok(Vec::new()) };
        let chain = Chain::resolve(list, &self.plugin_dirs)?;
        let answers = chain.versions(Instant::now() + PATIENCE).await;
        Ok(answers.into_iter().map(|(plugin, versions)| PluginAnswer { plugin, versions }).collect())
    }

    /// Asks the plugins whether they could attach a pod now (`STATUS`); `None` where the network's version has no such
    /// question.
    pub async fn status(&self) -> Option<Result<(), PluginError>> {
        let list = self.selected().filter(|list| list.cni_version >= CniVersion::V1_1_0)?;
        let chain = Chain::resolve(list, &self.plugin_dirs).ok()?;
        Some(chain.status(Instant::now() + PROBE).await)
    }
}
