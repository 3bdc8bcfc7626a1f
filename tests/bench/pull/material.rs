//! The images to pull: layers of the machine's own files, mixed, compressed by gzip as registries have them.
//!
//! Made once and kept in the user's cache, since compressing takes longer than all that is measured.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::json;

use crate::common::Registry;
use crate::common::image::{digest, host_architecture};
use crate::common::program;

/// Where the files come from.
const SOURCES: [&str; 5] = ["/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share", "/usr/include"];

/// Larger files are left out: a layer is a mixture.
const LARGEST: u64 = 64 << 20;

/// An image of the machine's files, in a registry.
pub struct Material {
    /// `host:port/repository:tag`.
    pub reference: String,
    /// Where each layer can be fetched.
    pub urls: Vec<String>,
    /// The size of all layers as they travel, and unpacked, in bytes.
    pub packed: u64,
    /// The tars.
    pub unpacked: u64,
}

struct Layer {
    file: PathBuf,
    diff_id: String,
    unpacked: u64,
}

/// Makes an image of `count` layers of `size` bytes each and pushes it.
pub async fn push(registry: &Registry, name: &str, count: usize, size: u64) -> Material {
    let layers = layers(name, count, size);
    let repository = format!("bench/{name}");
    let (mut descriptors, mut urls, mut packed) = (Vec::new(), Vec::new(), 0);
    for layer in &layers {
        let bytes = fs::read(&layer.file).unwrap();
        let (digest, length) = (digest(&bytes), bytes.len());
        packed += length as u64;
        urls.push(format!("http://{}/v2/{repository}/blobs/{digest}", registry.host()));
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        descriptors.push(json!({ "mediaType": media_type, "digest": digest, "size": length }));
        registry.put_blob(&repository, bytes).await;
    }
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({
        "architecture": host_architecture(), "os": "linux",
        "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type, "layers": descriptors,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len(),
        },
    });
    registry.put_blob(&repository, config).await;
    registry.put_manifest(&repository, "1", manifest_type, manifest.to_string().into_bytes()).await;
    Material {
        reference: format!("{}/{repository}:1", registry.host()),
        urls,
        packed,
        unpacked: layers.iter().map(|layer| layer.unpacked).sum(),
    }
}

/// Two layers are made at a time.
fn layers(name: &str, count: usize, size: u64) -> Vec<Layer> {
    let dir = cache().join(format!("{name}-{count}x{size}"));
    fs::create_dir_all(&dir).unwrap();
    let lists = lists(count, size);
    let made = |n: usize| layer(&dir.join(format!("{n}.tar.gz")), &lists[n]);
    thread::scope(|scope| {
        let made = &made;
        let halves = [0, 1].map(|half| {
            scope.spawn(move || (half..count).step_by(2).map(|n| (n, made(n))).collect::<Vec<_>>())
        });
        let mut layers: Vec<_> = halves.into_iter().flat_map(|half| half.join().unwrap()).collect();
        layers.sort_by_key(|(n, _)| *n);
        layers.into_iter().map(|(_, layer)| layer).collect()
    })
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("podd/bench-pull")
}

/// The files of each layer, whole directories mixed. The mixture looks random and is the same at each run, as long as the
/// machine's files are.
fn lists(count: usize, size: u64) -> Vec<Vec<PathBuf>> {
    let mut files = Vec::new();
    SOURCES.iter().for_each(|source| find(Path::new(source), &mut files));
    let shuffled = |path: &Path| {
        path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    files.sort_by_cached_key(|(path, _)| {
        let directory = path.parent().unwrap_or(path);
        (shuffled(directory), path.clone())
    });
    let mut files = files.into_iter().cycle();
    let mut list = || {
        let (mut total, mut list) = (0, Vec::new());
        while total < size {
            let (path, length) = files.next().expect("the machine has files");
            total += length;
            list.push(path);
        }
        list
    };
    (0..count).map(|_| list()).collect()
}

fn find(dir: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            find(&entry.path(), files);
        } else if metadata.len() < LARGEST && (metadata.is_file() || metadata.is_symlink()) {
            files.push((entry.path(), if metadata.is_file() { metadata.len() } else { 0 }));
        }
    }
}

/// Packs a layer, unless an earlier run has.
fn layer(file: &Path, list: &[PathBuf]) -> Layer {
    let (known, tar) = (file.with_extension("json"), file.with_extension("tmp"));
    if !known.exists() {
        let names = tar.with_extension("list");
        let lines: Vec<&[u8]> = list.iter().map(|path| &path.as_os_str().as_bytes()[1..]).collect();
        fs::write(&names, lines.join(&0)).unwrap();
        let mut command = Command::new(program("tar"));
        command.args(["--directory=/", "--null", "--ignore-failed-read", "--verbatim-files-from"]);
        let status = command.arg("--files-from").arg(&names).arg("--create").arg("--file").arg(&tar).status();
        assert!(status.unwrap().success(), "tar of {}", file.display());
        let bytes = fs::read(&tar).unwrap();
        let input = fs::File::open(&tar).unwrap();
        let mut gzip = Command::new(program("gzip"));
        gzip.arg("-6n").stdin(input).stdout(fs::File::create(file).unwrap());
        assert!(gzip.status().unwrap().success(), "gzip of {}", file.display());
        let text = json!({ "diff_id": digest(&bytes), "unpacked": bytes.len() }).to_string();
        fs::remove_file(&tar).unwrap();
        fs::remove_file(&names).unwrap();
        fs::write(&known, text).unwrap();
    }
    let known: serde_json::Value = serde_json::from_slice(&fs::read(&known).unwrap()).unwrap();
    Layer {
        file: file.to_owned(),
        diff_id: known["diff_id"].as_str().unwrap().to_owned(),
        unpacked: known["unpacked"].as_u64().unwrap(),
    }
}
