//! What happens at start: the store is locked, its records are read, and what a crash left is cleared away.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::image::{self, Image};
use super::layer::{self, ChainId};
use super::state::{self, State};
use super::trash::Trash;
use super::{LOCK, StoreError};
use crate::id::ContainerId;
use crate::record;
use crate::sys::fs;

/// Makes the directories and takes the lock.
pub(super) fn prepare(root: &Path) -> Result<File, StoreError> {
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|e| StoreError::io("create", path, e))
    };
    make(root, 0o711)?;
    let path = root.join(LOCK);
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| StoreError::io("open", &path, e))?;
    if !fs::try_lock(&lock).map_err(|e| StoreError::io("lock", &path, e))? {
        return Err(StoreError::InUse(root.to_owned()));
    }
    // Images bring set-user-ID programs, which are none of the host users' business.
    for name in ["layers", "images", "staging", "containers", "trash"] {
        make(&root.join(name), 0o700)?;
    }
    make(&root.join("empty"), 0o755)?;
    fs::sync_directory(root).map_err(|e| StoreError::io("flush", root, e))?;
    Ok(lock)
}

/// Reads all records and discards what none of them names.
pub(super) fn load(root: &Path, trash: &Trash) -> Result<State, StoreError> {
    for name in names(&root.join("staging"))? {
        trash.put(&root.join("staging").join(name))?;
    }
    let mut state = State::default();
    load_images(root, &mut state)?;
    load_holds(root, &mut state)?;
    state.drop_unused();
    for name in names(&root.join("layers"))? {
        if !is_known(&state, &name) {
            tracing::info!(layer = name, "discarding a layer that no image has");
            trash.put(&root.join("layers").join(name))?;
        }
    }
    Ok(state)
}

fn is_known(state: &State, hex: &str) -> bool {
    let chain = serde_json::from_value::<ChainId>(format!("sha256:{hex}").into());
    chain.is_ok_and(|chain| state.layer(&chain).is_some())
}

fn load_images(root: &Path, state: &mut State) -> Result<(), StoreError> {
    let directory = root.join("images");
    record::sweep(&directory).map_err(|e| StoreError::io("clear", &directory, e))?;
    let mut images = Vec::new();
    for name in names(&directory)?.into_iter().filter(|name| name.ends_with(".json")) {
        let path = directory.join(&name);
        match load_image(root, &path, state) {
            Ok(image) => images.push(image),
            Err(reason) => {
                tracing::error!(path = %path.display(), reason, "image record is damaged: set aside, pull the image again");
                let aside = directory.join(format!("{name}.damaged"));
                std::fs::rename(&path, &aside).map_err(|e| StoreError::io("set aside", &path, e))?;
            }
        }
    }
    // A crash while a tag moved leaves two that claim it: the newer one has it.
    images.sort_by_key(|image| image.named_at);
    let owners: BTreeMap<String, _> = images
        .iter()
        .flat_map(|image| image.tags.iter().map(|tag| (tag.clone(), image.id.clone())))
        .collect();
    for mut image in images {
        image.tags.retain(|tag| owners.get(tag) == Some(&image.id));
        state.retain(&image.chain)?;
        state.images.insert(image.id.clone(), Arc::new(image));
    }
    Ok(())
}

fn load_image(root: &Path, path: &Path, state: &mut State) -> Result<Image, String> {
    let record = record::read(path).map_err(|e| explain(&e))?.ok_or("it vanished")?;
    let image = Image::from_record(record)?;
    if image::path(root, &image.id) != path {
        return Err(format!("it is that of image {}", image.id));
    }
    for chain in &image.chain {
        load_layer(root, chain, state)?;
    }
    Ok(image)
}

/// Takes in a layer, without users yet.
fn load_layer(root: &Path, chain: &ChainId, state: &mut State) -> Result<(), String> {
    if state.layer(chain).is_none() {
        let info = layer::read(root, chain).map_err(|e| explain(&e))?;
        state.add_layer(chain, info.ok_or_else(|| format!("its layer {chain} is missing"))?);
    }
    Ok(())
}

/// Containers keep their layers even where the image is gone. A hold that cannot be read is that of a container which
/// ended with a power cut.
fn load_holds(root: &Path, state: &mut State) -> Result<(), StoreError> {
    for name in names(&root.join("containers"))? {
        let Ok(id) = name.parse::<ContainerId>() else { continue };
        let path = root.join("containers").join(&name).join(state::HOLDS);
        let held: Vec<ChainId> = match record::read(&path) {
            Ok(held) => held.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(error = explain(&error), container = name, "container's hold is unreadable");
                continue;
            }
        };
        let held: Vec<ChainId> =
            held.into_iter().filter(|chain| load_layer(root, chain, state).is_ok()).collect();
        state.retain(&held)?;
        state.holds.insert(id, held);
    }
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    fs::names(directory).map_err(|e| StoreError::io("list", directory, e))
}

fn explain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
