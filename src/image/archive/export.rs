//! From images in the store to an archive.
//!
//! podd keeps the files of layers and not their blobs, so the layers' archives are made again, and differ from those that
//! were pulled. The configuration names layers by their digests: **an exported image has another ID** than the one it was
//! made of, the same each time. Its manifest names the original one (`io.podd.original-id`).
//!
//! Layers are plain tars, since nothing could be kept of their compression; each is made twice, once to know its length
//! and digest, so that an export takes no space but the archive's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::error::ArchiveError;
use super::layer::{self, write_layer};
use super::{docker, oci};
use crate::image::digest::{Digest, Hasher};
use crate::image::reference::Reference;
use crate::image::store::{ChainId, Image, Store};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Where the manifest has the ID of the image that was exported.
const ORIGINAL_ID: &str = "io.podd.original-id";

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A tar of an OCI layout.
    OciArchive,
    /// What `docker load` takes.
    DockerArchive,
}

/// An image to export, with the names it is to have in the archive.
pub type Wanted = (Arc<Image>, Vec<String>);

/// An image that was exported.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The names it has in the archive.
    pub names: Vec<String>,
    /// Its ID here.
    pub original: Digest,
    /// Its ID wherever the archive is imported.
    pub id: Digest,
}

/// A layer's archive that can be made again.
struct Layer {
    files: PathBuf,
    digest: Digest,
    size: u64,
}

/// An image, as it will be in the archive.
struct Prepared {
    exported: Exported,
    config: Vec<u8>,
    layers: Vec<Arc<Layer>>,
}

/// The images that the names stand for (name with tag or digest, ID, or a unique prefix of one), with the names that each
/// was asked for by; one asked for by ID has all of its own.
pub fn find(store: &Store, wanted: &[String]) -> Result<Vec<Wanted>, ArchiveError> {
    let mut found: BTreeMap<Digest, (Arc<Image>, BTreeSet<String>)> = BTreeMap::new();
    for word in wanted {
        let reference = word.parse::<Reference>().ok();
        let name = reference.and_then(|name| match name.digest() {
            Some(digest) => Some(name.repo_digest(digest)),
            None => name.repo_tag(),
        });
        let by_name = name.as_deref().map(|name| store.find(name)).transpose()?.flatten();
        let image = match by_name {
            Some(image) => image,
            None => store.find(word)?.ok_or_else(|| ArchiveError::NoImage(word.clone()))?,
        };
        let (_, names) =
            found.entry(image.id.clone()).or_insert_with(|| (Arc::clone(&image), BTreeSet::new()));
        match name.filter(|name| image.tags.contains(name)) {
            Some(name) => names.extend([name]),
            None => names.extend(image.tags.iter().cloned()),
        }
    }
    Ok(found.into_values().map(|(image, names)| (image, names.into_iter().collect())).collect())
}

/// Writes the images to one archive. Blocks.
pub fn export(
    store: &Store,
    images: &[Wanted],
    format: Format,
    to: impl Write,
) -> Result<Vec<Exported>, ArchiveError> {
    export_to(store, images, format, Target::Tar(BufWriter::with_capacity(1 << 20, to)))
}

/// Writes the images as an OCI layout into a directory, which is made; it may be there if it is empty. Blocks.
pub fn export_layout(store: &Store, images: &[Wanted], to: &Path) -> Result<Vec<Exported>, ArchiveError> {
    let fail = |operation| move |source| ArchiveError::File { operation, path: to.to_owned(), source };
    std::fs::create_dir_all(to.join("blobs/sha256")).map_err(fail("make"))?;
    if std::fs::read_dir(to).map_err(fail("list"))?.count() > 1 {
        return Err(fail("write a layout into")(io::ErrorKind::DirectoryNotEmpty.into()));
    }
    export_to(store, images, Format::OciArchive, Target::<io::Sink>::Directory(to.to_owned()))
}

fn export_to<W: Write>(
    store: &Store,
    images: &[Wanted],
    format: Format,
    to: Target<W>,
) -> Result<Vec<Exported>, ArchiveError> {
    let mut leases = Vec::new();
    for (image, _) in images {
        let gone = || ArchiveError::NoImage(image.id.to_string());
        leases.push(store.lease(&image.id).ok_or_else(gone)?);
    }
    let mut known = BTreeMap::new();
    let prepare = |(image, names): &Wanted| prepare(store, image, names, &mut known);
    let prepared: Vec<Prepared> = images.iter().map(prepare).collect::<Result<_, _>>()?;
    let mut archive = Archive { to, written: BTreeSet::new() };
    let written = match format {
        Format::OciArchive => archive.oci(&prepared),
        Format::DockerArchive => archive.docker(&prepared),
    };
    written.map_err(ArchiveError::Output)?;
    Ok(prepared.into_iter().map(|image| image.exported).collect())
}

/// Learns the digests of an image's layers, and what its configuration is with them.
fn prepare(
    store: &Store,
    image: &Image,
    names: &[String],
    known: &mut BTreeMap<ChainId, Arc<Layer>>,
) -> Result<Prepared, ArchiveError> {
    let mut layers = Vec::with_capacity(image.chain.len());
    for chain in &image.chain {
        let layer = match known.get(chain) {
            Some(layer) => Arc::clone(layer),
            None => Arc::new(measure(store.inner().files(chain))?),
        };
        known.insert(chain.clone(), Arc::clone(&layer));
        layers.push(layer);
    }
    let config = config(image, &layers)?;
    let exported = Exported { names: names.to_vec(), original: image.id.clone(), id: Digest::of(&config) };
    Ok(Prepared { exported, config, layers })
}

fn measure(files: PathBuf) -> Result<Layer, ArchiveError> {
    let mut measure = Measure { hasher: Hasher::default(), size: 0 };
    let written = {
        let mut buffered = BufWriter::with_capacity(128 * 1024, &mut measure);
        write_layer(&files, &mut buffered).and_then(|()| buffered.flush())
    };
    written.map_err(|source| ArchiveError::File {
        operation: "read the layer in",
        path: files.clone(),
        source,
    })?;
    Ok(Layer { files, digest: measure.hasher.finish(), size: measure.size })
}

/// The image's configuration with the digests of the archives that are written; its own bytes where they are the same.
fn config(image: &Image, layers: &[Arc<Layer>]) -> Result<Vec<u8>, ArchiveError> {
    let digests: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    if image.config.rootfs().diff_ids().iter().map(String::as_str).eq(digests.iter().copied()) {
        return Ok(image.raw_config.clone());
    }
    let name = image.id.as_str();
    let mut config: Map<String, Value> =
        serde_json::from_slice(&image.raw_config).map_err(|e| ArchiveError::document(name, &e))?;
    config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": digests }));
    serde_json::to_vec(&config).map_err(|e| ArchiveError::document(name, &e))
}

/// Where an archive goes.
enum Target<W: Write> {
    Tar(BufWriter<W>),
    Directory(PathBuf),
}

/// An archive that is being written.
struct Archive<W: Write> {
    to: Target<W>,
    /// Files that are in it already.
    written: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn oci(&mut self, images: &[Prepared]) -> io::Result<()> {
        self.file("oci-layout", LAYOUT)?;
        let mut entries = Vec::new();
        for image in images {
            for layer in &image.layers {
                self.layer(&blob(&layer.digest), layer)?;
            }
            let manifest = manifest(image).to_string().into_bytes();
            let digest = Digest::of(&manifest);
            self.file(&blob(&image.exported.id), &image.config)?;
            self.file(&blob(&digest), &manifest)?;
            let mut entry = json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.len() });
            if image.exported.names.is_empty() {
                entries.push(entry.clone());
            }
            for name in &image.exported.names {
                let names = [oci::FULL_NAME, oci::REF_NAME].map(|key| (key.to_owned(), json!(name)));
                entry["annotations"] = Value::Object(names.into_iter().collect());
                entries.push(entry.clone());
            }
        }
        self.file(oci::INDEX, json!({ "schemaVersion": 2, "manifests": entries }).to_string().as_bytes())?;
        self.end()
    }

    fn docker(&mut self, images: &[Prepared]) -> io::Result<()> {
        let mut items = Vec::new();
        for image in images {
            let layers: Vec<_> =
                image.layers.iter().map(|layer| format!("{}.tar", layer.digest.hex())).collect();
            for (name, layer) in layers.iter().zip(&image.layers) {
                self.layer(name, layer)?;
            }
            let config = format!("{}.json", image.exported.id.hex());
            self.file(&config, &image.config)?;
            items.push(json!({ "Config": config, "RepoTags": image.exported.names, "Layers": layers }));
        }
        self.file(docker::MANIFEST, Value::Array(items).to_string().as_bytes())?;
        self.end()
    }

    fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        match &mut self.to {
            Target::Tar(to) => layer::write_file(name, content, to),
            Target::Directory(directory) => std::fs::write(directory.join(name), content),
        }
    }

    fn layer(&mut self, name: &str, layer: &Layer) -> io::Result<()> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        match &mut self.to {
            Target::Tar(to) => {
                layer::write_header(name, layer.size, to)?;
                write_again(layer, to)?;
                layer::pad(layer.size, to)
            }
            Target::Directory(directory) => {
                let mut to = BufWriter::with_capacity(1 << 20, File::create(directory.join(name))?);
                write_again(layer, &mut to)?;
                to.flush()
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match &mut self.to {
            Target::Tar(to) => layer::finish(to).and_then(|()| to.flush()),
            Target::Directory(_) => Ok(()),
        }
    }
}

/// Makes the layer's archive for the second time; it must become as long as it was.
fn write_again(layer: &Layer, to: &mut impl Write) -> io::Result<()> {
    let mut content = Exactly { to, left: layer.size };
    write_layer(&layer.files, &mut content)?;
    match content.left {
        0 => Ok(()),
        _ => Err(io::Error::other("a layer changed while it was exported")),
    }
}

fn manifest(image: &Prepared) -> Value {
    let layers = image.layers.iter();
    let layers =
        layers.map(|layer| json!({ "mediaType": OCI_LAYER, "digest": layer.digest, "size": layer.size }));
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": image.exported.id, "size": image.config.len() },
        "layers": layers.collect::<Vec<_>>(),
        "annotations": { ORIGINAL_ID: image.exported.original },
    })
}

fn blob(digest: &Digest) -> String {
    super::source::blob_name(digest)
}

/// Writes an archive to a file that appears when it is whole.
pub fn to_file(
    path: &Path,
    write: impl FnOnce(&File) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let fail = |operation| move |source| ArchiveError::File { operation, path: path.to_owned(), source };
    let written = File::create(&partial).map_err(fail("write")).and_then(|file| {
        write(&file)?;
        std::fs::rename(&partial, path).map_err(fail("write"))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// Length and digest of what is written.
struct Measure {
    hasher: Hasher,
    size: u64,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes no more bytes than were announced.
struct Exactly<'a, W: Write> {
    to: &'a mut W,
    left: u64,
}

impl<W: Write> Write for Exactly<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("a layer changed while it was exported"))?;
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
