//! Archives of every form, odd and hostile ones too, imported into a real store. These tests need root.

mod forms;
mod hostile;
mod layers;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::image::digest::Digest;
use crate::image::extract::tests::archive::Tar;
use crate::image::store::Store;

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A store and a place for archives.
struct Bench {
    scratch: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::join(scratch.path().join("root").as_path()).unwrap();
        Self { scratch, store }
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.scratch.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, bytes: &[u8]) -> Result<Vec<Imported>, ArchiveError> {
        self.import_as(bytes, &[])
    }

    fn import_as(&self, bytes: &[u8], names: &[&str]) -> Result<Vec<Imported>, ArchiveError> {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        let options = ImportOptions { names, ..ImportOptions::default() };
        import(&self.store, &self.write(bytes), &options, &Progress::default())
    }

    /// Why an archive is refused, with all causes; nothing of it may be left.
    fn refusal(&self, bytes: &[u8]) -> String {
        let error = self.import(bytes).expect_err("it is refused");
        self.nothing_is_left();
        told(&error)
    }

    fn nothing_is_left(&self) {
        assert!(self.store.images().is_empty());
        for name in ["layers", "images", "staging"] {
            let names = crate::sys::fs::names(&self.scratch.path().join("root").join(name)).unwrap();
            assert!(names.is_empty(), "{name}: {names:?}");
        }
    }

    fn read(&self, imported: &Imported, path: &str) -> Option<String> {
        let content = self.store.read_file(&imported.image, path, 1 << 20).unwrap()?;
        Some(String::from_utf8(content).unwrap())
    }
}

fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, name).finish()
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<Digest> = layers.iter().map(|tar| Digest::of(tar)).collect();
    let config = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids } });
    config.to_string().into_bytes()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// A layout as files by name, in an order that streams badly.
#[derive(Default)]
struct Layout {
    files: Vec<(String, Vec<u8>)>,
    entries: Vec<Value>,
}

impl Layout {
    fn blob(&mut self, bytes: &[u8]) {
        self.files.push((blob_path(bytes), bytes.to_vec()));
    }

    /// Adds an image, whose descriptor `change` may alter.
    fn image(mut self, name: &str, layers: &[Vec<u8>], change: impl FnOnce(&mut Value)) -> Self {
        let config = config(layers);
        let descriptors: Vec<Value> = layers.iter().map(|tar| descriptor(OCI_LAYER, tar)).collect();
        let manifest =
            json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG, &config), "layers": descriptors });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor(OCI_MANIFEST, &manifest);
        if !name.is_empty() {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        change(&mut entry);
        self.entries.push(entry);
        layers.iter().for_each(|tar| self.blob(tar));
        self.blob(&config);
        self.blob(&manifest);
        self
    }

    fn index(&self) -> Vec<u8> {
        json!({ "schemaVersion": 2, "manifests": self.entries }).to_string().into_bytes()
    }

    fn tar(&self) -> Vec<u8> {
        let tar = put(Tar::new(), "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let tar = self.files.iter().fold(tar, |tar, (name, content)| put(tar, name, content));
        put(tar, "index.json", &self.index()).finish()
    }

    fn directory(&self, path: &Path) {
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        for (name, content) in &self.files {
            std::fs::write(path.join(name), content).unwrap();
        }
        std::fs::write(path.join("index.json"), self.index()).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

fn put(tar: Tar, name: &str, content: &[u8]) -> Tar {
    tar.entry(name, tar_core::EntryType::Regular, content, |_| {})
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive of docker save in its old layout, for which each name is a directory of its own.
fn docker(tags: &[&str], layers: &[Vec<u8>]) -> Tar {
    let config = config(layers);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut names = Vec::new();
    let mut tar = Tar::new();
    for (index, layer) in layers.iter().enumerate() {
        let name = format!("{index}/layer.tar");
        tar = put(tar.directory(&format!("{index}/"), 0o755), &name, layer);
        names.push(name);
    }
    let item = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]);
    put(put(tar, &config_name, &config), "manifest.json", item.to_string().as_bytes())
}
