//! The document of a pause container: PID 1 of a pod whose containers share one PID namespace.
//!
//! Its root filesystem is empty but for the monitor's own binary, so that nothing of the host can be reached through
//! `/proc/1/root` from a container beside it; it has no rights and joins the pod's other namespaces.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, Mount, Process, Root, Spec, User,
};

use super::linux::namespace;
use super::{HostFacts, Namespaces, OCI_VERSION, userns};
use crate::sys::namespace::{IdMaps, IdRange};

/// Where the binary is inside; also how the process is called.
pub const BINARY: &str = "pause";
/// Directories that the root filesystem must have: the runtimes do not do without them.
pub const DIRECTORIES: [&str; 2] = ["proc", "dev"];
/// A user that nobody is.
const USER: u32 = 65_535;
/// As the kubelet has its pause containers: gone last but for the node's own services.
const OOM_SCORE_ADJ: i32 = -998;

/// What a pause container is made of.
#[derive(Debug, Clone)]
pub struct PauseInput<'a> {
    /// Where the runtime finds the root filesystem.
    pub rootfs: &'a Path,
    /// The monitor's binary, linked statically.
    pub binary: &'a Path,
    /// `linux.cgroupsPath`.
    pub cgroups_path: &'a str,
    /// The pod's other namespaces.
    pub namespaces: Namespaces<'a>,
    /// The IDs of the pod's user namespace, if it has one.
    pub ids: Option<IdMaps>,
    /// What is known of the host.
    pub host: &'a HostFacts,
    /// The label of the process.
    pub label: Option<String>,
}

/// Makes the runtime's document.
pub fn build(input: &PauseInput<'_>) -> Spec {
    let mut root = Root::default();
    root.set_path(input.rootfs.to_owned()).set_readonly(Some(true));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(&input.namespaces)))
        .set_uid_mappings(input.ids.map(|ids| vec![userns::mapping(ids.uids)]))
        .set_gid_mappings(input.ids.map(|ids| vec![userns::mapping(ids.gids)]))
        .set_cgroups_path(Some(PathBuf::from(input.cgroups_path)))
        .set_resources(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(process(input)))
        .set_mounts(Some(mounts(input.binary)))
        .set_linux(Some(linux))
        .set_annotations(super::annotations::for_systemd(input.cgroups_path).map(|own| [own].into()));
    spec
}

fn process(input: &PauseInput<'_>) -> Process {
    let none = || Some(std::collections::HashSet::new());
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(none())
        .set_effective(none())
        .set_inheritable(none())
        .set_permitted(none())
        .set_ambient(none());
    let mut user = User::default();
    let nobody = |ids: Option<IdRange>| ids.map_or(USER, |ids| USER.min(ids.count - 1));
    user.set_uid(nobody(input.ids.map(|ids| ids.uids)))
        .set_gid(nobody(input.ids.map(|ids| ids.gids)))
        .set_additional_gids(None);
    let mut process = Process::default();
    process
        .set_args(Some(vec![format!("/{BINARY}"), "pause".to_owned()]))
        .set_env(Some(Vec::new()))
        .set_cwd(PathBuf::from("/"))
        .set_user(user)
        .set_terminal(Some(false))
        .set_capabilities(Some(capabilities))
        .set_rlimits(None)
        .set_no_new_privileges(Some(true))
        .set_selinux_label(input.label.clone())
        .set_oom_score_adj(Some(
            input.host.oom_score_adj_floor.map_or(OOM_SCORE_ADJ, |floor| OOM_SCORE_ADJ.max(floor)),
        ));
    process
}

fn mounts(binary: &Path) -> Vec<Mount> {
    let kernel = |destination: &str, kind: &str, options: &[&str]| {
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(destination))
            .set_typ(Some(kind.to_owned()))
            .set_source(Some(PathBuf::from(kind)))
            .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
        mount
    };
    let proc = kernel("/proc", "proc", &["nosuid", "nodev", "noexec"]);
    let dev = kernel("/dev", "tmpfs", &["nosuid", "noexec", "mode=755", "size=64k"]);
    let mut pause = Mount::default();
    pause
        .set_destination(Path::new("/").join(BINARY))
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(binary.to_owned()))
        .set_options(Some(["bind", "ro", "nosuid", "nodev"].map(str::to_owned).into()));
    vec![proc, dev, pause]
}

fn namespaces(pod: &Namespaces<'_>) -> Vec<LinuxNamespace> {
    let own = [LinuxNamespaceType::Mount, LinuxNamespaceType::Pid].map(|typ| namespace(typ, None));
    let joined = [
        (LinuxNamespaceType::User, pod.user),
        (LinuxNamespaceType::Network, pod.network),
        (LinuxNamespaceType::Ipc, pod.ipc),
        (LinuxNamespaceType::Uts, pod.uts),
    ];
    let joined = joined.into_iter().filter_map(|(typ, path)| path.map(|path| namespace(typ, Some(path))));
    own.into_iter().chain(joined).collect()
}
