//! The life of pods and containers: every transition, and recovery after a restart.
//!
//! [`Pods`] owns all of them. A mutating operation takes its pod's `transition` lock for as long as it changes something,
//! writes its intent to the record before the first effect, and publishes the new state when it is true. Readers see the
//! published states and wait for nothing. The lock is not held across grace periods or exec. Exits come as events from the
//! monitors (`watch.rs`) and need no lock.
//!
//! ```text
//!   run.rs create.rs start.rs stop.rs remove.rs exec.rs     one file per transition
//!   update.rs limits.rs                                     other limits for what is there; a pod's as a whole
//!   resources.rs pause.rs                                   what a pod has of the node, made and undone
//!   bundle.rs signal.rs volumes.rs                          what a monitor is told; stop signals; what is mounted
//!   confine.rs                                              labels, filters and default rights
//!   layer.rs                                                what the writable layer may take
//!   adjust.rs devices.rs                                    what else a container's document is made of
//!   names.rs index.rs                                       single flight by name, lookup by ID and prefix
//!   sandbox.rs container.rs state.rs paths.rs               the objects, their records, their states
//!   stage.rs                                                what takes time, measured and named
//!   abilities.rs stats/                                     what the node and its runtimes can do; what pods use
//!   watch.rs background.rs recovery/                        exits, what is tried again, what a restart finds
//!   events/ inspect.rs                                      what happens, told to whoever listens; what else can be seen
//! ```

mod abilities;
mod adjust;
mod background;
mod bundle;
mod confine;
mod container;
mod create;
mod devices;
mod error;
mod events;
mod exec;
mod index;
mod inspect;
mod layer;
pub mod leftovers;
mod limits;
mod names;
mod paths;
mod pause;
mod recovery;
mod remove;
mod resources;
mod run;
mod sandbox;
mod signal;
mod stage;
mod start;
mod state;
mod stats;
mod stop;
mod update;
mod volumes;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OnceCell};

use crate::apparmor::AppArmor;
use crate::cgroup::{CgroupPath, Cgroups, Driver};
use crate::config::Config;
use crate::disk::Disk;
use crate::id::{ContainerId, PodId};
use crate::image::Images;
use crate::network::Network;
use crate::runtime::Runtime;
use crate::spec::{Base, HostFacts};
use crate::sys;
use crate::sys::process::BootId;
pub use abilities::user_namespaces_on;
use background::Unwanted;
use confine::Confinement;
pub use container::{Container, ContainerFacts, ContainerName, ContainerRequest};
use error::Stage;
pub use error::{Cause, PodError, chain};
pub use events::{ContainerView, Event, EventKind, EventNumbers, Events, EventsError, PodView, Reader};
pub use exec::Attachment;
use index::Index;
pub use inspect::PodProcess;
pub use limits::PodResources;
use names::Names;
use paths::Paths;
pub use pause::needs_linker;
pub use sandbox::{Pod, PodFacts, PodName, PodRequest};
pub use state::{ContainerState, Exit, Nanos, PodState, Reason, now};
use stats::Requests;
pub use stats::{ContainerDetails, ContainerUsage, FileSystem, Measured, NodeDetails, PodDetails, PodUsage};
pub use update::PodUpdate;

/// All pods and containers of the node, and what they are made with.
pub struct Pods {
    config: Arc<Config>,
    paths: Paths,
    images: Images,
    disk: Disk,
    network: Network,
    runtimes: BTreeMap<String, OnceCell<Runtime>>,
    /// Whether pods can have user namespaces, or what is lacking.
    user_namespaces: OnceCell<Result<(), String>>,
    /// What each handler's documents start from.
    bases: BTreeMap<String, Base>,
    cgroups: Cgroups,
    /// Who makes the cgroups.
    driver: Driver,
    /// All monitors' cgroup, if they are not to stay in the daemon's.
    monitor_cgroup: Option<CgroupPath>,
    host: HostFacts,
    apparmor: AppArmor,
    boot_id: BootId,
    monitor: PathBuf,
    index: Index,
    events: Events,
    pod_names: Arc<Names<PodName, PodId>>,
    container_names: Arc<Names<ContainerName, ContainerId>>,
    confinement: Confinement,
    /// What could not be undone yet.
    unfinished: Mutex<Vec<Unwanted>>,
    /// Something was made, or could not be undone: the background has to look at it.
    attention: Notify,
    /// When stats were asked for.
    requests: Requests,
}

/// The node cannot hold pods.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct OpenError {
    operation: String,
    #[source]
    source: Cause,
}

impl OpenError {
    fn new<E: Into<Cause>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self { operation, source: source.into() }
    }
}

impl Pods {
    /// Prepares the directories and mounts, and takes up again what an earlier daemon left.
    pub async fn open(config: Arc<Config>, images: Images, network: Network) -> Result<Arc<Self>, OpenError> {
        let paths = Paths::new(&config.run_dir, &config.network.netns_dir);
        let cgroups = Cgroups::detect().map_err(OpenError::new("find the cgroup hierarchies"))?;
        let driver = Driver::in_force(config.cgroup_driver).map_err(OpenError::new("make cgroups"))?;
        let monitor_cgroup = CgroupPath::new(&config.monitor.cgroup).ok().filter(|path| !path.is_root());
        let host = HostFacts::observe(cgroups.mode()).map_err(OpenError::new("look at the host"))?;
        let confinement = Confinement::new(&config, &host)?;
        let pods = Arc::new(Self {
            confinement,
            paths,
            disk: Disk::open(&config.disk, &images.places().containers),
            images,
            network,
            bases: adjust::bases(&config)?,
            runtimes: config.runtimes.keys().map(|name| (name.clone(), OnceCell::new())).collect(),
            user_namespaces: OnceCell::new(),
            // Device nodes come and go: they are looked for when a container needs them.
            host: HostFacts { devices: Vec::new(), ..host },
            apparmor: AppArmor::open(&config.apparmor).await,
            cgroups,
            driver,
            monitor_cgroup,
            boot_id: BootId::current().map_err(OpenError::new("read the boot ID"))?,
            monitor: monitor_path(&config)?,
            index: Index::default(),
            events: Events::new(),
            pod_names: Names::new(),
            container_names: Names::new(),
            unfinished: Mutex::default(),
            attention: Notify::new(),
            requests: Requests::default(),
            config,
        });
        // After all that can be wrong with the configuration, so that a daemon that does not start leaves no mounts.
        prepare(&pods.paths)?;
        pods.make_monitor_cgroup();
        recovery::run(&pods).await?;
        Ok(pods)
    }

    /// With systemd, which cgroups hand down which controllers is its own business. A cgroup beside its slices is none of
    /// it: it neither looks at nor removes what it has not made.
    fn make_monitor_cgroup(&self) {
        let Some(cgroup) = &self.monitor_cgroup else { return };
        let made = match self.driver {
            Driver::Cgroupfs => self.cgroups.create(cgroup),
            Driver::Systemd => self.cgroups.create_as_is(cgroup),
        };
        if let Err(error) = made {
            tracing::warn!("the monitors stay in the daemon's own cgroup: {}", chain(&error));
        }
    }

    /// Undoes what [`open`](Self::open) prepared, where no pod needs it any more.
    pub fn close(&self) {
        if self.index.pods().is_empty() {
            let _ = sys::mount::unmount(&self.paths.mounts());
            if let Some(cgroup) = &self.monitor_cgroup {
                let _ = self.cgroups.remove_tree(cgroup);
            }
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cgroup driver in force.
    pub fn cgroup_driver(&self) -> Driver {
        self.driver
    }

    /// The node's AppArmor.
    pub fn apparmor(&self) -> &AppArmor {
        &self.apparmor
    }

    /// What happens to pods and containers.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The images that containers are made from.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// What the containers' writable layers take.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The pod network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// All pods.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.index.pods()
    }

    /// All containers.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.index.containers()
    }

    /// The containers of one pod.
    pub fn containers_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        self.index.containers_of(pod)
    }

    /// The pod with this ID or unique prefix.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>, PodError> {
        self.index.pod(id)
    }

    /// The container with this ID or unique prefix.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, PodError> {
        self.index.container(id)
    }

    /// Whether pods that name no handler can be run.
    pub fn runtime_ready(&self) -> Result<(), String> {
        let name = &self.config.default_runtime;
        match self.config.runtimes.get(name) {
            Some(runtime) if runtime.path.is_file() => Ok(()),
            Some(runtime) => Err(format!("the default runtime {name} is not at {}", runtime.path.display())),
            None => Err(format!("the default runtime {name} is not configured")),
        }
    }

    /// The OCI runtime for a RuntimeClass handler; the empty name is the default's. It is asked for its version when it is
    /// first needed, so that one that is installed later needs no restart.
    async fn runtime(&self, handler: &str) -> Result<&Runtime, PodError> {
        let name = if handler.is_empty() { &self.config.default_runtime } else { handler };
        let (Some(cell), Some(config)) = (self.runtimes.get(name), self.config.runtimes.get(name)) else {
            return Err(self.unknown_handler(name));
        };
        let stage = Stage::begin("asking the runtime for its version", &name);
        stage.check(
            cell.get_or_try_init(|| Runtime::probe(name, config, self.driver == Driver::Systemd)).await,
        )
    }

    fn unknown_handler(&self, name: &str) -> PodError {
        let known = self.runtimes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        PodError::UnknownHandler { name: name.to_owned(), known }
    }
}

fn prepare(paths: &Paths) -> Result<(), OpenError> {
    fs::create_dir_all(paths.mounts())
        .map_err(OpenError::new(format!("make {}", paths.mounts().display())))?;
    for directory in [paths.pods(), paths.containers(), paths.exits()] {
        for_root_alone(&directory).map_err(OpenError::new(format!("make {}", directory.display())))?;
    }
    let mounts = paths.mounts();
    let private = sys::mount::ensure_private_mount(&mounts);
    private.map_err(OpenError::new(format!("make {} a private mount", mounts.display())))?;
    for directory in [paths.namespaces(), paths.shared_memory()] {
        for_root_alone(&directory).map_err(OpenError::new(format!("make {}", directory.display())))?;
    }
    let rootfs = paths.rootfs();
    fs::create_dir_all(&rootfs).map_err(OpenError::new(format!("make {}", rootfs.display())))?;
    // Root in a user namespace is another user here, and has to get through to its root filesystem.
    let passage = fs::set_permissions(&mounts, fs::Permissions::from_mode(0o711));
    passage.map_err(OpenError::new(format!("open {} for passage", mounts.display())))?;
    let shared = sys::mount::ensure_shared_mount(paths.netns_dir());
    shared.map_err(OpenError::new(format!("make {} a shared mount", paths.netns_dir().display())))
}

/// Makes a directory that only root looks into: the environment of containers, which is in them, may hold secrets.
fn for_root_alone(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// The monitor's binary: as configured, else beside podd's own.
pub fn monitor_path(config: &Config) -> Result<PathBuf, OpenError> {
    let path = if config.monitor.path.as_os_str().is_empty() {
        let own = std::env::current_exe().map_err(OpenError::new("find podd's own binary"))?;
        own.with_file_name("podd-monitor")
    } else {
        config.monitor.path.clone()
    };
    match path.is_file() {
        true => Ok(path),
        false => Err(OpenError::new(format!("find {}; set `monitor.path`", path.display()))(
            io::Error::from(io::ErrorKind::NotFound),
        )),
    }
}
