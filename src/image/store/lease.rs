//! Leases: what keeps a layer while someone works with it.

use std::sync::Arc;

use super::layer::ChainId;
use super::shared::Section;
use super::{Inner, Role, StoreError};

/// Keeps layers from being deleted, until it is dropped.
pub struct Lease {
    pub(super) inner: Arc<Inner>,
    pub(super) chain: Vec<ChainId>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.release(&self.chain);
    }
}

impl Inner {
    /// Counts on layers that are here. A guest has to tell the owner first, and so may wait for its turn.
    pub(super) fn lease(self: &Arc<Self>, chain: &[ChainId]) -> Result<Lease, StoreError> {
        match &self.role {
            // Nobody but this process takes layers away.
            Role::Owner(_) => self.state().retain(chain)?,
            Role::Guest(_) => return self.lease_within(chain, &self.section()?),
        }
        Ok(Lease { inner: Arc::clone(self), chain: chain.to_vec() })
    }

    /// The same for one that is just changing the store.
    pub(super) fn lease_within(
        self: &Arc<Self>,
        chain: &[ChainId],
        section: &Section<'_>,
    ) -> Result<Lease, StoreError> {
        self.announce(chain, section)?;
        self.state().retain(chain)?;
        Ok(Lease { inner: Arc::clone(self), chain: chain.to_vec() })
    }

    /// Tells the owner of layers that are to be counted on or put into place, so that it leaves them alone, and finds them if
    /// this process is killed.
    pub(super) fn announce(&self, chain: &[ChainId], section: &Section<'_>) -> Result<(), StoreError> {
        match &self.role {
            Role::Owner(_) => Ok(()),
            Role::Guest(guest) => guest.list(chain, section),
        }
    }

    /// Takes a user from each layer. Those without any are collected on another thread: who drops a lease may be in a hurry.
    pub(super) fn release(&self, chain: &[ChainId]) {
        if self.state().release(chain) && matches!(self.role, Role::Owner(_)) {
            self.trash.wake();
        }
    }
}
