//! Images made on the machine: layers of [`Entry`]s, in any compression and either manifest format, pushed over HTTP.
//!
//! Deterministic: the same calls give the same digests. `busybox()` and `nginx()` are the usual test images.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::program;
use super::registry::{self, Registry};
use super::tar::{Entry, archive};

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A bare tar archive.
    Plain,
    /// gzip, as nearly every image.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Which family of media types the manifest speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OCI image manifest, version 1.
    Oci,
    /// Docker image manifest, version 2, schema 2.
    Docker,
}

/// One image of one platform.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<Blob>,
    config: Value,
    format: Format,
    architecture: String,
}

#[derive(Debug, Clone)]
struct Blob {
    bytes: Vec<u8>,
    diff_id: String,
    compression: Compression,
}

/// What a push has put into the registry.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// `host:port/repository:tag`.
    pub reference: String,
    /// `host:port/repository@digest`, of the manifest that the tag names.
    pub by_digest: String,
    /// The digests of the layers as they travel, lowest first.
    pub layers: Vec<String>,
}

/// `sha256:...` of the bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{hex}")
}

/// The machine's architecture under the name that Go gives it.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Pushed {
    /// The same image, asked for at another host that stands in front of the registry.
    pub fn via(&self, host: &str) -> Self {
        let moved = |reference: &str| format!("{host}/{}", reference.split_once('/').unwrap().1);
        Self { reference: moved(&self.reference), by_digest: moved(&self.by_digest), ..self.clone() }
    }
}

impl ImageBuilder {
    /// An image without layers, for the machine's platform, in OCI format.
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            config: json!({}),
            format: Format::Oci,
            architecture: host_architecture().to_owned(),
        }
    }

    /// Adds a gzip layer on top.
    pub fn layer(self, entries: &[Entry]) -> Self {
        self.layer_as(Compression::Gzip, entries)
    }

    /// Adds a layer on top, compressed as told.
    pub fn layer_as(mut self, compression: Compression, entries: &[Entry]) -> Self {
        let tar = archive(entries);
        let bytes = compress(compression, &tar);
        self.layers.push(Blob { bytes, diff_id: digest(&tar), compression });
        self
    }

    /// Adds a gzip layer whose configuration names another diffID than its content has.
    pub fn layer_with_false_diff_id(mut self, entries: &[Entry]) -> Self {
        self = self.layer(entries);
        if let Some(last) = self.layers.last_mut() {
            last.diff_id = digest(b"something else");
        }
        self
    }

    /// Sets keys of the image configuration's `config` object (`Env`, `Cmd`, `User` ...).
    pub fn config(mut self, settings: &Value) -> Self {
        for (key, value) in settings.as_object().unwrap() {
            self.config[key] = value.clone();
        }
        self
    }

    /// Chooses the manifest's format.
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Makes it an image of another architecture (its content stays what it is).
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    /// Pushes the image as `repository:tag` of the registry.
    pub async fn push(&self, registry: &Registry, repository: &str, tag: &str) -> Pushed {
        let (manifest, media_type) = self.upload_blobs(registry, repository).await;
        registry.put_manifest(repository, tag, media_type, manifest.clone()).await;
        self.pushed(registry, repository, tag, &manifest)
    }

    async fn upload_blobs(&self, registry: &Registry, repository: &str) -> (Vec<u8>, &'static str) {
        let config = serde_json::to_vec(&self.config_document()).unwrap();
        let layers: Vec<Value> = self.layers.iter().map(|layer| self.descriptor(layer)).collect();
        let (media_type, config_type) = match self.format {
            Format::Oci => {
                ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json")
            }
            Format::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
            ),
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": { "mediaType": config_type, "size": config.len(), "digest": digest(&config) },
            "layers": layers,
        });
        registry.put_blob(repository, config).await;
        for layer in &self.layers {
            registry.put_blob(repository, layer.bytes.clone()).await;
        }
        (serde_json::to_vec(&manifest).unwrap(), media_type)
    }

    fn config_document(&self) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": self.layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>() },
            "history": self.layers.iter().map(|_| json!({ "created_by": "podd tests" })).collect::<Vec<_>>(),
        })
    }

    fn descriptor(&self, layer: &Blob) -> Value {
        let media_type = match (self.format, layer.compression) {
            (Format::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Format::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Format::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Format::Docker, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        };
        json!({ "mediaType": media_type, "size": layer.bytes.len(), "digest": digest(&layer.bytes) })
    }

    fn pushed(&self, registry: &Registry, repository: &str, tag: &str, manifest: &[u8]) -> Pushed {
        let name = format!("{}/{repository}", registry.host());
        Pushed {
            reference: format!("{name}:{tag}"),
            by_digest: format!("{name}@{}", digest(manifest)),
            layers: self.layers.iter().map(|layer| digest(&layer.bytes)).collect(),
        }
    }
}

/// Pushes several platforms' images under one tag, as an OCI index or a Docker manifest list.
pub async fn push_list(
    images: &[ImageBuilder],
    format: Format,
    registry: &Registry,
    repository: &str,
    tag: &str,
) -> Vec<u8> {
    let mut manifests = Vec::new();
    for image in images {
        let (manifest, media_type) = image.upload_blobs(registry, repository).await;
        let by = digest(&manifest);
        manifests.push(json!({
            "mediaType": media_type,
            "size": manifest.len(),
            "digest": by,
            "platform": { "architecture": image.architecture, "os": "linux" },
        }));
        registry.put_manifest(repository, &by, media_type, manifest).await;
    }
    let media_type = match format {
        Format::Oci => "application/vnd.oci.image.index.v1+json",
        Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
    };
    let list = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    let list = serde_json::to_vec(&list).unwrap();
    registry.put_manifest(repository, tag, media_type, list.clone()).await;
    list
}

fn compress(compression: Compression, tar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Plain => tar.to_vec(),
        Compression::Zstd => zstd::bulk::compress(tar, 1).unwrap(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// Debian's busybox with its applets as hard links in /bin, users, and a sticky /tmp: 1 MB, in two layers.
pub fn busybox() -> ImageBuilder {
    let path = program("busybox");
    let list = std::process::Command::new(&path).arg("--list").output().unwrap();
    let mut base =
        vec![Entry::dir("bin", 0o755), Entry::file("bin/busybox", 0o755, std::fs::read(path).unwrap())];
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|&applet| applet != "busybox") {
        base.push(Entry::hardlink(&format!("bin/{applet}"), "bin/busybox"));
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n\
                 tester:x:1000:1000::/home/tester:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
    let groups = "root:x:0:\nwww-data:x:33:\nextra:x:50000:tester\ntester:x:1000:\nnogroup:x:65534:\n";
    let system = [
        Entry::dir("etc", 0o755),
        Entry::file("etc/passwd", 0o644, users),
        Entry::file("etc/group", 0o644, groups),
        Entry::dir("root", 0o700),
        Entry::dir("home", 0o755),
        Entry::dir("home/tester", 0o755).owned(1000, 1000),
        Entry::dir("tmp", 0o1777),
        Entry::dir("var", 0o755),
    ];
    let settings = json!({ "Env": ["PATH=/bin:/sbin", "FROM_IMAGE=yes"], "Cmd": ["sh"], "WorkingDir": "/" });
    ImageBuilder::new().layer(&base).layer(&system).config(&settings)
}

/// busybox as the shared registry's `test/busybox:1`.
pub async fn pushed_busybox() -> &'static Pushed {
    static PUSHED: tokio::sync::OnceCell<Pushed> = tokio::sync::OnceCell::const_new();
    PUSHED.get_or_init(|| async { busybox().push(registry::shared().await, "test/busybox", "1").await }).await
}

/// Debian's nginx with its libraries, on top of busybox, serving "hello from nginx" on port 80.
pub fn nginx() -> ImageBuilder {
    let path = program("nginx");
    let conf = "daemon off;\nuser root;\npid /run/nginx.pid;\nerror_log stderr;\nevents { worker_connections 16; }\n\
                http { access_log off; server { listen 80; location / { root /www; } } }\n";
    let mut entries = vec![
        Entry::dir("usr", 0o755),
        Entry::dir("usr/sbin", 0o755),
        Entry::file("usr/sbin/nginx", 0o755, std::fs::read(&path).unwrap()),
        Entry::dir("run", 0o755),
        Entry::dir("var/lib", 0o755),
        Entry::dir("var/lib/nginx", 0o755),
        Entry::dir("var/log", 0o755),
        Entry::dir("var/log/nginx", 0o755),
        Entry::file("etc/nginx/nginx.conf", 0o644, conf),
        Entry::dir("www", 0o755),
        Entry::file("www/index.html", 0o644, "hello from nginx\n"),
    ];
    entries.extend(libraries(&path));
    busybox().layer(&entries).config(&json!({ "Cmd": ["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"] }))
}

/// The shared libraries and the loader of a program, at the paths where it looks for them.
fn libraries(path: &Path) -> Vec<Entry> {
    let out = std::process::Command::new("ldd").arg(path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(|lib| Entry::file(lib.trim_start_matches('/'), 0o755, std::fs::read(lib).unwrap())).collect()
}
