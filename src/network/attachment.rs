//! What a pod asks of its network, and how it is told to plugins: `CNI_ARGS` and capabilities.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::bandwidth;
use super::error::NetworkError;
use crate::id::PodId;

/// A pod that is to be attached to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The sandbox.
    pub pod: PodId,
    /// Where its network namespace is pinned.
    pub netns: PathBuf,
    /// The pod's name.
    pub name: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// Ports of the node that lead into the pod; those with host port 0 are left out.
    pub port_mappings: Vec<PortMapping>,
    /// What is in the pod's resolv.conf.
    pub dns: Dns,
    /// The cgroup of the pod; may be empty.
    pub cgroup_parent: String,
    /// The pod's annotations; `kubernetes.io/{ingress,egress}-bandwidth` limit its traffic.
    pub annotations: BTreeMap<String, String>,
}

/// A port of the node that leads into the pod (CRI `PortMapping`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The port in the pod.
    pub container_port: u16,
    /// The port of the node; 0 for none.
    pub host_port: u16,
    /// The one address of the node that it holds for.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol (CRI `Protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A pod's resolver settings (CRI `DNSConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Attachment {
    /// The value of `CNI_ARGS`. What would end a value in it is refused, so that no name can pass for another argument.
    pub(super) fn cni_args(&self) -> Result<String, NetworkError> {
        let fields = [
            ("K8S_POD_NAMESPACE", &self.namespace),
            ("K8S_POD_NAME", &self.name),
            ("K8S_POD_UID", &self.uid),
        ];
        let mut args = format!("IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={}", self.pod);
        for (key, value) in fields {
            if value.contains(|c: char| c == ';' || c == '=' || c.is_control()) {
                return Err(NetworkError::Argument { key, value: value.clone() });
            }
            args.push_str(&format!(";{key}={value}"));
        }
        Ok(args)
    }

    /// The values of all capabilities that the pod has something to say for (CNI conventions, "dynamic plugin fields").
    pub(super) fn capabilities(&self) -> Result<Map<String, Value>, NetworkError> {
        let mut all = Map::new();
        let ports: Vec<Value> =
            self.port_mappings.iter().filter(|m| m.host_port > 0).map(PortMapping::json).collect();
        if !ports.is_empty() {
            all.insert("portMappings".to_owned(), Value::Array(ports));
        }
        if self.dns != Dns::default() {
            let Dns { servers, searches, options } = &self.dns;
            all.insert(
                "dns".to_owned(),
                json!({"servers": servers, "searches": searches, "options": options}),
            );
        }
        if let Some(limits) = bandwidth::capability(&self.annotations)? {
            all.insert("bandwidth".to_owned(), limits);
        }
        if !self.cgroup_parent.is_empty() {
            all.insert("cgroupPath".to_owned(), json!(self.cgroup_parent));
        }
        if !self.annotations.is_empty() {
            all.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(self.annotations));
        }
        Ok(all)
    }
}

impl PortMapping {
    fn json(&self) -> Value {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let host_ip = self.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        json!({
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": protocol,
            "hostIP": host_ip,
        })
    }
}
