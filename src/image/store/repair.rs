//! What a check looks at, and how what is broken is replaced while others use the store.
//!
//! A layer is unpacked again beside the broken one, and the two change places in one step. Overlays that are mounted keep
//! the old one, so where a container stands on it, it goes to `retired/`, whose name starts with the boot ID, and only the
//! reboot or the last such container's removal makes it garbage. A container notes what it stands on before it mounts it, so
//! who looks at the notes after the exchange sees all that can have mounted the old one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::check::{self, Finding};
use super::commit::{Staging, flush};
use super::image::Image;
use super::layer::{self, ChainId};
use super::load;
use super::trash::unique_name;
use super::{Inner, Store, StoreError};
use crate::image::extract::Extracted;
use crate::sys::fs;

/// Broken layers under running containers.
pub(super) const RETIRED: &str = "retired";

/// An image record that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRecord {
    /// The record's file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// The names of its image, as far as they can be read.
    pub names: Vec<String>,
}

/// What became of a layer that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldLayer {
    /// It was in nobody's way and is deleted.
    Discarded,
    /// Containers stand on it: they keep the broken files until they are made anew.
    Retired,
}

impl Store {
    /// The images as their records say, even where layers of them are missing, and the records that cannot be read.
    pub fn recorded(&self) -> Result<(Vec<Arc<Image>>, Vec<DamagedRecord>), StoreError> {
        let directory = self.inner.root.join("images");
        // No record is half written, and none half removed, meanwhile.
        let _section = self.inner.section()?;
        let (mut images, mut damaged) = (Vec::new(), Vec::new());
        let names = fs::names(&directory).map_err(|e| StoreError::io("list", &directory, e))?;
        for path in names.iter().filter(|name| name.ends_with(".json")).map(|name| directory.join(name)) {
            match load::read_image(&self.inner.root, &path) {
                Ok(image) => images.extend(image.map(Arc::new)),
                Err(reason) => damaged.push(DamagedRecord { names: names_in(&path), path, reason }),
            }
        }
        Ok((images, damaged))
    }

    /// Renames a record that cannot be used, so that nobody stumbles over it again.
    pub fn set_aside(&self, record: &DamagedRecord) -> Result<PathBuf, StoreError> {
        let mut section = self.inner.section()?;
        section.begin()?;
        load::set_aside(&record.path)
    }

    /// Compares a layer with what was unpacked. Blocks, and reads all of its files.
    pub fn check_layer(&self, chain: &ChainId) -> Vec<Finding> {
        check::check_layer(&layer::directory(&self.inner.root, chain))
    }

    /// Puts the layer that was unpacked as the last of `chain` in the place of the broken one. Blocks, and flushes.
    pub fn replace_layer(
        &self,
        staging: &Staging,
        chain: &[ChainId],
        extracted: &Extracted,
    ) -> Result<OldLayer, StoreError> {
        let Some((id, below)) = chain.split_last() else { return Ok(OldLayer::Discarded) };
        let mut layers = vec![None; below.len()];
        layers.push(Some(extracted.clone()));
        self.finish_layers(staging, chain, &layers)?;
        let mut section = self.inner.section()?;
        section.begin()?;
        self.inner.announce(chain, &section)?;
        // By way of `retired/`, so that the old one is there from the very exchange on.
        let name = format!("{}_{}_{}", self.inner.boot_id, id.hex(), unique_name());
        let retired = self.inner.root.join(RETIRED).join(name);
        let target = layer::directory(&self.inner.root, id);
        let failed = |e: Errno| StoreError::io("replace", &target, e.into());
        fs::rename_new(&staging.layer(below.len()), &retired).map_err(failed)?;
        match fs::exchange(&retired, &target) {
            // It had been missing.
            Err(Errno::NOENT) => fs::rename_new(&retired, &target).map_err(failed)?,
            exchanged => exchanged.map_err(failed)?,
        }
        flush(&self.inner.root.join("layers"))?;
        if retired.exists() && load::holds(&self.inner.home)?.into_values().flatten().any(|held| held == *id)
        {
            return Ok(OldLayer::Retired);
        }
        self.inner.discard(&retired)?;
        Ok(OldLayer::Discarded)
    }
}

impl Inner {
    /// Discards retired layers on which no container of this boot stands.
    pub(super) fn collect_retired(&self) -> Result<(), StoreError> {
        let directory = self.root.join(RETIRED);
        let names = fs::names(&directory).map_err(|e| StoreError::io("list", &directory, e))?;
        if names.is_empty() {
            return Ok(());
        }
        let held: BTreeSet<String> =
            self.state().holds.values().flatten().map(|chain| chain.hex().to_owned()).collect();
        let boot = self.boot_id.to_string();
        for name in names {
            let mut parts = name.split('_');
            let is_used = parts.next() == Some(&boot) && parts.next().is_some_and(|hex| held.contains(hex));
            if !is_used {
                self.trash.put(&directory.join(name))?;
            }
        }
        Ok(())
    }
}

/// The names that a damaged record's JSON still shows.
fn names_in(path: &Path) -> Vec<String> {
    let text = std::fs::read(path).unwrap_or_default();
    let Ok(record) = serde_json::from_slice::<serde_json::Value>(&text) else { return Vec::new() };
    let lists = ["tags", "repo_digests"].into_iter().filter_map(|key| record.get(key)?.as_array().cloned());
    lists.flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}
