//! Requests become domain types here, once. A field that is missing or malformed is named; what only the node can judge
//! (a runtime's name, a mount's source) is judged where the node is known.

use std::net::IpAddr;
use std::path::{Component, Path};

use crate::api;
use crate::pod::{ContainerRequest, PodError, PodName, PodRequest};
use crate::spec::{SpecError, userns};
use crate::sys::namespace::IdMaps;

/// The longest host name (gethostname(2), `HOST_NAME_MAX`), in bytes.
const HOSTNAME_MAX: usize = 64;

type Checked<T = ()> = Result<T, PodError>;

/// RunPodSandbox.
pub(super) fn run_pod(request: api::RunPodSandboxRequest) -> Checked<PodRequest> {
    let config = request.config.ok_or_else(|| missing("config"))?;
    let metadata = config.metadata.clone().ok_or_else(|| missing("config.metadata"))?;
    not_empty("config.metadata.name", &metadata.name)?;
    not_empty("config.metadata.namespace", &metadata.namespace)?;
    for (name, value) in
        [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)]
    {
        passes_on(&format!("config.metadata.{name}"), value)?;
    }
    hostname(&config.hostname)?;
    if !config.log_directory.is_empty() {
        absolute("config.log_directory", &config.log_directory)?;
    }
    if let Some(dns) = &config.dns_config {
        resolver(dns)?;
    }
    for (n, mapping) in config.port_mappings.iter().enumerate() {
        port_mapping(&format!("config.port_mappings[{n}]"), mapping)?;
    }
    if let Some(linux) = &config.linux {
        pod_linux(linux)?;
    }
    if config.windows.is_some() {
        return Err(PodError::invalid("config.windows", "this node runs Linux"));
    }
    let name = PodName {
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        attempt: metadata.attempt,
    };
    Ok(PodRequest { name, config, handler: request.runtime_handler })
}

/// CreateContainer.
pub(super) fn create_container(request: api::CreateContainerRequest) -> Checked<ContainerRequest> {
    not_empty("pod_sandbox_id", &request.pod_sandbox_id)?;
    let config = request.config.ok_or_else(|| missing("config"))?;
    let metadata = config.metadata.clone().ok_or_else(|| missing("config.metadata"))?;
    not_empty("config.metadata.name", &metadata.name)?;
    passes_on("config.metadata.name", &metadata.name)?;
    let image = config.image.as_ref().ok_or_else(|| missing("config.image"))?;
    not_empty("config.image.image", &image.image)?;
    let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if !Path::new(&config.log_path).components().all(inside) || config.log_path.contains('\0') {
        let text = format!("{:?} is not a path below the pod's log directory", config.log_path);
        return Err(PodError::invalid("config.log_path", text));
    }
    if config.windows.is_some() {
        return Err(PodError::invalid("config.windows", "this node runs Linux"));
    }
    for (n, mount) in config.mounts.iter().enumerate() {
        check_mount(&format!("config.mounts[{n}]"), mount)?;
    }
    for (n, device) in config.devices.iter().enumerate() {
        absolute(&format!("config.devices[{n}].host_path"), &device.host_path)?;
    }
    if let Some(context) = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()) {
        container_security(context)?;
    }
    Ok(ContainerRequest {
        pod: request.pod_sandbox_id,
        name: metadata.name,
        attempt: metadata.attempt,
        config,
        pod_config: request.sandbox_config,
    })
}

fn check_mount(field: &str, mount: &api::Mount) -> Checked {
    known::<api::MountPropagation>(&format!("{field}.propagation"), mount.propagation)?;
    match &mount.image {
        Some(image) => image_volume(field, mount, image)?,
        None if !mount.image_sub_path.is_empty() => {
            return Err(PodError::invalid(format!("{field}.image_sub_path"), "there is no image beside it"));
        }
        None => absolute(&format!("{field}.host_path"), &mount.host_path)?,
    }
    absolute(&format!("{field}.container_path"), &mount.container_path)
}

/// B27
fn image_volume(field: &str, mount: &api::Mount, image: &api::ImageSpec) -> Checked {
    let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    let sub_path = &mount.image_sub_path;
    let is_inside = Path::new(sub_path).components().all(inside) && !sub_path.contains('\0');
    let private = mount.propagation() == api::MountPropagation::PropagationPrivate;
    let problems = [
        (image.image.is_empty(), "image.image", "is empty"),
        (!mount.host_path.is_empty(), "host_path", "is set beside an image: a volume is one or the other"),
        (!mount.readonly, "readonly", "is not set: an image can only be mounted read-only"),
        (!private, "propagation", "an image can only be mounted with private propagation"),
        (!is_inside, "image_sub_path", "is not a relative path without \"..\""),
    ];
    match problems.into_iter().find(|(wrong, ..)| *wrong) {
        Some((_, name, text)) => {
            Err(PodError::ImageVolume { field: format!("{field}.{name}"), text: text.to_owned() })
        }
        None => Ok(()),
    }
}

/// UpdateContainerResources: the container's ID and what is asked for.
pub(super) fn update_container(
    request: api::UpdateContainerResourcesRequest,
) -> Checked<(String, api::LinuxContainerResources)> {
    if request.windows.is_some() {
        return Err(PodError::invalid("windows", "this node runs Linux"));
    }
    if let Some(key) = request.annotations.keys().min() {
        let text = format!("{key:?} is not known; all limits that can be changed are in linux");
        return Err(PodError::invalid("annotations", text));
    }
    let asked = request.linux.ok_or_else(|| missing("linux"))?;
    Ok((request.container_id, asked))
}

/// ExecSync.
pub(super) fn command(words: &[String]) -> Checked {
    not_empty("cmd", words.first().map(String::as_str).unwrap_or_default())?;
    match words.iter().position(|word| word.contains('\0')) {
        Some(n) => Err(PodError::invalid(format!("cmd[{n}]"), "contains a NUL byte")),
        None => Ok(()),
    }
}

fn container_security(context: &api::LinuxContainerSecurityContext) -> Checked {
    let field = |name: &str| format!("config.linux.security_context.{name}");
    if let Some(options) = &context.namespace_options {
        user_namespace(options)?;
        for (name, mode) in [("network", options.network), ("pid", options.pid), ("ipc", options.ipc)] {
            known::<api::NamespaceMode>(&field(&format!("namespace_options.{name}")), mode)?;
        }
    }
    let policy = context.supplemental_groups_policy;
    known::<api::SupplementalGroupsPolicy>(&field("supplemental_groups_policy"), policy)?;
    for (name, profile) in [("seccomp", &context.seccomp), ("apparmor", &context.apparmor)] {
        if let Some(profile) = profile {
            let field = field(&format!("{name}.profile_type"));
            known::<api::security_profile::ProfileType>(&field, profile.profile_type)?;
        }
    }
    for (name, paths) in
        [("masked_paths", &context.masked_paths), ("readonly_paths", &context.readonly_paths)]
    {
        for (n, path) in paths.iter().enumerate() {
            absolute(&field(&format!("{name}[{n}]")), path)?;
        }
    }
    Ok(())
}

/// A value that this version of the CRI has a name for.
fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Checked {
    match E::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(PodError::invalid(field, format!("{value} has no meaning in the CRI"))),
    }
}

/// What is passed on in `CNI_ARGS`, in annotations and in the log.
fn passes_on(field: &str, name: &str) -> Checked {
    if name.contains(|c: char| c.is_control() || matches!(c, ';' | '=')) {
        let text = format!("{name:?} contains ';', '=' or a control character");
        return Err(PodError::invalid(field, text));
    }
    Ok(())
}

fn pod_linux(linux: &api::LinuxPodSandboxConfig) -> Checked {
    let options = linux.security_context.as_ref().and_then(|context| context.namespace_options.as_ref());
    let Some(options) = options else { return Ok(()) };
    let field = |name| format!("config.linux.security_context.namespace_options.{name}");
    use api::NamespaceMode::{Container, Node, Pod};
    for (name, value, allowed) in [
        ("network", options.network, &[Pod, Node][..]),
        ("pid", options.pid, &[Pod, Container, Node][..]),
        ("ipc", options.ipc, &[Pod, Node][..]),
    ] {
        if !allowed.iter().any(|mode| *mode as i32 == value) {
            let allowed: Vec<_> = allowed.iter().map(|mode| mode.as_str_name()).collect();
            return Err(PodError::invalid(
                field(name),
                format!("{value} is not one of {}", allowed.join(", ")),
            ));
        }
    }
    if user_namespace(options)?.is_none() {
        return Ok(());
    }
    let privileged = linux.security_context.as_ref().is_some_and(|context| context.privileged);
    for (name, of_the_node) in [
        ("namespace_options.pid", options.pid() == Node),
        ("namespace_options.ipc", options.ipc() == Node),
        ("privileged", privileged),
    ] {
        if of_the_node {
            let field = format!("config.linux.security_context.{name}");
            return Err(PodError::invalid(field, "it does not go with a user namespace of the pod's own"));
        }
    }
    Ok(())
}

fn user_namespace(options: &api::NamespaceOption) -> Checked<Option<IdMaps>> {
    userns::requested(Some(options)).map_err(|error| match error {
        SpecError::Invalid { field, why } | SpecError::Unsupported { field, why } => {
            PodError::invalid(format!("config.{field}"), why)
        }
    })
}

fn resolver(dns: &api::DnsConfig) -> Checked {
    for (name, list) in [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)] {
        for (n, value) in list.iter().enumerate() {
            if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control()) {
                let field = format!("config.dns_config.{name}[{n}]");
                return Err(PodError::invalid(field, format!("{value:?} is not one word")));
            }
        }
    }
    Ok(())
}

fn port_mapping(field: &str, mapping: &api::PortMapping) -> Checked {
    // A mapping without a host port is none, as the kubelet sends it; one without a container port leads nowhere.
    for (name, port, least) in
        [("container_port", mapping.container_port, 1), ("host_port", mapping.host_port, 0)]
    {
        if !u16::try_from(port).is_ok_and(|port| port >= least) {
            return Err(PodError::invalid(format!("{field}.{name}"), format!("{port} is not a port")));
        }
    }
    if api::Protocol::try_from(mapping.protocol).is_err() {
        let text = format!("{} is not one of TCP, UDP, SCTP", mapping.protocol);
        return Err(PodError::invalid(format!("{field}.protocol"), text));
    }
    if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<IpAddr>().is_err() {
        let text = format!("{:?} is not an IP address", mapping.host_ip);
        return Err(PodError::invalid(format!("{field}.host_ip"), text));
    }
    Ok(())
}

fn hostname(name: &str) -> Checked {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.len() <= HOSTNAME_MAX && name.bytes().all(good) {
        return Ok(());
    }
    Err(PodError::invalid(
        "config.hostname",
        format!("{name:?} is not a host name of at most {HOSTNAME_MAX} bytes"),
    ))
}

fn absolute(field: &str, path: &str) -> Checked {
    if Path::new(path).is_absolute() && !path.contains('\0') {
        return Ok(());
    }
    Err(PodError::invalid(field, format!("{path:?} is not an absolute path")))
}

fn not_empty(field: &str, text: &str) -> Checked {
    if text.is_empty() { Err(PodError::invalid(field, "is empty")) } else { Ok(()) }
}

fn missing(field: &str) -> PodError {
    PodError::invalid(field, "is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> api::PodSandboxConfig {
        api::PodSandboxConfig {
            metadata: Some(api::PodSandboxMetadata {
                name: "n".into(),
                namespace: "s".into(),
                uid: "u".into(),
                attempt: 0,
            }),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut api::PodSandboxConfig)) -> String {
        let mut config = pod();
        change(&mut config);
        let request = api::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        run_pod(request).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_pod_passes() {
        let request = api::RunPodSandboxRequest { config: Some(pod()), runtime_handler: "x".into() };
        assert_eq!(run_pod(request).unwrap().name.name, "n");
    }

    #[test]
    fn a_missing_or_malformed_field_is_named() {
        assert!(
            run_pod(api::RunPodSandboxRequest::default()).unwrap_err().to_string().starts_with("config: is")
        );
        assert!(refused(|c| c.metadata = None).starts_with("config.metadata: is missing"));
        assert!(refused(|c| c.hostname = "a b".into()).starts_with("config.hostname: \"a b\""));
        assert!(
            refused(|c| c.log_directory = "logs".into()).starts_with("config.log_directory: \"logs\" is not")
        );
        assert!(
            refused(|c| {
                c.port_mappings = vec![api::PortMapping { container_port: 70_000, ..Default::default() }];
            })
            .starts_with("config.port_mappings[0].container_port: 70000")
        );
        assert!(
            refused(|c| c.port_mappings = vec![api::PortMapping { host_port: 80, ..Default::default() }])
                .starts_with("config.port_mappings[0].container_port: 0")
        );
        assert!(
            refused(|c| c.metadata.as_mut().unwrap().uid = "a;b".into()).starts_with("config.metadata.uid")
        );
        assert!(
            refused(|c| {
                c.dns_config = Some(api::DnsConfig {
                    servers: vec!["1.1.1.1\nsearch evil".into()],
                    ..Default::default()
                });
            })
            .starts_with("config.dns_config.servers[0]")
        );
    }

    fn container(change: impl FnOnce(&mut api::ContainerConfig)) -> Result<ContainerRequest, PodError> {
        let mut config = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(api::ImageSpec { image: "i".into(), ..Default::default() }),
            ..Default::default()
        };
        change(&mut config);
        let request = api::CreateContainerRequest {
            pod_sandbox_id: "p".into(),
            config: Some(config),
            sandbox_config: None,
        };
        create_container(request)
    }

    #[test]
    fn a_value_without_a_meaning_is_named() {
        let refused = |change: fn(&mut api::LinuxContainerSecurityContext)| {
            let mut context = api::LinuxContainerSecurityContext::default();
            change(&mut context);
            let linux = api::LinuxContainerConfig { security_context: Some(context), ..Default::default() };
            container(|config| config.linux = Some(linux)).unwrap_err().to_string()
        };
        fn profile() -> Option<api::SecurityProfile> {
            Some(api::SecurityProfile { profile_type: 8, ..Default::default() })
        }
        fn options() -> Option<api::NamespaceOption> {
            Some(api::NamespaceOption { pid: 8, ..Default::default() })
        }
        for (text, field) in [
            (refused(|c| c.seccomp = profile()), "seccomp.profile_type: 8"),
            (refused(|c| c.apparmor = profile()), "apparmor.profile_type: 8"),
            (refused(|c| c.namespace_options = options()), "namespace_options.pid: 8"),
            (refused(|c| c.supplemental_groups_policy = 9), "supplemental_groups_policy: 9"),
            (refused(|c| c.masked_paths = vec!["/a".into(), "b".into()]), "masked_paths[1]: \"b\""),
            (refused(|c| c.readonly_paths = vec!["/a\0".into()]), "readonly_paths[0]"),
        ] {
            assert!(text.starts_with(&format!("config.linux.security_context.{field}")), "{text}");
        }
        let mount = |mount| container(|config| config.mounts = vec![mount]).unwrap_err().to_string();
        let text = mount(api::Mount { propagation: 7, ..Default::default() });
        assert!(text.starts_with("config.mounts[0].propagation: 7"), "{text}");
        let text = mount(api::Mount { image: Some(Default::default()), ..Default::default() });
        assert!(text.starts_with("config.mounts[0].image.image: is empty"), "{text}");
        let volume = |change: fn(&mut api::Mount)| {
            let image = Some(api::ImageSpec { image: "x".into(), ..Default::default() });
            let mut volume =
                api::Mount { container_path: "/v".into(), image, readonly: true, ..Default::default() };
            change(&mut volume);
            container(|config| config.mounts = vec![volume]).map_err(|error| error.to_string())
        };
        assert!(volume(|volume| volume.image_sub_path = "a/./b".into()).is_ok());
        for (text, field) in [
            (volume(|volume| volume.readonly = false), "readonly"),
            (volume(|volume| volume.propagation = 1), "propagation"),
            (volume(|volume| volume.host_path = "/x".into()), "host_path"),
            (volume(|volume| volume.image_sub_path = "a/../b".into()), "image_sub_path"),
            (volume(|volume| volume.image_sub_path = "/a".into()), "image_sub_path"),
            (volume(|volume| volume.container_path = "v".into()), "container_path: \"v\" is not an absolute"),
            (
                volume(|volume| (volume.image, volume.image_sub_path) = (None, "a".into())),
                "image_sub_path: there is no",
            ),
            (volume(|volume| volume.image = None), "host_path: \"\" is not an absolute path"),
        ] {
            let text = text.unwrap_err();
            assert!(text.starts_with(&format!("config.mounts[0].{field}")), "{text}");
        }
        let text = container(|config| config.devices = vec![Default::default()]).unwrap_err().to_string();
        assert!(text.starts_with("config.devices[0].host_path"), "{text}");
        assert!(container(|_| {}).is_ok());
    }

    #[test]
    fn a_command_has_a_first_word_and_no_nul() {
        let refused = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            command(&words).err().map(|error| error.to_string())
        };
        assert_eq!(refused(&["true", ""]), None);
        assert_eq!(refused(&[]).as_deref(), Some("cmd: is empty"));
        assert_eq!(refused(&[""]).as_deref(), Some("cmd: is empty"));
        assert_eq!(refused(&["a", "b\0c"]).as_deref(), Some("cmd[1]: contains a NUL byte"));
    }

    #[test]
    fn a_log_path_stays_below_the_log_directory() {
        let asked = |path: &str| container(|config| config.log_path = path.to_owned());
        assert!(asked("c/0.log").is_ok());
        for path in ["../0.log", "/etc/passwd", "a\0b"] {
            assert!(asked(path).unwrap_err().to_string().starts_with("config.log_path"), "{path:?}");
        }
    }
}
