//! The volumes of a container: host paths, images, and what the operator and the image add.
//!
//! An image volume is looked up and held before anything of the container is made; the layers are then held by the
//! container's own record in the store, for as long as it exists. The monitor mounts them (`monitor/src/volumes.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Pods;
use super::create::Draft;
use super::error::{PodError, Stage, chain};
use super::sandbox::Pod;
use crate::api::{self, ContainerConfig};
use crate::config::{HostMount, ImageVolumes};
use crate::image::digest::Digest;
use crate::image::{FileKind, Image, Lease};
use crate::spec::{MountSource, SourcePropagation, Sources};

/// Where programs of old look for the table of mounts, and where it is.
const MTAB: (&str, &str) = ("/etc/mtab", "/proc/mounts");

/// An image that a container mounts, held against removal.
pub(super) struct ImageVolume {
    /// Its place in `config.mounts`.
    place: usize,
    image: Arc<Image>,
    _lease: Lease,
    /// What is wanted of it, without links; empty: all.
    sub_path: PathBuf,
    kind: FileKind,
}

impl Pods {
    /// The images among the mounts, each approved by the signature policy.
    pub(super) async fn image_volumes(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<Vec<ImageVolume>, PodError> {
        let mut volumes = Vec::new();
        for (place, mount) in config.mounts.iter().enumerate() {
            if let Some(spec) = &mount.image {
                let volume = self.image_volume(place, mount, spec)?;
                self.verify_image(pod, Some(spec), &volume.image).await?;
                volumes.push(volume);
            }
        }
        Ok(volumes)
    }

    fn image_volume(
        &self,
        place: usize,
        mount: &api::Mount,
        spec: &api::ImageSpec,
    ) -> Result<ImageVolume, PodError> {
        let failed = |name: &str, text: String| PodError::ImageVolume {
            field: format!("config.mounts[{place}].{name}"),
            text,
        };
        let absent =
            || failed("image.image", format!("image {:?} is not on the node; pull it first", spec.image));
        let image = self.images.find(&spec.image).map_err(|e| failed("image.image", chain(&e)))?;
        let image = image.ok_or_else(absent)?;
        let lease = self.images.lease(&image.id).ok_or_else(absent)?;
        let wanted = &mount.image_sub_path;
        let found = self.images.look_up(&image, Path::new(wanted));
        let found =
            found.map_err(|e| failed("image_sub_path", format!("{wanted:?} in {}: {e}", image.id)))?;
        match found {
            None => Err(failed("image_sub_path", format!("{wanted:?} is not in the image {:?}", spec.image))),
            Some((_, FileKind::Other)) => {
                Err(failed("image_sub_path", format!("{wanted:?} is neither a directory nor a regular file")))
            }
            Some((sub_path, kind @ (FileKind::Directory | FileKind::File))) => {
                Ok(ImageVolume { place, image, _lease: lease, sub_path, kind })
            }
        }
    }

    /// Where the runtime finds each of the mounts.
    pub(super) fn mount_sources(&self, draft: &Draft<'_>) -> Result<Vec<MountSource>, PodError> {
        let sources = Sources::default();
        let of_images: BTreeMap<usize, PathBuf> = draft
            .volumes
            .iter()
            .enumerate()
            .map(|(number, volume)| (volume.place, self.paths.volume(number, &volume.sub_path)))
            .collect();
        let source = |(n, mount): (usize, &api::Mount)| match of_images.get(&n) {
            Some(path) => Ok(MountSource { path: path.clone(), propagation: SourcePropagation::Private }),
            None => sources.find(mount).map_err(|e| {
                PodError::invalid(
                    format!("config.mounts[{n}].host_path"),
                    format!("{}: {e}", mount.host_path),
                )
            }),
        };
        draft.facts.config.mounts.iter().enumerate().map(source).collect()
    }

    /// The layers of the image volumes, which the container keeps from here on.
    pub(super) fn volume_layers(&self, draft: &Draft<'_>) -> Result<Vec<Vec<PathBuf>>, PodError> {
        let stage = |_| Stage::begin("holding the image volumes", &draft.facts.name);
        let layers = |volume: &ImageVolume| self.images.mount_source(&volume.image, &draft.facts.id);
        draft.volumes.iter().map(|volume| stage(()).check(layers(volume))).collect()
    }

    /// What the operator mounts into every container.
    pub(super) fn default_mounts(&self) -> Result<Vec<HostMount>, PodError> {
        let mut mounts = self.config.mounts.of_every_container();
        for mount in &mut mounts {
            let stage = Stage::begin("looking at the default mount", &mount.source.display());
            let found = fs::canonicalize(&mount.source);
            mount.source =
                stage.check(found.map_err(|e| format!("{e}; it is named in [mounts] of podd.toml")))?;
        }
        Ok(mounts)
    }

    /// Directories that the image declares as volumes: each container gets its own, in its writable layer.
    pub(super) fn declared_volumes(&self, image: &Image) -> Vec<PathBuf> {
        match self.config.mounts.image_volumes {
            ImageVolumes::Ignore => Vec::new(),
            ImageVolumes::Mkdir => {
                let declared = image.config.config().as_ref().and_then(|config| config.volumes().as_ref());
                declared.into_iter().flatten().map(PathBuf::from).collect()
            }
        }
    }

    /// The mount that a runtime cannot make, if one is of a directory over a file or the reverse: each runtime says so in
    /// other words. Only asked for when it has refused.
    pub(super) fn impossible_mount(&self, draft: &Draft<'_>) -> Option<PodError> {
        let mounts = &draft.facts.config.mounts;
        let mut own = ["/dev", "/proc", "/sys"].map(Path::new).to_vec();
        own.extend(mounts.iter().map(|mount| Path::new(&mount.container_path)));
        mounts.iter().enumerate().find_map(|(place, mount)| {
            let at = Path::new(&mount.container_path);
            // Below another mount the container does not see the image.
            let is_hidden = own.iter().any(|other| at != *other && at.starts_with(other));
            let text = if is_hidden { None } else { self.mismatch(draft, place, mount) };
            text.map(|text| PodError::invalid(format!("config.mounts[{place}].container_path"), text))
        })
    }

    /// What keeps a mount from its place in the image, if anything does.
    fn mismatch(&self, draft: &Draft<'_>, place: usize, mount: &api::Mount) -> Option<String> {
        let (source, is_directory) = match draft.volumes.iter().find(|volume| volume.place == place) {
            Some(volume) => (volume.image.id.to_string(), volume.kind == FileKind::Directory),
            None => (mount.host_path.clone(), fs::metadata(&mount.host_path).ok()?.is_dir()),
        };
        let at = &mount.container_path;
        let (one, other) = match (is_directory, self.images.look_up(&draft.image, Path::new(at)).ok()??.1) {
            (true, FileKind::File | FileKind::Other) => ("a file", "a directory"),
            (false, FileKind::Directory) => ("a directory", "a file"),
            (true, FileKind::Directory) | (false, FileKind::File | FileKind::Other) => return None,
        };
        Some(format!("{at:?} is {one} in the image, and {source} is {other}, which cannot be mounted on it"))
    }
}

/// The images of the volumes, by their places in `config.mounts`.
pub(super) fn images_of(volumes: &[ImageVolume]) -> BTreeMap<usize, Digest> {
    volumes.iter().map(|volume| (volume.place, volume.image.id.clone())).collect()
}

/// Links that a container's root filesystem is to have where the image has nothing.
pub(super) fn links() -> Vec<(PathBuf, PathBuf)> {
    vec![(MTAB.0.into(), MTAB.1.into())]
}
