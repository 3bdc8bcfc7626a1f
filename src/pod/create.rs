//! CreateContainer: from the request to an init that waits for its start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podd_monitor::protocol::{Overlay, Settings};
use tracing::Instrument;

use super::adjust::{self, Handler};
use super::background::Unwanted;
use super::bundle::Bundle;
use super::confine::mount_options;
use super::container::{
    Container, ContainerFacts, ContainerName, ContainerRecord, ContainerRequest, ContainerStage,
};
use super::devices;
use super::error::{Cause, PodError, Stage, chain};
use super::names::Claim;
use super::pause::pid_mode;
use super::resources::hostname;
use super::sandbox::{Pod, RECORD_VERSION};
use super::state::{ContainerState, now};
use super::volumes::{self, ImageVolume};
use super::{Pods, signal};
use crate::api::{self, ContainerConfig, NamespaceMode};
use crate::apparmor::AppArmorFacts;
use crate::cgroup;
use crate::id::ContainerId;
use crate::image::rootfs::RootFs;
use crate::image::{Image, ImageErrorKind, Lease};
use crate::monitor::{self, Created, Launch};
use crate::record::{self, Durability};
use crate::runtime::Runtime;
use crate::selinux::Labels;
use crate::spec::observe;
use crate::spec::user::{self, ResolvedUser, UserError, UserRequest};
use crate::spec::{self, HostFacts, Namespaces, PodFiles, SpecError, SpecInput};

/// The largest `/etc/passwd` or `/etc/group` of an image that is read, in bytes.
const USER_FILE_MAX: u64 = 4 << 20;

/// What a pod of the host's network sees where nobody gives it a file of its own.
const HOSTS: &str = "/etc/hosts";

impl Pods {
    /// Makes a container, or joins the call that is making it, or finds the one that was made (B1).
    pub async fn create_container(
        self: &Arc<Self>,
        request: ContainerRequest,
    ) -> Result<Arc<Container>, Arc<PodError>> {
        let pod = self.pod(&request.pod).map_err(Arc::new)?;
        let name =
            ContainerName { pod: pod.facts.id.clone(), name: request.name.clone(), attempt: request.attempt };
        let id = match self.container_names.claim(&name) {
            Claim::Taken(id) => return self.created_before(&id, &name, &request).map_err(Arc::new),
            Claim::InFlight(flight) => flight.outcome().await?,
            Claim::New(reservation) => {
                let timeline = Arc::clone(&pod.timeline);
                let making = Box::pin(self.make_container(pod, name, request));
                let made = timeline.scope(making).await.map_err(Arc::new);
                reservation.settle(made)?
            }
        };
        self.container(id.as_str()).map_err(Arc::new)
    }

    /// A retry of a call whose answer was lost.
    fn created_before(
        &self,
        id: &ContainerId,
        name: &ContainerName,
        request: &ContainerRequest,
    ) -> Result<Arc<Container>, PodError> {
        let container = self.container(id.as_str())?;
        if container.facts.config == request.config {
            return Ok(container);
        }
        let difference = "made with another configuration";
        Err(PodError::Exists { name: name.to_string(), id: id.to_string(), difference })
    }

    async fn make_container(
        self: &Arc<Self>,
        pod: Arc<Pod>,
        name: ContainerName,
        request: ContainerRequest,
    ) -> Result<ContainerId, PodError> {
        let _transition = pod.transition.lock().await;
        if !pod.is_ready() {
            let (kind, id) = ("pod sandbox", pod.facts.id.to_string());
            return Err(PodError::State {
                kind,
                id,
                state: "stopped",
                wanted: "containers need a ready one",
            });
        }
        let (image, lease) = self.image_of(&request.config)?;
        self.verify_image(&pod, request.config.image.as_ref(), &image).await?;
        let draft = self.draft(&pod, name, request.config, image).await?;
        let id = draft.facts.id.clone();
        let stage = Stage::begin("recording the intent", &draft.facts.name);
        if let Err(error) = stage.check(self.write_container(&draft.facts, None, ContainerStage::Unsettled)) {
            let _ = fs::remove_dir_all(self.paths.container(&id).dir);
            return Err(error);
        }
        let made = self.bring_up(&pod, &draft).instrument(draft.facts.span()).await;
        drop(lease);
        match made {
            Ok(created) => {
                tracing::info!(container = %id, pod = %pod.facts.id, name = %draft.facts.name, "container is created");
                let (process, monitor) = (created.process, Some(created.monitor));
                let container =
                    Container::new(draft.facts, Arc::clone(&pod), process, ContainerState::Created, monitor);
                self.adopt(container);
                Ok(id)
            }
            Err(error) => {
                self.undo_or_retry(Unwanted::Container(id, Some(draft.facts.cgroup))).await;
                Err(error)
            }
        }
    }

    /// The image that the request names, held against removal.
    fn image_of(&self, config: &ContainerConfig) -> Result<(Arc<Image>, Lease), PodError> {
        let asked = config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
        let stage = Stage::begin("looking up the image", &asked);
        let found = self.images.find(asked);
        if let Err(error) = &found
            && error.kind() == ImageErrorKind::Invalid
        {
            return Err(PodError::invalid("config.image.image", chain(error)));
        }
        let image = stage.check(found)?;
        let image = image.ok_or_else(|| PodError::NoImage(asked.to_owned()))?;
        if let Some(kind) = &image.artifact {
            let reason = format!("it is an artifact ({kind:?}), and not a container image");
            return Err(PodError::invalid("config.image.image", reason));
        }
        let lease = self.images.lease(&image.id).ok_or_else(|| PodError::NoImage(asked.to_owned()))?;
        Ok((image, lease))
    }

    /// The signature policy of the pod's namespace decides anew, by the name that the pod's author wrote.
    pub(super) async fn verify_image(
        &self,
        pod: &Pod,
        spec: Option<&api::ImageSpec>,
        image: &Arc<Image>,
    ) -> Result<(), PodError> {
        let asked = spec.map_or("", |spec| match spec.user_specified_image.as_str() {
            "" => &spec.image,
            written => written,
        });
        let namespace = pod.facts.config.metadata.as_ref().map_or("", |pod| pod.namespace.as_str());
        let stage = Stage::begin("verifying the image", &image.id);
        stage.check(self.images.verify(image, asked, namespace).await)
    }

    /// All that can be known before anything is made.
    async fn draft<'a>(
        self: &'a Arc<Self>,
        pod: &Arc<Pod>,
        name: ContainerName,
        config: ContainerConfig,
        image: Arc<Image>,
    ) -> Result<Draft<'a>, PodError> {
        let runtime = self.runtime(&pod.facts.handler).await?;
        let user = self.user_of(&name, &config, &image)?;
        let limit = self.layer_limit(runtime.name(), &pod.facts.config, &config)?;
        let volumes = self.image_volumes(pod, &config).await?;
        let id = ContainerId::generate();
        let cgroup = cgroup::location(self.driver, &pod.facts.cgroup, id.as_str())
            .map_err(|e| PodError::invalid("sandbox_config.linux.cgroup_parent", e.to_string()))?;
        let (stop_signal, cri_stop_signal) = signal::to_stop(&config, &image.config)?;
        let facts = ContainerFacts {
            image: image.id.clone(),
            runtime: runtime.name().to_owned(),
            created_at: now(),
            log_path: log_path(pod, &config),
            cgroup: cgroup.path,
            stop_signal,
            cri_stop_signal,
            own_pid_namespace: pid_mode(&config) == NamespaceMode::Container,
            user: api::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.additional_gids.iter().map(|gid| i64::from(*gid)).collect(),
            },
            volumes: volumes::images_of(&volumes),
            id,
            name,
            config,
        };
        let pids = self.pid_namespace(pod, &facts.config).await?;
        let labels = self.labels_of_container(pod, &facts.config, &image)?;
        Ok(Draft { facts, image, limit, volumes, user, runtime, cgroups_path: cgroup.spec, pids, labels })
    }

    fn user_of(
        &self,
        name: &ContainerName,
        config: &ContainerConfig,
        image: &Image,
    ) -> Result<ResolvedUser, PodError> {
        let read = |path: &str| -> Result<Vec<u8>, PodError> {
            let stage = Stage::begin("reading the image's users", &name);
            Ok(stage.check(self.images.read_file(image, path, USER_FILE_MAX))?.unwrap_or_default())
        };
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let image_user = image.config.config().as_ref().and_then(|config| config.user().clone());
        let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
        let request = UserRequest::new(context, image_user.as_deref().unwrap_or_default());
        user::resolve(&request, &passwd, &group).map_err(|error| match error {
            UserError::GroupWithoutUser => PodError::invalid(
                "config.linux.security_context.run_as_group",
                "it needs run_as_user or run_as_username beside it",
            ),
            UserError::NotAnId { field, value } => {
                PodError::invalid(format!("config.{field}"), format!("{value} is not a user or group ID"))
            }
            other => PodError::invalid("config.linux.security_context", other.to_string()),
        })
    }

    /// Makes the writable layer, the bundle and the process. Whatever fails is undone by the caller.
    async fn bring_up(&self, pod: &Pod, draft: &Draft<'_>) -> Result<Created, PodError> {
        let (facts, paths) = (&draft.facts, self.paths.container(&draft.facts.id));
        let stage = Stage::begin("making the writable layer", &facts.name);
        let rootfs = stage.check(self.images.prepare_rootfs(&draft.image, &facts.id))?;
        let stage = Stage::begin("limiting the writable layer", &facts.name);
        stage.check(self.disk.add(&facts.id, draft.limit))?;
        let volumes = self.volume_layers(draft)?;
        if let Some(directory) = facts.log_path.parent().filter(|_| !facts.log_path.as_os_str().is_empty()) {
            let stage = Stage::begin("making the log directory", &directory.display());
            stage.check(fs::create_dir_all(directory))?;
        }
        let mut spec = self.spec(pod, draft, self.apparmor.prepare().await)?;
        adjust::finish(&self.config, &pod.facts.config, &facts.config, &mut spec)?;
        self.label_volumes(pod, facts, &draft.labels).await?;
        let stage = Stage::begin("writing the runtime's configuration", &facts.name);
        let written = serde_json::to_vec(&spec).map_err(Cause::from);
        stage.check(written.and_then(|text| Ok(fs::write(paths.spec(), text)?)))?;
        let settings = Settings { volumes, ..self.monitor_settings(pod, draft, rootfs) };
        let launch = Launch { binary: self.monitor.clone(), settings };
        let stage = Stage::begin("creating the container with its runtime", &facts.name);
        let created = stage.launched(monitor::launch(&launch).await);
        let created = created.map_err(|error| self.impossible_mount(draft).unwrap_or(error))?;
        let stage = Stage::begin("committing the container", &facts.name);
        stage.check(created.monitor.commit().await)?;
        let settled = ContainerStage::Settled { process: created.process, state: ContainerState::Created };
        let stage = Stage::begin("recording the container", &facts.name);
        stage.check(self.write_container(facts, None, settled))?;
        Ok(created)
    }

    fn spec(
        &self,
        pod: &Pod,
        draft: &Draft<'_>,
        apparmor: AppArmorFacts,
    ) -> Result<oci_spec::runtime::Spec, PodError> {
        let (facts, paths) = (&draft.facts, self.paths.pod(&pod.facts.id));
        let (mounts, default_mounts) = (self.mount_sources(draft)?, self.default_mounts()?);
        let rootfs = self.paths.rootfs();
        let shm = if pod.facts.host_ipc() { PathBuf::from("/dev/shm") } else { paths.shm.clone() };
        let (resolv_conf, hostname_file) = (paths.resolv_conf(), paths.hostname());
        let host = self.host_facts(facts, apparmor)?;
        let Handler { settings, base } = self.handler(&facts.runtime)?;
        let annotations = adjust::annotations(settings, &pod.facts.config, &facts.config);
        let devices = devices::of(&self.config.devices, &facts.config, &annotations, &draft.user)?;
        let input = SpecInput {
            config: &facts.config,
            pod: &pod.facts.config,
            pod_id: &pod.facts.id,
            image: &draft.image.config,
            user: &draft.user,
            rootfs: &rootfs,
            cgroups_path: &draft.cgroups_path,
            pids_limit: self.config.cgroup.pids_limit,
            hostname: &hostname(&pod.facts),
            namespaces: Namespaces { pid: draft.pids.as_deref(), ..paths.namespaces(&pod.facts) },
            features: draft.runtime.features(),
            files: PodFiles {
                resolv_conf: Some(&resolv_conf),
                hostname: Some(&hostname_file),
                hosts: Some(Path::new(HOSTS)).filter(|hosts| pod.facts.host_network() && hosts.is_file()),
                shm: Some(&shm),
            },
            mounts: &mounts,
            default_mounts: &default_mounts,
            devices: &devices,
            annotations: &annotations,
            capabilities: &self.confinement.capabilities,
            seccomp: &self.confinement.seccomp.filter(&facts.config).map_err(name_the_field)?,
            labels: &draft.labels,
            base,
            privileged_devices: devices::of_privileged(settings),
            host: &host,
        };
        spec::build(&input).map_err(name_the_field)
    }

    /// What is known of the host, with its device nodes where the container is to have them.
    fn host_facts(&self, facts: &ContainerFacts, apparmor: AppArmorFacts) -> Result<HostFacts, PodError> {
        let host = HostFacts { apparmor, ..self.host.clone() };
        let context = facts.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        if !context.is_some_and(|context| context.privileged) {
            return Ok(host);
        }
        let stage = Stage::begin("listing the host's devices", &facts.name);
        Ok(HostFacts { devices: stage.check(observe::host_devices())?, ..host })
    }

    fn monitor_settings(&self, pod: &Pod, draft: &Draft<'_>, rootfs: RootFs) -> Settings {
        let (facts, paths) = (&draft.facts, self.paths.container(&draft.facts.id));
        let bundle = Bundle {
            id: facts.id.as_str(),
            dir: &paths.dir,
            exit: paths.exit,
            cgroup: &facts.cgroup,
            overlay: Overlay {
                lower: rootfs.lower,
                upper: rootfs.upper,
                work: rootfs.work,
                options: mount_options(&draft.labels),
                owned: false,
            },
            user_namespace: self.paths.pod(&pod.facts.id).monitor_user_namespace(&pod.facts),
            terminal: facts.config.tty,
        };
        Settings {
            stdin: facts.config.stdin,
            log_path: facts.log_path.clone(),
            log_size_max: self.config.monitor.log_size_max,
            log_rate: self.config.monitor.log_rate,
            log_rate_burst: self.config.monitor.log_rate_burst,
            directories: self.declared_volumes(&draft.image),
            links: volumes::links(),
            ..self.settings(draft.runtime, bundle)
        }
    }

    pub(super) fn write_container(
        &self,
        facts: &ContainerFacts,
        updated: Option<&api::LinuxContainerResources>,
        stage: ContainerStage,
    ) -> Result<(), record::RecordError> {
        let path = self.paths.container(&facts.id).record();
        let record = ContainerRecord {
            version: RECORD_VERSION,
            boot_id: self.boot_id.clone(),
            facts: facts.clone(),
            resources: updated.cloned(),
            stage,
        };
        record::make_parent(&path)?;
        record::write(&path, &record, Durability::Process)
    }
}

/// A container that is about to be made.
pub(super) struct Draft<'a> {
    pub(super) facts: ContainerFacts,
    pub(super) image: Arc<Image>,
    pub(super) volumes: Vec<ImageVolume>,
    /// The most bytes that its writable layer may take.
    limit: Option<u64>,
    user: ResolvedUser,
    runtime: &'a Runtime,
    /// Its cgroup in the runtime's words.
    cgroups_path: String,
    /// A PID namespace to join.
    pids: Option<PathBuf>,
    labels: Labels,
}

fn name_the_field(error: SpecError) -> PodError {
    match error {
        SpecError::Invalid { field, why } | SpecError::Unsupported { field, why } => {
            PodError::invalid(format!("config.{field}"), why)
        }
    }
}

fn log_path(pod: &Pod, config: &ContainerConfig) -> PathBuf {
    match (pod.facts.log_directory(), config.log_path.as_str()) {
        (Some(directory), path) if !path.is_empty() => directory.join(path),
        _ => PathBuf::new(),
    }
}
