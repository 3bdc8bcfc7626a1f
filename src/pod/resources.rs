//! What a pod has of the node: files, shared memory, namespaces, a cgroup, its network. Each is made in this order and
//! undone in reverse; undoing what is not there succeeds, so that it can be done again after a crash at any point.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::chown;

use tracing::Instrument;

use super::Pods;
use super::error::{PodError, Stage};
use super::paths::PodPaths;
use super::sandbox::PodFacts;
use crate::api::{DnsConfig, PodSandboxConfig, Protocol};
use crate::cgroup::{self, CgroupPath, Driver};
use crate::id::PodId;
use crate::network::{Attachment, Dns, PortMapping, Protocol as NetworkProtocol};
use crate::selinux::{self, Labels};
use crate::sys::namespace::{self, NamespaceError, NamespaceRequest};
use crate::sys::{self, mount};

/// The size of a pod's `/dev/shm`, in bytes; what Docker and the peers give.
const SHM_BYTES: u64 = 64 << 20;
/// Everybody may write there, as to `/tmp`.
const SHM_MODE: u32 = 0o1777;

impl Pods {
    /// The pod's cgroup, and the topmost directory of it that is podd's to make and so to remove: none of a slice, which
    /// systemd makes with the first scope in it.
    pub(super) fn cgroup_of_pod(
        &self,
        id: &PodId,
        config: &PodSandboxConfig,
    ) -> Result<(CgroupPath, Option<CgroupPath>), PodError> {
        let asked = config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
        let own = own_cgroup(id);
        let asked = cgroup::parent(self.driver, asked, &own)
            .map_err(|e| PodError::invalid("config.linux.cgroup_parent", e.to_string()))?;
        if self.driver == Driver::Systemd {
            return Ok((asked, None));
        }
        // Two pods may share a parent that neither the kubelet nor anyone else made: whichever goes last removes it.
        let shared = self.index.pods().into_iter().find(|pod| pod.facts.cgroup == asked);
        let made = match shared {
            Some(pod) => pod.facts.made_cgroup.clone(),
            None => self.cgroups.first_missing(&asked),
        };
        Ok((asked, made))
    }

    /// Makes everything, and answers the pod's addresses.
    pub(super) async fn build(&self, facts: &PodFacts) -> Result<Vec<IpAddr>, PodError> {
        let paths = self.paths.pod(&facts.id);
        let stage = Stage::begin("writing the files", &facts.name);
        let labels = self.labels_of_pod(facts)?;
        stage.check(write_files(&paths, facts).and_then(|()| label_files(&paths, &labels)))?;
        if self.driver == Driver::Cgroupfs {
            let stage = Stage::begin("making the cgroup", &facts.name);
            stage.check(self.cgroups.create(&facts.cgroup))?;
            self.limit_new_pod(facts).await?;
        }
        if let Some(directory) = facts.log_directory() {
            let stage = Stage::begin("making the log directory", &directory.display());
            stage.check(fs::create_dir_all(&directory))?;
        }
        let stage = Stage::begin("making the namespaces", &facts.name);
        let (label, root) = (labels.mount, facts.root());
        let mut request = namespaces(&paths, facts);
        self.confinement.add_default_sysctls(&mut request);
        let shm = (!facts.host_ipc()).then(|| paths.shm.clone());
        let made = sys::blocking(move || -> Result<(), super::Cause> {
            if let Some(shm) = shm {
                fs::create_dir_all(&shm)?;
                mount::mount_tmpfs(&shm, SHM_BYTES, SHM_MODE, root, label.as_deref())?;
            }
            Ok(namespace::create_pinned(&request)?)
        });
        stage.check(made.await).map_err(name_the_sysctls)?;
        if facts.host_network() {
            return Ok(Vec::new());
        }
        let stage = Stage::begin("setting up the network", &facts.name);
        let attached = self.network.attach(&attachment(&paths, facts)).instrument(stage.span()).await;
        stage.check(attached).map(|network| network.ips)
    }

    /// Gives back what a stopped pod does not need: the network, the namespaces, the shared memory. An attachment that
    /// cannot be given back now must not hold the pod: it has a record of its own and is tried again (B6).
    pub(super) async fn release(&self, id: &PodId) -> Vec<PodError> {
        let paths = self.paths.pod(id);
        if let Ok(pod) = self.index.pod(id.as_str()) {
            pod.release_links();
        }
        let mut errors = Vec::new();
        let stage = Stage::begin("giving back the network", id);
        let detached = self.network.detach(id).instrument(stage.span()).await;
        if let Err(error) = stage.check(detached) {
            tracing::warn!(pod = %id, "will be tried again: {}", super::chain(&error));
        }
        errors.extend(self.end_pause(id).await.err());
        let pins = [paths.network, paths.ipc, paths.uts, paths.user];
        let released = sys::blocking(move || {
            let unpinned = pins.iter().map(|pin| namespace::unpin(pin)).filter_map(Result::err);
            let shm = mount::unmount(&paths.shm).and_then(|()| absent_is_fine(fs::remove_dir(&paths.shm)));
            unpinned.chain(shm.err()).collect::<Vec<_>>()
        });
        for error in released.await {
            let stage = Stage::begin("removing the namespaces", id);
            errors.extend(stage.check(Err::<(), _>(error)).err());
        }
        errors
    }

    /// Removes everything of a pod whose containers are gone. The record goes last, and only when nothing else is left;
    /// until then the background tries again, and so does the next start of the daemon.
    pub(super) async fn undo(&self, remains: &Remains) -> Vec<PodError> {
        let id = &remains.id;
        let mut errors = self.release(id).await;
        if let Some((path, top)) = remains.cgroup.clone() {
            let (stage, cgroups) = (Stage::begin("removing the cgroup", id), self.cgroups.clone());
            errors.extend(stage.check(sys::blocking(move || cgroups.remove_empty(&path, &top)).await).err());
        }
        if errors.is_empty() {
            let stage = Stage::begin("removing the files", id);
            errors.extend(stage.check(absent_is_fine(fs::remove_dir_all(self.paths.pod(id).dir))).err());
        }
        errors
    }
}

/// What is left to undo of a pod.
pub(super) struct Remains {
    pub(super) id: PodId,
    /// Its cgroup, and the topmost directory above it that podd made.
    cgroup: Option<(CgroupPath, CgroupPath)>,
}

impl Remains {
    pub(super) fn of(facts: &PodFacts) -> Self {
        let cgroup = facts.made_cgroup.clone().map(|top| (facts.cgroup.clone(), top));
        Self { id: facts.id.clone(), cgroup }
    }

    /// Of a pod whose record cannot be read (B17): what its ID alone names.
    pub(super) fn by_id(id: &PodId) -> Self {
        let cgroup = CgroupPath::new(&own_cgroup(id)).ok().map(|path| (path.clone(), path));
        Self { id: id.clone(), cgroup }
    }
}

/// The cgroup of a pod for which the client names none.
fn own_cgroup(id: &PodId) -> String {
    format!("/podd-pod-{id}")
}

/// A kernel parameter that does not exist or does not take its value is the client's mistake.
fn name_the_sysctls(error: PodError) -> PodError {
    let source = match &error {
        PodError::Stage { source, .. } => source.downcast_ref::<NamespaceError>(),
        _ => None,
    };
    match source {
        Some(source @ (NamespaceError::SysctlRefused { .. } | NamespaceError::Sysctl { .. })) => {
            PodError::invalid("config.linux.sysctls", super::chain(source))
        }
        _ => error,
    }
}

pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The host name that holds in the pod: as asked for; the node's own on its network.
pub(super) fn hostname(facts: &PodFacts) -> String {
    if facts.config.hostname.is_empty() {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    facts.config.hostname.clone()
}

fn write_files(paths: &PodPaths, facts: &PodFacts) -> io::Result<()> {
    fs::write(paths.hostname(), format!("{}\n", hostname(facts)))?;
    write_resolv_conf(paths, facts)?;
    let (uid, gid) = facts.root();
    [paths.hostname(), paths.resolv_conf()].iter().try_for_each(|path| chown(path, Some(uid), Some(gid)))
}

fn write_resolv_conf(paths: &PodPaths, facts: &PodFacts) -> io::Result<()> {
    match facts.config.dns_config.as_ref().map(resolv_conf) {
        Some(text) if !text.is_empty() => fs::write(paths.resolv_conf(), text),
        _ => fs::copy("/etc/resolv.conf", paths.resolv_conf()).map(drop).or_else(|e| match e.kind() {
            io::ErrorKind::NotFound => fs::write(paths.resolv_conf(), ""),
            _ => Err(e),
        }),
    }
}

/// The pod's files are for its containers, as its volumes are.
fn label_files(paths: &PodPaths, labels: &Labels) -> io::Result<()> {
    let Some(label) = &labels.mount else { return Ok(()) };
    [paths.hostname(), paths.resolv_conf()].iter().try_for_each(|path| selinux::label_file(path, label))
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn namespaces(paths: &PodPaths, facts: &PodFacts) -> NamespaceRequest {
    let host_network = facts.host_network();
    let sysctls = facts.config.linux.as_ref().map(|linux| &linux.sysctls);
    NamespaceRequest {
        net: (!host_network).then(|| paths.network.clone()),
        ipc: (!facts.host_ipc()).then(|| paths.ipc.clone()),
        // On the host's network a pod has the host's name too, as the kubelet asks.
        uts: (!host_network).then(|| paths.uts.clone()),
        user: facts.user_namespace().map(|ids| (paths.user.clone(), ids)),
        hostname: (!host_network).then(|| hostname(facts)),
        sysctls: sysctls.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

fn attachment(paths: &PodPaths, facts: &PodFacts) -> Attachment {
    let config = &facts.config;
    let dns = config.dns_config.clone().unwrap_or_default();
    let port = |port: i32| u16::try_from(port).unwrap_or_default();
    let mapping = |mapping: &crate::api::PortMapping| PortMapping {
        protocol: match mapping.protocol() {
            Protocol::Tcp => NetworkProtocol::Tcp,
            Protocol::Udp => NetworkProtocol::Udp,
            Protocol::Sctp => NetworkProtocol::Sctp,
        },
        container_port: port(mapping.container_port),
        host_port: port(mapping.host_port),
        host_ip: mapping.host_ip.parse().ok(),
    };
    Attachment {
        pod: facts.id.clone(),
        netns: paths.network.clone(),
        name: facts.name.name.clone(),
        namespace: facts.name.namespace.clone(),
        uid: facts.name.uid.clone(),
        port_mappings: config.port_mappings.iter().map(mapping).collect(),
        dns: Dns { servers: dns.servers, searches: dns.searches, options: dns.options },
        cgroup_parent: facts.cgroup.to_string(),
        annotations: config
            .annotations
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<BTreeMap<_, _>>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_written_in_its_own_order() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".into(), "fd00::a".into()],
            searches: vec!["ns.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search ns.svc.cluster.local svc.cluster.local\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
