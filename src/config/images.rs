//! `[images]`: registries and layers.

use std::path::PathBuf;

use serde::Serialize;

use super::DEFAULT_POLICY;
use super::print::{self, Page};
use super::read::Reader;

const INFLATES: [(&str, Inflate); 2] = [("zlib-rs", Inflate::ZlibRs), ("isal", Inflate::Isal)];

/// What decompresses gzip layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inflate {
    /// The decoder that podd is built with.
    ZlibRs,
    /// The machine's libisal.so.2: faster, and not memory-safe by construction.
    Isal,
}

/// Images and registries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagesConfig {
    /// Mirrors and insecure registries (containers-registries.conf(5), version 2).
    pub registries_conf: PathBuf,
    /// Signature policy (containers-policy.json(5)).
    pub policy: PathBuf,
    /// Signature policies of single namespaces, `<namespace>.json`; empty: none.
    pub policy_dir: PathBuf,
    /// Certificates by registry (containers-certs.d(5)).
    pub certs_dir: PathBuf,
    /// containerd's directory of `hosts.toml` files by registry; empty: none.
    pub hosts_dir: PathBuf,
    /// Credentials for every pull (containers-auth.json(5)); empty: none.
    pub auth_file: PathBuf,
    /// Where a credential provider leaves auth files by namespace and image; empty: nowhere.
    pub namespaced_auth_dir: PathBuf,
    /// How long a layer may come without a byte, or too slowly, before its connection is given up, in seconds.
    pub stall_timeout_seconds: u64,
    /// How many layers the node fetches at a time, all pulls together.
    pub max_parallel_layers: u64,
    /// What decompresses gzip layers.
    pub inflate: Inflate,
    /// Where images and layers lie, on a file system of their own if wanted; empty: in `root`.
    pub root: PathBuf,
    /// Images that the kubelet's garbage collection must leave: exact names, `prefix*`, `*keyword*`.
    pub pinned: Vec<String>,
    /// How long layers of a pull that failed are of use to the next one, in seconds.
    pub keep_unfinished_seconds: u64,
    /// How much a layer may unpack to, in bytes: its files, and its tar.
    pub max_unpacked_bytes: u64,
    /// Registries (`host:port`) that may be spoken to by plain HTTP, besides those on loopback.
    pub insecure_registries: Vec<String>,
    /// Archives that are imported without being asked for, where it exists; empty: none.
    pub preload_dir: PathBuf,
}

impl ImagesConfig {
    pub(super) fn defaults() -> Self {
        Self {
            registries_conf: "/etc/containers/registries.conf".into(),
            policy: DEFAULT_POLICY.into(),
            policy_dir: "/etc/podd/policies".into(),
            certs_dir: "/etc/containers/certs.d".into(),
            hosts_dir: PathBuf::new(),
            auth_file: PathBuf::new(),
            namespaced_auth_dir: PathBuf::new(),
            stall_timeout_seconds: 30,
            max_parallel_layers: 4,
            inflate: Inflate::ZlibRs,
            root: PathBuf::new(),
            pinned: Vec::new(),
            max_unpacked_bytes: 256 << 30,
            keep_unfinished_seconds: 3600,
            insecure_registries: Vec::new(),
            preload_dir: "/var/lib/podd-preload".into(),
        }
    }

    pub(super) fn read(&mut self, reader: &mut Reader<'_>) {
        reader.optional_path("registries_conf", &mut self.registries_conf);
        reader.optional_path("policy", &mut self.policy);
        reader.optional_path("policy_dir", &mut self.policy_dir);
        reader.optional_path("certs_dir", &mut self.certs_dir);
        reader.optional_path("hosts_dir", &mut self.hosts_dir);
        reader.optional_path("auth_file", &mut self.auth_file);
        reader.optional_path("namespaced_auth_dir", &mut self.namespaced_auth_dir);
        reader.number("stall_timeout_seconds", 1..=3600, &mut self.stall_timeout_seconds);
        reader.number("max_parallel_layers", 1..=64, &mut self.max_parallel_layers);
        reader.word("inflate", &INFLATES, &mut self.inflate);
        reader.optional_path("root", &mut self.root);
        reader.strings("pinned", &mut self.pinned);
        reader.number("keep_unfinished_seconds", 0..=604_800, &mut self.keep_unfinished_seconds);
        reader.number("max_unpacked_bytes", 1 << 20..=1 << 50, &mut self.max_unpacked_bytes);
        reader.strings("insecure_registries", &mut self.insecure_registries);
        reader.optional_path("preload_dir", &mut self.preload_dir);
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.section("images", "registries and layers");
        page.key("registries_conf", print::path(&self.registries_conf), "containers-registries.conf(5)");
        page.key("policy", print::path(&self.policy), "containers-policy.json(5)");
        page.key(
            "policy_dir",
            print::path(&self.policy_dir),
            "<namespace>.json instead of policy; empty: none",
        );
        page.key("certs_dir", print::path(&self.certs_dir), "containers-certs.d(5)");
        page.key(
            "hosts_dir",
            print::path(&self.hosts_dir),
            "containerd's hosts.toml by registry; empty: none",
        );
        page.key("auth_file", print::path(&self.auth_file), "containers-auth.json(5); empty: none");
        let namespaced = print::path(&self.namespaced_auth_dir);
        page.key("namespaced_auth_dir", namespaced, "of crio-credential-provider; empty: none");
        let stall = self.stall_timeout_seconds.to_string();
        page.key("stall_timeout_seconds", stall, "a layer without bytes is asked for again");
        page.key("max_parallel_layers", self.max_parallel_layers.to_string(), "of the whole node");
        page.key(
            "inflate",
            print::word(&self.inflate),
            "zlib-rs, or isal: the machine's libisal2, faster, in C",
        );
        page.key("root", print::path(&self.root), "images and layers; empty: in the root above");
        let pinned = print::list(self.pinned.iter().map(|pattern| print::text(pattern)));
        page.key("pinned", pinned, "never garbage: a name, prefix* or *keyword*");
        let keep = self.keep_unfinished_seconds.to_string();
        page.key("keep_unfinished_seconds", keep, "how long layers of failed pulls are kept");
        page.key(
            "max_unpacked_bytes",
            self.max_unpacked_bytes.to_string(),
            "of a layer's files, or of its tar",
        );
        let insecure = print::list(self.insecure_registries.iter().map(|host| print::text(host)));
        page.key("insecure_registries", insecure, "host:port of plain HTTP, besides loopback");
        page.key(
            "preload_dir",
            print::path(&self.preload_dir),
            "archives imported at start and later; empty: none",
        );
    }
}
