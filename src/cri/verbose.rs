//! The verbose answers (`crictl info`, `inspect`, `inspectp`, `inspecti`): JSON beside the CRI's own messages.
//!
//! Scripts that were written for other runtimes read these keys, so what they show has their names (containerd's, and where
//! that has none CRI-O's); what only podd has comes beside it. `docs/crictl.md` lists them.

use serde_json::{Map, Value, json};

use super::Service;
use crate::image::Image;
use crate::network::NotReady;
use crate::pod::{Container, Pod, PodProcess};

/// How writable layers are made.
const SNAPSHOTTER: &str = "overlayfs";
/// The pod's interface.
const INTERFACE: &str = "eth0";

impl Service {
    pub(super) fn pod_json(&self, pod: &Pod) -> Value {
        let facts = &pod.facts;
        let (pid, status) = match self.pods.pod_process(pod) {
            PodProcess::None => (0, "none"),
            PodProcess::Running(pid) => (pid, "running"),
            PodProcess::Stopped => (0, "stopped"),
        };
        let namespace = self.pods.network_namespace(facts);
        let runtime = self.runtime_name(&facts.handler);
        let told = pod.resources();
        json!({
            "pid": pid,
            "processStatus": status,
            "netNamespaceClosed": namespace.as_ref().is_some_and(|(_, pinned)| !pinned),
            "networkNamespace": namespace.map(|(path, _)| path),
            "image": "", // a pod needs none
            "runtimeHandler": facts.handler,
            "runtimeType": runtime,
            "runtimeOptions": self.runtime_options(runtime),
            "config": facts.config,
            "runtimeSpec": self.pods.pod_spec(facts),
            "cniResult": self.pods.network().result(&facts.id).map(|result| cni_result(&result)),
            "cgroup": facts.cgroup,
            "overhead": told.overhead.map(|linux| json!({ "linux": linux })),
            "resources": told.resources.map(|linux| json!({ "linux": linux })),
            "limitedBy": if facts.made_cgroup.is_some() { "podd" } else { "client" },
            "selinuxLevel": facts.selinux_level,
        })
    }

    pub(super) fn container_json(&self, container: &Container) -> Value {
        let facts = &container.facts;
        let context = facts.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        json!({
            "sandboxID": facts.name.pod,
            "pid": container.pid(),
            "removing": container.is_removing(),
            "snapshotKey": facts.id,
            "snapshotter": SNAPSHOTTER,
            "runtimeType": facts.runtime,
            "runtimeOptions": self.runtime_options(&facts.runtime),
            "privileged": context.is_some_and(|context| context.privileged),
            "config": facts.config,
            "runtimeSpec": self.pods.runtime_spec(&facts.id),
            "cgroup": facts.cgroup,
        })
    }

    /// What pods are attached with, as go-cni tells it.
    pub(super) fn cni_config_json(&self) -> Value {
        let network = &self.pods.config().network;
        let list = self.pods.network().current().ok();
        let networks = list.iter().map(|list| {
            let plugins = list.plugins.iter().map(|plugin| json!({ "Network": plugin.object() }));
            let config = json!({
                "Name": list.name,
                "CNIVersion": list.cni_version,
                "DisableCheck": list.disable_check,
                "Plugins": plugins.collect::<Vec<_>>(),
            });
            json!({ "IFName": INTERFACE, "Config": config })
        });
        json!({
            "PluginDirs": network.plugin_dirs,
            "PluginConfDir": network.conf_dir,
            "Networks": networks.collect::<Vec<_>>(),
        })
    }

    /// Whether the network's configuration can be used: `OK`, or why not.
    pub(super) fn cni_load_status(&self) -> String {
        self.pods.network().current().map_or_else(|error: NotReady| error.to_string(), |_| "OK".to_owned())
    }

    fn runtime_name<'a>(&'a self, handler: &'a str) -> &'a str {
        if handler.is_empty() { &self.pods.config().default_runtime } else { handler }
    }

    fn runtime_options(&self, runtime: &str) -> Value {
        json!(self.pods.config().runtimes.get(runtime))
    }
}

pub(super) fn image_json(image: &Image) -> Value {
    json!({ "chainID": image.chain.last(), "layers": image.chain, "imageSpec": image.config })
}

/// A result of ADD as go-cni tells it: by interface, with addresses that have no prefix length.
fn cni_result(result: &Value) -> Value {
    let list = |key: &str| result.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut interfaces = Map::new();
    for (index, interface) in list("interfaces").iter().enumerate() {
        let of_interface =
            |ip: &&Value| ip.get("interface").and_then(Value::as_u64) == u64::try_from(index).ok();
        let ips = list("ips").iter().filter(of_interface).map(|ip| {
            let address = text(ip, "address");
            let address = address.split('/').next().unwrap_or_default();
            json!({ "IP": address, "Gateway": text(ip, "gateway") })
        });
        let entry = json!({
            "IPConfigs": ips.collect::<Vec<_>>(),
            "Mac": text(interface, "mac"),
            "Sandbox": text(interface, "sandbox"),
        });
        interfaces.insert(text(interface, "name"), entry);
    }
    json!({
        "Interfaces": interfaces,
        "DNS": [result.get("dns").cloned().unwrap_or_else(|| json!({}))],
        "Routes": list("routes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_told_by_interface() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "br0", "mac": "00:00:00:00:00:01"},
                {"name": "eth0", "mac": "00:00:00:00:00:02", "sandbox": "/run/netns/x"},
            ],
            "ips": [
                {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1},
                {"address": "fd00::2/64", "interface": 1},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
        });
        let told = cni_result(&result);
        let eth0 = &told["Interfaces"]["eth0"];
        assert_eq!(eth0["IPConfigs"][0], json!({ "IP": "10.0.0.2", "Gateway": "10.0.0.1" }));
        assert_eq!(
            (&eth0["IPConfigs"][1]["IP"], &eth0["Sandbox"]),
            (&json!("fd00::2"), &json!("/run/netns/x"))
        );
        assert_eq!(told["Interfaces"]["br0"]["IPConfigs"], json!([]));
        assert_eq!((&told["DNS"], &told["Routes"]), (&json!([{}]), &result["routes"]));
        assert_eq!(cni_result(&json!(null))["Interfaces"], json!({}));
    }
}
