//! Requests become domain types here, once. A field that is missing or malformed is named; what only the node can judge
//! (a runtime's name, a mount's source) is judged where the node is known.

use std::net::IpAddr;
use std::path::{Component, Path};

use crate::api;
use crate::pod::{ContainerRequest, PodError, PodName, PodRequest};

/// The longest host name (gethostname(2), `HOST_NAME_MAX`), in bytes.
const HOSTNAME_MAX: usize = 64;

type Checked<T = ()> = Result<T, PodError>;

/// RunPodSandbox.
pub(super) fn run_pod(request: api::RunPodSandboxRequest) -> Checked<PodRequest> {
    let config = request.config.ok_or_else(|| missing("config"))?;
    let metadata = config.metadata.clone().ok_or_else(|| missing("config.metadata"))?;
    not_empty("config.metadata.name", &metadata.name)?;
    not_empty("config.metadata.namespace", &metadata.namespace)?;
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
    let image = config.image.as_ref().ok_or_else(|| missing("config.image"))?;
    not_empty("config.image.image", &image.image)?;
    let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if !Path::new(&config.log_path).components().all(inside) {
        let text = format!("{:?} is not a path below the pod's log directory", config.log_path);
        return Err(PodError::invalid("config.log_path", text));
    }
    if config.windows.is_some() {
        return Err(PodError::invalid("config.windows", "this node runs Linux"));
    }
    Ok(ContainerRequest {
        pod: request.pod_sandbox_id,
        name: metadata.name,
        attempt: metadata.attempt,
        config,
        pod_config: request.sandbox_config,
    })
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
    match &options.userns_options {
        Some(userns) if userns.mode() != Node => Err(PodError::invalid(
            field("userns_options"),
            "user namespaces are not supported by this version",
        )),
        _ => Ok(()),
    }
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
    for (name, port) in [("container_port", mapping.container_port), ("host_port", mapping.host_port)] {
        if u16::try_from(port).is_err() {
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
            refused(|c| {
                c.dns_config = Some(api::DnsConfig {
                    servers: vec!["1.1.1.1\nsearch evil".into()],
                    ..Default::default()
                });
            })
            .starts_with("config.dns_config.servers[0]")
        );
    }

    #[test]
    fn a_log_path_stays_below_the_log_directory() {
        let request = |log_path: &str| api::CreateContainerRequest {
            pod_sandbox_id: "p".into(),
            config: Some(api::ContainerConfig {
                metadata: Some(api::ContainerMetadata { name: "c".into(), attempt: 0 }),
                image: Some(api::ImageSpec { image: "i".into(), ..Default::default() }),
                log_path: log_path.into(),
                ..Default::default()
            }),
            sandbox_config: None,
        };
        assert!(create_container(request("c/0.log")).is_ok());
        assert!(
            create_container(request("../0.log")).unwrap_err().to_string().starts_with("config.log_path")
        );
        assert!(
            create_container(request("/etc/passwd")).unwrap_err().to_string().starts_with("config.log_path")
        );
    }
}
