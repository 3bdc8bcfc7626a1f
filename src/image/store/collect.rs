//! Garbage: what no image, container, lease or guest has a use for.
//!
//! Only the owner collects, with the right to change the store, after it has looked at what others changed.

use std::os::fd::AsFd;
use std::path::Path;

use super::guest::Guests;
use super::shared::Section;
use super::{Inner, Role, StoreError, layer};
use crate::sys::fs;

impl Inner {
    /// Moves layers that nobody uses and what guests left into the trash. Blocks.
    pub(super) fn collect(&self) -> Result<(), StoreError> {
        let mut section = self.section()?;
        self.collect_within(&mut section)
    }

    /// The same for one that is just changing the store. What cannot be moved stays until the next time.
    pub(super) fn collect_within(&self, section: &mut Section<'_>) -> Result<(), StoreError> {
        if !matches!(self.role, Role::Owner(_)) {
            return Ok(());
        }
        let guests = Guests::look(&self.root, section)?;
        let mut state = self.state();
        for chain in guests.gone.iter().flat_map(|(_, listed)| listed) {
            // What a guest put into place, and did not live to name.
            if state.layer(chain).is_none()
                && let Ok(Some(info)) = layer::read(&self.root, chain)
            {
                state.add_layer(chain, info);
            }
        }
        let unused = if guests.unknown { Vec::new() } else { state.unused() };
        for chain in unused.iter().filter(|chain| !guests.leased.contains(*chain)) {
            section.begin()?;
            tracing::debug!(layer = %chain, "discarding a layer that nothing uses");
            self.trash.put(&layer::directory(&self.root, chain))?;
            state.forget(chain);
        }
        drop(state);
        self.collect_retired()?;
        for (directory, _) in &guests.gone {
            for name in fs::names(directory).unwrap_or_default() {
                self.keep_finished(&directory.join(name));
            }
            self.trash.put(directory)?;
        }
        Ok(())
    }

    /// Discards a staging directory, but for what is of use to the next pull.
    pub(super) fn discard_staging(&self, path: &Path) -> Result<(), StoreError> {
        self.keep_finished(path);
        self.discard(path)
    }

    /// A guest leaves no more behind than what the owner has to look at.
    pub(super) fn leave(&self) -> Result<(), StoreError> {
        let Role::Guest(guest) = &self.role else { return Ok(()) };
        self.trash.close();
        let mut section = self.section()?;
        // Tells the owner that layers may be free now.
        section.begin()?;
        let left = {
            let state = self.state();
            guest.leave(|chain| state.is_used(chain))
        };
        left.map_err(|e| StoreError::io("clear", &guest.directory, e))
    }

    /// Deletes what is in the trash.
    pub(super) fn empty_trash(directory: &Path) {
        let emptied = fs::open_directory(directory).and_then(|dir| fs::empty_directory(dir.as_fd()));
        if let Err(error) = emptied {
            tracing::warn!(path = %directory.display(), %error, "trash cannot be emptied");
        }
    }
}
