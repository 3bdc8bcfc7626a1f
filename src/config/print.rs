//! The effective configuration as a commented `podd.toml`, which read again gives the same configuration.

use std::fmt::Write;
use std::path::Path;

use super::Config;

/// Renders every key with its meaning.
pub fn render(config: &Config) -> String {
    let mut page = Page(String::new());
    page.top(config);
    page.runtimes(config);
    page.monitor_and_network(config);
    page.images(config);
    page.endpoints(config);
    page.0
}

struct Page(String);

impl Page {
    fn top(&mut self, c: &Config) {
        self.line("# podd: the effective configuration");
        self.key("root", path(&c.root), "images, writable layers, CNI records; survives a reboot");
        self.key("run_dir", path(&c.run_dir), "state of pods and containers; on tmpfs");
        self.key("socket", path(&c.socket), "the CRI's unix socket, mode 0660");
        self.key("default_runtime", text(&c.default_runtime), "for pods that name no handler");
        self.key("cgroup_driver", word(&c.cgroup_driver), "auto, cgroupfs or systemd; as the kubelet's");
        self.key("log_level", word(&c.log_level), "error, warn, info, debug or trace");
        let abandoned = c.abandoned_after_seconds.to_string();
        self.key("abandoned_after_seconds", abandoned, "when what no client asked for again is removed");
    }

    fn runtimes(&mut self, c: &Config) {
        for (name, runtime) in &c.runtimes {
            self.section(&format!("runtimes.{}", key(name)), "an OCI runtime by its handler's name");
            self.key("path", path(&runtime.path), "its binary");
            self.key("root", path(&runtime.root), "its --root, on tmpfs");
        }
    }

    fn monitor_and_network(&mut self, c: &Config) {
        self.section("monitor", "the parent of each container");
        self.key("path", path(&c.monitor.path), "the podd-monitor binary; empty: beside podd's own");
        self.key("cgroup", text(&c.monitor.cgroup), "all monitors' cgroup; empty: the daemon's");
        self.section("network", "CNI");
        self.key("conf_dir", path(&c.network.conf_dir), "the first configuration by name is used");
        self.key(
            "plugin_dirs",
            list(c.network.plugin_dirs.iter().map(|p| path(p))),
            "searched in this order",
        );
        self.key("cache_dir", path(&c.network.cache_dir), "records of attachments; survives a reboot");
        self.key("netns_dir", path(&c.network.netns_dir), "where network namespaces are pinned");
    }

    fn images(&mut self, c: &Config) {
        let images = &c.images;
        self.section("images", "registries and layers");
        self.key("registries_conf", path(&images.registries_conf), "containers-registries.conf(5)");
        self.key("policy", path(&images.policy), "containers-policy.json(5)");
        self.key("policy_dir", path(&images.policy_dir), "<namespace>.json instead of policy; empty: none");
        self.key("certs_dir", path(&images.certs_dir), "containers-certs.d(5)");
        self.key("hosts_dir", path(&images.hosts_dir), "containerd's hosts.toml by registry; empty: none");
        self.key("auth_file", path(&images.auth_file), "containers-auth.json(5); empty: none");
        let namespaced = path(&images.namespaced_auth_dir);
        self.key("namespaced_auth_dir", namespaced, "of crio-credential-provider; empty: none");
        let stall = images.stall_timeout_seconds.to_string();
        self.key("stall_timeout_seconds", stall, "a layer without bytes is asked for again");
        self.key("max_parallel_layers", images.max_parallel_layers.to_string(), "of the whole node");
        self.key("root", path(&images.root), "images and layers; empty: in the root above");
        let pinned = list(images.pinned.iter().map(|pattern| text(pattern)));
        self.key("pinned", pinned, "never garbage: a name, prefix* or *keyword*");
        let keep = images.keep_unfinished_seconds.to_string();
        self.key("keep_unfinished_seconds", keep, "how long layers of failed pulls are kept");
        self.key(
            "max_unpacked_bytes",
            images.max_unpacked_bytes.to_string(),
            "of a layer's files, or of its tar",
        );
        let insecure = list(images.insecure_registries.iter().map(|host| text(host)));
        self.key("insecure_registries", insecure, "host:port of plain HTTP, besides loopback");
        self.key(
            "preload_dir",
            path(&images.preload_dir),
            "archives imported at start and later; empty: none",
        );
    }

    fn endpoints(&mut self, c: &Config) {
        self.section("streaming", "exec, attach and port-forward");
        self.key("address", text(&c.streaming.address.to_string()), "port 0: any that is free");
        self.section("metrics", "Prometheus");
        let address = c.metrics.address.map(|address| address.to_string()).unwrap_or_default();
        self.key("address", text(&address), "host:port; empty: off");
        self.section("nri", "Node Resource Interface");
        self.key("socket", path(&c.nri.socket), "the plugins' socket; empty: off");
    }

    fn section(&mut self, name: &str, comment: &str) {
        self.line("");
        self.line(&format!("# {comment}"));
        self.line(&format!("[{name}]"));
    }

    fn key(&mut self, key: &str, value: impl std::fmt::Display, comment: &str) {
        let _ = writeln!(self.0, "{:<50} # {comment}", format!("{key} = {value}"));
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

fn path(value: &Path) -> String {
    text(&value.to_string_lossy())
}

fn word<T: serde::Serialize>(value: &T) -> String {
    toml::Value::try_from(value).map_or_else(|_| "\"\"".to_owned(), |value| value.to_string())
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { name.to_owned() } else { text(name) }
}
