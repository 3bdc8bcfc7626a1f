//! The pod network: the runtime side of the Container Network Interface (CNI specification 1.1).
//!
//! ```text
//!  attach: configuration -> binaries -> record ==> ADD plugin 1..n -> result kept -> PodNetwork
//!                                          \\== flush          \ failed: DEL n..1, fresh deadline
//!  detach: record -> binaries -> DEL plugin n..1 -> record removed
//!                                     \ failed: record kept, queued, tried again with growing waits
//! ```
//!
//! A pod has a record from before the first plugin runs until DEL has succeeded, so whatever ends the daemon in between, no
//! address is lost: [`Network::release_orphans`] finds it at the next start. DEL works from the record alone, whatever has
//! become of the configuration and of the pod's namespace (B5). [`Network`] owns the cache directory; the namespaces are
//! the caller's, and so is the loopback interface in them. Operations on one pod follow one another.

mod attachment;
mod bandwidth;
mod chain;
mod config;
mod error;
mod links;
mod plugin;
mod records;
mod result;
mod retry;
mod stragglers;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::{OwnedMutexGuard, RwLock};
use tokio::time::Instant;

pub use self::attachment::{Attachment, Dns, PortMapping, Protocol};
pub use self::bandwidth::InvalidBandwidth;
pub use self::config::{CniVersion, InvalidConfig, MissingPlugin, NetworkList, NotReady, PluginConfig};
pub use self::error::{Command, Failure, NetworkError, PluginError};
pub use self::links::{Link, Links, Traffic};
pub use self::result::{Interface, PodNetwork, Route};
pub use self::survey::{PluginAnswer, Survey};

use self::chain::Chain;
use self::config::ConfigDir;
use self::records::{Record, Records};
use self::retry::Retries;
use crate::config::NetworkConfig;
use crate::id::PodId;
use crate::sys::namespace::is_pinned;
use crate::telemetry::chain;

/// The pod's interface, as Kubernetes has it.
const INTERFACE: &str = "eth0";

/// The plugin that is built in.
const LOOPBACK: &str = "loopback";

/// How many left-over attachments are released at a time: plugins of one network wait for each other's locks anyway.
const PARALLEL_RELEASES: usize = 4;

/// How long the plugins of a network may take to say whether they are ready.
const PROBE: Duration = Duration::from_secs(10);

/// How long the plugins of a network may take together. Both fit the kubelet's four minutes for RunPodSandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For ADD.
    pub add: Duration,
    /// For DEL, also after a failed ADD, and for GC.
    pub del: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { add: Duration::from_secs(90), del: Duration::from_secs(60) }
    }
}

/// The pod network of this node. A clone is the same network.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ConfigDir,
    plugin_dirs: Vec<PathBuf>,
    records: Records,
    timeouts: Timeouts,
    retries: Retries,
    /// Held for the look-up of a pod's own lock, which is held while its plugins run.
    turns: Mutex<HashMap<PodId, Arc<tokio::sync::Mutex<()>>>>,
    /// Read by what makes attachments, written by GC, which must know all of them.
    attachments: RwLock<()>,
}

impl Network {
    /// Opens the records, and waits for plugins that an earlier daemon left running; the configuration is read when it is
    /// needed.
    pub async fn open(config: &NetworkConfig) -> Result<Self, NetworkError> {
        Self::open_with(config, Timeouts::default()).await
    }

    /// As [`Self::open`], with other time limits.
    pub async fn open_with(config: &NetworkConfig, timeouts: Timeouts) -> Result<Self, NetworkError> {
        let records = Records::open(config.cache_dir.clone())?;
        stragglers::settled(&records.list().await?.into_iter().collect()).await;
        Ok(Self(Arc::new(Inner {
            config: ConfigDir::new(config.conf_dir.clone()),
            plugin_dirs: config.plugin_dirs.clone(),
            records,
            timeouts,
            retries: Retries::default(),
            turns: Mutex::default(),
            attachments: RwLock::default(),
        })))
    }

    /// Whether pods can be attached now; the error is the message of the CRI's `NetworkReady` condition (B23).
    ///
    /// A few stat(2) calls: cheap enough for every Status.
    pub fn status(&self) -> Result<(), NotReady> {
        let list = self.0.config.current()?;
        Chain::resolve(&list, &self.0.plugin_dirs)?;
        Ok(())
    }

    /// The network of new pods.
    pub fn current(&self) -> Result<Arc<NetworkList>, NotReady> {
        self.0.config.current()
    }

    /// What ADD gave for a pod, while it is attached; a file is read.
    pub fn result(&self, pod: &PodId) -> Option<Value> {
        self.0.records.read_result(pod)
    }

    /// As [`Self::status`], and asks the plugins themselves where the network's version has that (CNI 1.1 `STATUS`).
    ///
    /// This runs programs: for a background task now and then, not for every Status.
    pub async fn probe(&self) -> Result<(), NetworkError> {
        let list = self.0.config.current()?;
        let chain = Chain::resolve(&list, &self.0.plugin_dirs).map_err(NotReady::from)?;
        if list.cni_version >= CniVersion::V1_1_0 {
            chain.status(Instant::now() + PROBE).await?;
        }
        Ok(())
    }

    /// Attaches a pod to the network. After an error nothing of the attachment is left, or its release is queued.
    ///
    /// If the future is dropped, the plugin that runs is killed and the record stays: [`Self::detach`] has to follow.
    pub async fn attach(&self, pod: &Attachment) -> Result<PodNetwork, NetworkError> {
        let _attaching = self.0.attachments.read().await;
        let _turn = self.turn(&pod.pod).await;
        // What an attempt before this one may have left; without a record, a look-up of one file.
        self.release(&pod.pod).await?;
        let list = self.0.config.current()?;
        let chain = Chain::resolve(&list, &self.0.plugin_dirs).map_err(NotReady::from)?;
        let record = Record {
            pod: pod.pod.clone(),
            netns: pod.netns.clone(),
            interface: INTERFACE.to_owned(),
            args: pod.cni_args()?,
            capabilities: pod.capabilities()?,
            network: NetworkList::clone(&list),
        };
        let added = self.add(&chain, &record).await;
        if let Err(error) = &added {
            tracing::debug!(pod = %pod.pod, error = %error, "undoing the attachment");
            self.undo(&pod.pod).await;
        }
        added
    }

    /// Detaches a pod; one that has no record is detached already. The namespace may be gone.
    ///
    /// After an error the release is queued for [`Self::retry_pending`]: the caller logs it and goes on (B6).
    pub async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let _turn = self.turn(pod).await;
        self.release(pod).await
    }

    /// Detaches every recorded pod that is not among `known`: to be called once, at the daemon's start.
    ///
    /// `known` are the pods that are to keep their network, so those that were being stopped do not belong to it.
    pub async fn release_orphans(&self, known: &HashSet<PodId>) -> Vec<(PodId, Result<(), NetworkError>)> {
        let recorded = match self.0.records.list().await {
            Ok(recorded) => recorded,
            Err(error) => {
                tracing::error!(%error, "CNI records cannot be listed: left-over addresses stay taken");
                return Vec::new();
            }
        };
        let orphans = recorded.into_iter().filter(|pod| !known.contains(pod));
        let releases = orphans.map(|pod| async {
            let released = self.detach(&pod).await;
            (pod, released)
        });
        futures_util::stream::iter(releases).buffer_unordered(PARALLEL_RELEASES).collect().await
    }

    /// Tries failed detachments again, with waits that grow from a second to five minutes. Never returns: a task of its own.
    pub async fn retry_pending(&self) {
        loop {
            let due = self.0.retries.due().await;
            let retry = |pod: PodId| async move {
                match self.detach(&pod).await {
                    Ok(()) => tracing::info!(%pod, "pod network released at last"),
                    Err(error) => {
                        tracing::warn!(%pod, error = chain(&error), "pod network still not released")
                    }
                }
            };
            futures_util::stream::iter(due).for_each_concurrent(PARALLEL_RELEASES, retry).await;
        }
    }

    /// How many detachments wait to be tried again.
    pub fn pending(&self) -> usize {
        self.0.retries.len()
    }

    /// Has the plugins drop what they hold for no recorded pod (CNI 1.1 `GC`), if the network's version has that.
    ///
    /// Nothing is done while a pod is being attached; the caller asks again later. Attaching waits for a collection.
    pub async fn gc(&self) -> Result<(), Vec<NetworkError>> {
        let Ok(_alone) = self.0.attachments.try_write() else { return Ok(()) };
        let Ok(list) = self.0.config.current() else { return Ok(()) };
        if list.cni_version < CniVersion::V1_1_0 || list.disable_gc {
            return Ok(());
        }
        let mut valid = Vec::new();
        for pod in self.0.records.list().await.map_err(|e| vec![e.into()])? {
            match self.0.records.load(&pod).await {
                Ok(Some((record, _))) if record.network.name == list.name => {
                    valid.push((pod, record.interface))
                }
                Ok(_) => {}
                // A record that cannot be read may be one of a running pod: better not to collect anything.
                Err(e) => return Err(vec![e.into()]),
            }
        }
        let chain = Chain::resolve(&list, &self.0.plugin_dirs).map_err(|e| vec![e.into()])?;
        let failures = chain.gc(&valid, Instant::now() + self.0.timeouts.del).await;
        if failures.is_empty() { Ok(()) } else { Err(failures.into_iter().map(NetworkError::from).collect()) }
    }

    /// Records the intent, then runs the plugins while it is flushed.
    async fn add(&self, chain: &Chain<'_>, record: &Record) -> Result<PodNetwork, NetworkError> {
        self.0.records.write(record).await?;
        let deadline = Instant::now() + self.0.timeouts.add;
        let (flushed, added) = tokio::join!(self.0.records.flush(&record.pod), chain.add(record, deadline));
        let network = added?;
        flushed?;
        if network.ips.is_empty() {
            return Err(NetworkError::NoAddress { network: record.network.name.clone() });
        }
        self.0.records.write_result(&record.pod, &network.result).await?;
        Ok(network)
    }

    /// DEL after a failed ADD, which the error of ADD outweighs.
    async fn undo(&self, pod: &PodId) {
        if let Err(error) = self.release(pod).await {
            tracing::warn!(%pod, error = chain(&error), "a failed attachment could not be undone, it is queued");
        }
    }

    /// DEL from the record, and its removal; a failure is queued.
    async fn release(&self, pod: &PodId) -> Result<(), NetworkError> {
        let released = self.del(pod).await;
        match &released {
            Ok(()) => self.0.retries.done(pod),
            Err(_) => self.0.retries.failed(pod),
        }
        released
    }

    async fn del(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some((record, result)) = self.0.records.load(pod).await? else { return Ok(()) };
        let chain = Chain::resolve(&record.network, &self.0.plugin_dirs)?;
        let deadline = Instant::now() + self.0.timeouts.del;
        chain.del(&record, result.as_ref(), is_pinned(&record.netns), deadline).await?;
        Ok(self.0.records.remove(pod).await?)
    }

    /// Waits until no other operation on the pod is under way.
    async fn turn(&self, pod: &PodId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever waits or works holds a second reference, and takes it under this lock.
            turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            turns.entry(pod.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}
