//! Reading what is on disk: all of it at start, and later what other processes have changed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::guest::GUESTS;
use super::image::{self, Image};
use super::layer::{self, ChainId, explain};
use super::repair::RETIRED;
use super::shared::Stamp;
use super::state::{self, State};
use super::unfinished::KEPT;
use super::{Inner, LOCK, Places, Role, StoreError};
use crate::id::ContainerId;
use crate::record;
use crate::sys::fs;
use crate::telemetry::{Leak, metrics};

/// Makes the directories.
pub(super) fn prepare(places: &Places) -> Result<(), StoreError> {
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|e| StoreError::io("create", path, e))
    };
    // Images bring set-user-ID programs, which are none of the host users' business.
    let all = |root: &Path, names: &[&str]| {
        make(root, 0o711)?;
        names.iter().try_for_each(|name| make(&root.join(name), 0o700))
    };
    all(&places.images, &["layers", "images", "staging", "trash", GUESTS, KEPT, RETIRED])?;
    make(&places.images.join("empty"), 0o755)?;
    all(&places.containers, &["containers", "trash"])?;
    [&places.images, &places.containers]
        .iter()
        .try_for_each(|root| fs::sync_directory(root).map_err(|e| StoreError::io("flush", root, e)))
}

/// Keeps every other daemon out of both places.
pub(super) fn lock(places: &Places) -> Result<Vec<File>, StoreError> {
    let mut roots = vec![&places.images, &places.containers];
    roots.dedup();
    roots.into_iter().map(|root| lock_root(root)).collect()
}

fn lock_root(root: &Path) -> Result<File, StoreError> {
    let path = root.join(LOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = opened.map_err(|e| StoreError::io("open", &path, e))?;
    match fs::lock_soon(&lock).map_err(|e| StoreError::io("lock", &path, e))? {
        true => Ok(lock),
        false => Err(StoreError::InUse(root.to_owned())),
    }
}

impl Inner {
    /// What the owner does first: damaged records are set aside, all others are read, and what none of them names is
    /// discarded, but for what guests are at.
    pub(super) fn take_over(&self) -> Result<(), StoreError> {
        let mut section = self.shared.section()?;
        let staging = self.root.join("staging");
        for name in names(&staging)? {
            metrics().leak_found(Leak::Image);
            self.discard_staging(&staging.join(name))?;
            metrics().leak_repaired(Leak::Image);
        }
        section.begin()?;
        set_damaged_aside(&self.root)?;
        let layers = self.root.join("layers");
        for name in names(&layers)? {
            let known = chain_of(&name)
                .is_some_and(|chain| load_layer(&self.root, &chain, &mut self.state()).is_ok());
            if !known {
                metrics().leak_found(Leak::Image);
                self.trash.put(&layers.join(name))?;
                metrics().leak_repaired(Leak::Image);
            }
        }
        load_holds(self, &mut self.state())?;
        self.take_in(&mut section.seen.records)?;
        section.looked()?;
        self.collect_within(&mut section)
    }

    /// Takes in what other processes did to images. The caller has `known`, what this process has read, to itself.
    pub(super) fn take_in(&self, known: &mut HashMap<String, Stamp>) -> Result<(), StoreError> {
        let directory = self.root.join("images");
        let mut found = HashMap::new();
        let mut changed = Vec::new();
        for name in names(&directory)?.into_iter().filter(|name| name.ends_with(".json")) {
            // One that vanishes meanwhile has been removed.
            let Ok(stamp) = Stamp::of(&directory.join(&name)) else { continue };
            if known.get(&name) != Some(&stamp) {
                changed.push(name.clone());
            }
            found.insert(name, stamp);
        }
        let mut state = self.state();
        let gone: Vec<_> =
            state.images.keys().filter(|id| !found.contains_key(&image::file_name(id))).cloned().collect();
        for id in gone {
            state.remove_image(&id);
        }
        for name in self.take_in_images(&changed, &mut state)? {
            // A layer that it lacks may come back.
            found.remove(&name);
        }
        if matches!(self.role, Role::Guest(_)) {
            // The owner may take away at any time what no one is known to use.
            for chain in state.unused() {
                state.forget(&chain);
            }
        }
        *known = found;
        Ok(())
    }

    /// Returns the names of records that cannot be used.
    fn take_in_images(&self, names: &[String], state: &mut State) -> Result<Vec<String>, StoreError> {
        let directory = self.root.join("images");
        let mut unusable = Vec::new();
        for name in names {
            let path = directory.join(name);
            match load_image(&self.root, &path, state) {
                Ok(Some(image)) => state.put_image(Arc::new(image))?,
                Ok(None) => {}
                Err(reason) => {
                    tracing::error!(path = %path.display(), reason, "image record is damaged: pull the image again");
                    unusable.push(name.clone());
                }
            }
        }
        // A crash while a tag moved leaves two that claim it, and in the middle of a move there are two as well.
        if !names.is_empty() {
            state.settle_tags();
        }
        Ok(unusable)
    }
}

/// Sets aside the records that cannot be used.
fn set_damaged_aside(root: &Path) -> Result<(), StoreError> {
    let directory = root.join("images");
    record::sweep(&directory).map_err(|e| StoreError::io("clear", &directory, e))?;
    let mut state = State::default();
    for name in names(&directory)?.into_iter().filter(|name| name.ends_with(".json")) {
        let path = directory.join(&name);
        if let Err(reason) = load_image(root, &path, &mut state) {
            tracing::error!(path = %path.display(), reason, "image record is damaged: set aside, pull the image again");
            set_aside(&path)?;
        }
    }
    Ok(())
}

/// Gives a record that cannot be used a name under which it is not looked at again.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let aside = path.with_extension("json.damaged");
    std::fs::rename(path, &aside).map_err(|e| StoreError::io("set aside", path, e))?;
    Ok(aside)
}

fn chain_of(hex: &str) -> Option<ChainId> {
    serde_json::from_value(format!("sha256:{hex}").into()).ok()
}

/// The image of a record, and its layers, without users yet; `None` when there is no record.
fn load_image(root: &Path, path: &Path, state: &mut State) -> Result<Option<Image>, String> {
    let image = read_image(root, path)?;
    for chain in image.iter().flat_map(|image| &image.chain) {
        load_layer(root, chain, state)?;
    }
    Ok(image)
}

/// The image of a record alone.
pub(super) fn read_image(root: &Path, path: &Path) -> Result<Option<Image>, String> {
    let Some(record) = record::read(path).map_err(|e| explain(&e))? else { return Ok(None) };
    let image = Image::from_record(record)?;
    match image::path(root, &image.id) == path {
        true => Ok(Some(image)),
        false => Err(format!("it is that of image {}", image.id)),
    }
}

/// Takes in a layer, without users yet.
fn load_layer(root: &Path, chain: &ChainId, state: &mut State) -> Result<(), String> {
    if state.layer(chain).is_none() {
        let info = layer::read(root, chain).map_err(|e| explain(&e))?;
        state.add_layer(chain, info.ok_or_else(|| format!("its layer {chain} is missing"))?);
    }
    Ok(())
}

/// Containers keep their layers even where the image is gone.
fn load_holds(inner: &Inner, state: &mut State) -> Result<(), StoreError> {
    for (id, held) in holds(&inner.home)? {
        let held: Vec<ChainId> =
            held.into_iter().filter(|chain| load_layer(&inner.root, chain, state).is_ok()).collect();
        state.retain(&held)?;
        state.holds.insert(id, held);
    }
    Ok(())
}

/// What the containers' notes say of the layers that they stand on. One that cannot be read is that of a container which
/// ended with a power cut.
pub(super) fn holds(home: &Path) -> Result<BTreeMap<ContainerId, Vec<ChainId>>, StoreError> {
    let mut holds = BTreeMap::new();
    let containers = home.join("containers");
    for name in names(&containers)? {
        let Ok(id) = name.parse::<ContainerId>() else { continue };
        match record::read::<Vec<ChainId>>(&containers.join(&name).join(state::HOLDS)) {
            Ok(held) => drop(holds.insert(id, held.unwrap_or_default())),
            Err(error) => {
                tracing::warn!(error = explain(&error), container = name, "container's hold is unreadable");
            }
        }
    }
    Ok(holds)
}

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    fs::names(directory).map_err(|e| StoreError::io("list", directory, e))
}
