//! The effective configuration as a commented `podd.toml`, which read again gives the same configuration.

use std::fmt::Write;
use std::path::Path;

use super::{Config, runtimes};

/// Renders every key with its meaning.
pub fn render(config: &Config) -> String {
    let mut page = Page(String::new());
    page.top(config);
    runtimes::render(&config.runtimes, &mut page);
    config.cgroup.render(&mut page);
    config.apparmor.render(&mut page);
    config.containers.render(&mut page);
    config.devices.render(&mut page);
    config.cdi.render(&mut page);
    config.blockio.render(&mut page);
    config.disk.render(&mut page);
    config.monitor.render(&mut page);
    config.mounts.render(&mut page);
    config.network.render(&mut page);
    config.images.render(&mut page);
    config.streaming.render(&mut page);
    config.metrics.render(&mut page);
    config.tracing.render(&mut page);
    config.nri.render(&mut page);
    config.security.render(&mut page);
    config.seccomp.render(&mut page);
    config.selinux.render(&mut page);
    page.0
}

/// The page as far as it is written.
pub(super) struct Page(String);

impl Page {
    fn top(&mut self, c: &Config) {
        self.line("# podd: the effective configuration");
        self.key("root", path(&c.root), "images, writable layers, CNI records; survives a reboot");
        self.key("run_dir", path(&c.run_dir), "state of pods and containers; on tmpfs");
        self.key("socket", path(&c.socket), "the CRI's unix socket, mode 0660");
        self.key("default_runtime", text(&c.default_runtime), "for pods that name no handler");
        self.key("cgroup_driver", word(&c.cgroup_driver), "auto, cgroupfs or systemd; as the kubelet's");
        self.key("log_level", word(&c.log_level), "error, warn, info, debug or trace; SIGHUP sets it anew");
        self.key(
            "log_format",
            word(&c.log_format),
            "auto, text, json or journald; auto: journald under systemd",
        );
        self.key("journal_socket", path(&c.journal_socket), "where the journal listens");
        let abandoned = c.abandoned_after_seconds.to_string();
        self.key("abandoned_after_seconds", abandoned, "when what no client asked for again is removed");
    }

    /// Begins a section.
    pub(super) fn section(&mut self, name: &str, comment: &str) {
        self.line("");
        self.line(&format!("# {comment}"));
        self.line(&format!("[{name}]"));
    }

    /// One key with its value, in TOML, and its meaning.
    pub(super) fn key(&mut self, key: &str, value: impl std::fmt::Display, comment: &str) {
        let _ = writeln!(self.0, "{:<50} # {comment}", format!("{key} = {value}"));
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

pub(super) fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

pub(super) fn path(value: &Path) -> String {
    text(&value.to_string_lossy())
}

pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    toml::Value::try_from(value).map_or_else(|_| "\"\"".to_owned(), |value| value.to_string())
}

pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

pub(super) fn map<'a>(entries: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let entries: Vec<_> = entries.map(|(name, value)| format!("{} = {}", key(name), text(value))).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

pub(super) fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { name.to_owned() } else { text(name) }
}
