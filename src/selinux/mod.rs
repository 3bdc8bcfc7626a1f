//! SELinux: which labels pods and containers get, and the labels of volumes.
//!
//! ```text
//! mod.rs     whose labels, by the request, the pod and the configuration
//! mcs.rs     the pair of categories that tells one pod from another
//! relabel.rs the label of all that is in a volume
//! ```
//!
//! A pod's level is chosen when it is made, stays in its record, and is no other pod's of the node. What the request
//! says wins over that: a container's options over the pod's, each field by itself. Nothing is labelled where the
//! kernel has SELinux off. The leaf knows of no pod: whoever calls says which levels are taken.

mod mcs;
mod relabel;

use crate::api::{LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption};
use crate::config::{SelinuxConfig, UseSelinux};

pub use mcs::{Levels, Reservation};
pub use relabel::{RelabelError, Trust, label_file, relabel};

/// The type of processes that SELinux does not confine.
const UNCONFINED: &str = "spc_t";

/// The field that the options come in.
const FIELD: &str = "linux.security_context.selinux_options";

/// The labels of one container, or of what a pod has of its own; `None` is no label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Of its processes.
    pub process: Option<String>,
    /// Of its root filesystem, and of all that is mounted for it.
    pub mount: Option<String>,
    /// Whether volumes are given the mount label.
    pub relabel: bool,
}

/// What decides about labels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The pod's options.
    pub pod: Option<&'a SeLinuxOption>,
    /// The container's options, which win field by field.
    pub container: Option<&'a SeLinuxOption>,
    /// The level of the pod, for those that ask for none.
    pub level: Option<&'a str>,
    /// Whether it is privileged.
    pub privileged: bool,
    /// Which namespaces are the host's.
    pub namespaces: Option<&'a NamespaceOption>,
    /// Whether its first process is an init, such as systemd.
    pub init: bool,
}

/// Options that make no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidOption {
    /// The CRI field, from the top of the configuration.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

/// The node's rules.
#[derive(Debug)]
pub struct Selinux {
    config: Option<SelinuxConfig>,
}

impl Selinux {
    /// The rules where the kernel has SELinux enabled or not.
    pub fn new(config: &SelinuxConfig, enabled: bool) -> Self {
        let used = match config.enabled {
            UseSelinux::Auto => enabled,
            UseSelinux::Never => false,
        };
        Self { config: used.then(|| config.clone()) }
    }

    /// How many categories there are, where labels are given.
    pub fn categories(&self) -> Option<u16> {
        self.config.as_ref().map(|config| u16::try_from(config.mcs_range).unwrap_or(u16::MAX))
    }

    /// The labels that a request leads to. As on the peers a privileged container that asks for nothing has none, nor
    /// has one in the host's PID or IPC namespace, where it could not do what it is there for, unless it names a type.
    pub fn labels(&self, request: &Request<'_>) -> Result<Labels, InvalidOption> {
        let Some(config) = &self.config else { return Ok(Labels::default()) };
        let asked = Asked::of(request)?;
        let host = |mode: fn(&NamespaceOption) -> NamespaceMode| {
            request.namespaces.is_some_and(|options| mode(options) == NamespaceMode::Node)
        };
        if asked.kind.is_none() && (host(NamespaceOption::pid) || host(NamespaceOption::ipc)) {
            return Ok(Labels::default());
        }
        let kind = match (asked.kind, request.privileged, request.init) {
            (Some(kind), _, _) => kind,
            (None, true, _) => UNCONFINED,
            (None, false, true) => &config.init_type,
            (None, false, false) => &config.process_type,
        };
        let (user, role) = (asked.user.unwrap_or("system_u"), asked.role.unwrap_or("system_r"));
        let level = asked.level.or(request.level).unwrap_or("s0");
        let open_network = host(NamespaceOption::network) && config.host_network_disable_selinux;
        let process = match request.privileged {
            true => !asked.is_empty(),
            false => asked.kind.is_some() || !open_network,
        };
        let file = &config.file_type;
        Ok(Labels {
            process: process.then(|| format!("{user}:{role}:{kind}:{level}")),
            mount: (!request.privileged).then(|| format!("{user}:object_r:{file}:{level}")),
            relabel: kind != UNCONFINED,
        })
    }
}

/// The options that hold, each from the container or else from the pod.
#[derive(Debug, Default)]
struct Asked<'a> {
    user: Option<&'a str>,
    role: Option<&'a str>,
    kind: Option<&'a str>,
    level: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn of(request: &Request<'a>) -> Result<Self, InvalidOption> {
        let pick = |of: fn(&SeLinuxOption) -> &String| {
            let both = [request.container, request.pod].into_iter().flatten();
            both.map(|options| of(options).as_str()).find(|value| !value.is_empty())
        };
        let asked = Self {
            user: pick(|options| &options.user),
            role: pick(|options| &options.role),
            kind: pick(|options| &options.r#type),
            level: pick(|options| &options.level),
        };
        let invalid = |name: &str, value: &str, expected: &str| InvalidOption {
            field: format!("{FIELD}.{name}"),
            why: format!("{value:?} is not {expected}"),
        };
        for (name, value) in [("user", asked.user), ("role", asked.role), ("type", asked.kind)] {
            if let Some(value) = value.filter(|value| !is_name(value)) {
                return Err(invalid(name, value, "a name of letters, digits, '_', '-' and '.'"));
            }
        }
        match asked.level.filter(|level| !is_level(level)) {
            Some(level) => Err(invalid("level", level, "a level such as s0 or s0:c1,c2")),
            None => Ok(asked),
        }
    }

    fn is_empty(&self) -> bool {
        [self.user, self.role, self.kind, self.level].iter().all(Option::is_none)
    }
}

/// The level that a pod's own options ask for.
pub fn asked_level(pod: Option<&SeLinuxOption>) -> Option<String> {
    pod.map(|options| options.level.clone()).filter(|level| !level.is_empty())
}

/// What a container's request says.
pub fn of_container(context: Option<&LinuxContainerSecurityContext>) -> Request<'_> {
    let Some(context) = context else { return Request::default() };
    Request {
        container: context.selinux_options.as_ref(),
        privileged: context.privileged,
        namespaces: context.namespace_options.as_ref(),
        ..Request::default()
    }
}

/// Whether a program is an init that manages services, by the name that it is started under.
pub fn is_init(program: &str) -> bool {
    program.ends_with("/sbin/init") || program.rsplit('/').next() == Some("systemd")
}

/// A user, a role or a type: nothing that ends a part of a label, or a mount option that a label is in.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn is_level(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':' | b',');
    !text.is_empty() && text.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(user: &str, role: &str, kind: &str, level: &str) -> SeLinuxOption {
        SeLinuxOption { user: user.into(), role: role.into(), r#type: kind.into(), level: level.into() }
    }

    fn selinux(enabled: bool) -> Selinux {
        let config = crate::config::Config::defaults("/".as_ref(), "/run".as_ref()).selinux;
        Selinux::new(&config, enabled)
    }

    fn labels(request: &Request<'_>) -> (Option<String>, Option<String>) {
        let labels = selinux(true).labels(request).unwrap();
        (labels.process, labels.mount)
    }

    fn some(process: &str, mount: &str) -> (Option<String>, Option<String>) {
        (Some(process.to_owned()), Some(mount.to_owned()))
    }

    #[test]
    fn a_containers_options_win_over_the_pods_field_by_field_and_both_over_the_pods_level() {
        let plain = Request { level: Some("s0:c1,c2"), ..Request::default() };
        let (process, file) =
            ("system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(labels(&plain), some(process, file));
        let (pod, own) = (options("pod_u", "", "pod_t", "s0:c5,c6"), options("", "", "own_t", ""));
        let of_pod = Request { pod: Some(&pod), ..plain };
        let expected = some("pod_u:system_r:pod_t:s0:c5,c6", "pod_u:object_r:container_file_t:s0:c5,c6");
        assert_eq!(labels(&of_pod), expected);
        let both = Request { container: Some(&own), ..of_pod };
        assert_eq!(labels(&both).0.as_deref(), Some("pod_u:system_r:own_t:s0:c5,c6"));
        let init = Request { init: true, ..plain };
        assert_eq!(labels(&init).0.as_deref(), Some("system_u:system_r:container_init_t:s0:c1,c2"));
        let named = Request { init: true, ..both };
        assert_eq!(labels(&named).0.as_deref(), Some("pod_u:system_r:own_t:s0:c5,c6"));
    }

    #[test]
    fn b27_what_is_privileged_or_in_the_hosts_namespaces_is_not_confined() {
        let privileged = Request { privileged: true, level: Some("s0:c1,c2"), ..Request::default() };
        assert_eq!(labels(&privileged), (None, None));
        let level = options("", "", "", "s0:c3");
        let asked = Request { container: Some(&level), ..privileged };
        assert_eq!(labels(&asked), (Some("system_u:system_r:spc_t:s0:c3".into()), None));
        let mut host = NamespaceOption { pid: NamespaceMode::Node.into(), ..Default::default() };
        let pids = Request { namespaces: Some(&host), ..Request::default() };
        assert_eq!(labels(&pids), (None, None));
        let own = options("", "", "own_t", "");
        let named = some("system_u:system_r:own_t:s0", "system_u:object_r:container_file_t:s0");
        assert_eq!(labels(&Request { container: Some(&own), ..pids }), named, "nothing asked for is dropped");
        host = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        let network = Request { namespaces: Some(&host), ..Request::default() };
        assert_eq!(labels(&network), (None, Some("system_u:object_r:container_file_t:s0".into())));
        assert_eq!(labels(&Request { container: Some(&own), ..network }), named);
        let super_type = options("", "", "spc_t", "");
        let spc = Request { pod: Some(&super_type), ..Request::default() };
        assert!(!selinux(true).labels(&spc).unwrap().relabel, "it reaches every volume as it is");
        assert!(selinux(true).labels(&Request::default()).unwrap().relabel);
        assert_eq!(selinux(false).labels(&spc), Ok(Labels::default()), "the kernel has SELinux off");
    }

    #[test]
    fn an_option_that_would_be_two_is_named() {
        for (options, field) in [
            (options("a:b", "", "", ""), "user"),
            (options("", "a b", "", ""), "role"),
            (options("", "", "a\"", ""), "type"),
            (options("", "", "", "s0\nx"), "level"),
            (options("", "", "", "s0 c1"), "level"),
        ] {
            let request = Request { container: Some(&options), ..Request::default() };
            let error = selinux(true).labels(&request).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("linux.security_context.selinux_options.{field}: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn an_init_is_known_by_its_name() {
        for (program, expected) in [
            ("/sbin/init", true),
            ("/usr/sbin/init", true),
            ("/lib/systemd/systemd", true),
            ("systemd", true),
            ("/bin/sh", false),
            ("/usr/bin/systemd-notify", false),
        ] {
            assert_eq!(is_init(program), expected, "{program}");
        }
    }
}
