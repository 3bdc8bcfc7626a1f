//! One operation on the plugins of a network, in order (CNI specification, section 3).
//!
//! ADD runs forwards and hands each plugin the result of the one before. DEL runs backwards with the result of ADD. Both
//! end at the first failure, as the specification has it: a plugin may stand on what the one before it did. The `loopback`
//! plugin is never run: its work is done when the namespace is made.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::LOOPBACK;
use super::config::{CniVersion, MissingPlugin, NetworkList, PluginConfig};
use super::error::{Command, Failure, PluginError};
use super::plugin::{Run, printable};
use super::records::Record;
use super::result::PodNetwork;
use crate::id::PodId;
use crate::telemetry;

/// A plugin's configuration and binary.
type Step<'a> = (&'a PluginConfig, PathBuf);

/// The plugins of one network with their binaries.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    network: &'a NetworkList,
    plugins: Vec<Step<'a>>,
    /// `CNI_PATH`.
    search: OsString,
}

impl<'a> Chain<'a> {
    /// Finds every binary before any is run.
    pub(super) fn resolve(network: &'a NetworkList, directories: &[PathBuf]) -> Result<Self, MissingPlugin> {
        let search = directories.iter().map(|path| path.as_os_str()).collect::<Vec<_>>().join(":".as_ref());
        let plugins = network
            .plugins
            .iter()
            .filter(|plugin| plugin.kind() != LOOPBACK)
            .map(|plugin| {
                let path = directories.iter().map(|d| d.join(plugin.kind())).find(|path| is_program(path));
                let path = path.ok_or_else(|| MissingPlugin {
                    plugin: plugin.kind().to_owned(),
                    network: network.name.clone(),
                    directories: search.to_string_lossy().replace(':', ", "),
                })?;
                Ok((plugin, path))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { network, plugins, search })
    }

    /// Attaches a pod; what the last plugin gave.
    pub(super) async fn add(&self, record: &Record, deadline: Instant) -> Result<PodNetwork, PluginError> {
        let environment = self.environment(record, true);
        let mut network = PodNetwork::loopback(self.network.cni_version, &record.netns);
        for (index, step) in self.plugins.iter().enumerate() {
            let previous = (index > 0).then_some(&network.result);
            let config = self.config(step.0, previous, Some(&record.capabilities));
            network = self.run(step, Command::Add, &environment, config, deadline, read_result).await?;
        }
        Ok(network)
    }

    /// Detaches a pod; `alive` says whether its network namespace is still there. Goes on past a plugin that fails, so that
    /// one which never succeeds does not keep the address that another has given out; answers the first failure.
    pub(super) async fn del(
        &self,
        record: &Record,
        result: Option<&Value>,
        alive: bool,
        deadline: Instant,
    ) -> Result<(), PluginError> {
        let environment = self.environment(record, alive);
        let result = result.filter(|_| self.network.cni_version >= CniVersion::V0_4_0);
        let mut first = Ok(());
        for step in self.plugins.iter().rev() {
            let config = self.config(step.0, result, Some(&record.capabilities));
            let run = self.run(step, Command::Del, &environment, config, deadline, |_| Ok(()));
            first = first.and(run.await);
        }
        first
    }

    /// Tells every plugin which attachments are valid, so that it can drop what it holds for others; goes on past failures.
    pub(super) async fn gc(&self, valid: &[(PodId, String)], deadline: Instant) -> Vec<PluginError> {
        let environment = [("CNI_PATH", self.search.clone())];
        let valid: Vec<Value> =
            valid.iter().map(|(pod, interface)| json!({"containerID": pod, "ifname": interface})).collect();
        let mut failures = Vec::new();
        for step in &self.plugins {
            let mut config = self.config(step.0, None, None);
            config.insert("cni.dev/valid-attachments".to_owned(), Value::Array(valid.clone()));
            let run = self.run(step, Command::Gc, &environment, config, deadline, |_| Ok(()));
            failures.extend(run.await.err());
        }
        failures
    }

    /// Asks every plugin whether it could attach a pod now; ends at the first that could not.
    pub(super) async fn status(&self, deadline: Instant) -> Result<(), PluginError> {
        let environment = [("CNI_PATH", self.search.clone())];
        for step in &self.plugins {
            let config = self.config(step.0, None, None);
            self.run(step, Command::Status, &environment, config, deadline, |_| Ok(())).await?;
        }
        Ok(())
    }

    /// Asks every plugin which versions it speaks, all at once, since none of them does anything.
    pub(super) async fn versions(
        &self,
        deadline: Instant,
    ) -> Vec<(String, Result<Vec<String>, PluginError>)> {
        let environment = [("CNI_PATH", self.search.clone())];
        let ask = |step| {
            let environment = &environment;
            async move {
                let (plugin, _): &Step<'_> = step;
                let config = self.config(plugin, None, None);
                let run = self.run(step, Command::Version, environment, config, deadline, read_versions);
                (plugin.kind().to_owned(), run.await)
            }
        };
        join_all(self.plugins.iter().map(ask)).await
    }

    /// One plugin; `read` judges its output.
    async fn run<T>(
        &self,
        (plugin, path): &Step<'_>,
        command: Command,
        environment: &[(&'static str, OsString)],
        config: Map<String, Value>,
        deadline: Instant,
        read: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<T, PluginError> {
        let config = Value::Object(config).to_string();
        let run = Run { path, command, environment, config: config.as_bytes(), deadline };
        let step = telemetry::Step::begin(command.stage(), plugin.kind());
        let output = run.execute().await.and_then(|output| read(&output));
        let failed = output.as_ref().err().map(|failure| failure as &dyn std::error::Error);
        let elapsed = step.end(failed).took;
        telemetry::metrics().plugin(plugin.kind(), command.as_str(), elapsed, failed.is_none());
        output.map_err(|failure| PluginError {
            plugin: plugin.kind().to_owned(),
            network: self.network.name.clone(),
            command,
            elapsed,
            failure: Box::new(failure),
        })
    }

    fn environment(&self, record: &Record, alive: bool) -> [(&'static str, OsString); 5] {
        let netns = if alive { record.netns.as_os_str().to_owned() } else { OsString::new() };
        [
            ("CNI_CONTAINERID", record.pod.as_str().into()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", record.interface.clone().into()),
            ("CNI_ARGS", record.args.clone().into()),
            ("CNI_PATH", self.search.clone()),
        ]
    }

    /// The plugin's own configuration with what the runtime adds to it (section 3, "deriving request configuration").
    fn config(
        &self,
        plugin: &PluginConfig,
        previous: Option<&Value>,
        capabilities: Option<&Map<String, Value>>,
    ) -> Map<String, Value> {
        let mut config = plugin.object().clone();
        config.remove("capabilities");
        config.insert("name".to_owned(), json!(self.network.name));
        config.insert("cniVersion".to_owned(), json!(self.network.cni_version));
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        let wanted: Map<String, Value> = capabilities
            .into_iter()
            .flatten()
            .filter(|(name, _)| plugin.wants(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !wanted.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(wanted));
        }
        config
    }
}

/// What ADD printed, if it is a result.
fn read_result(output: &[u8]) -> Result<PodNetwork, Failure> {
    serde_json::from_slice(output)
        .map_err(|e| e.to_string())
        .and_then(PodNetwork::parse)
        .map_err(|reason| Failure::Result { reason, stdout: printable(output) })
}

/// What VERSION printed, if it is an answer.
fn read_versions(output: &[u8]) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "supportedVersions")]
        supported: Vec<String>,
    }
    serde_json::from_slice::<Answer>(output)
        .map(|answer| answer.supported.into_iter().map(|version| printable(version.as_bytes())).collect())
        .map_err(|e| Failure::Result { reason: e.to_string(), stdout: printable(output) })
}

pub(super) fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
