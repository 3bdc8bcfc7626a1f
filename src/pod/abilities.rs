//! What the node can do of what a client may ask for: by its runtimes and by its kernel. Asked in the background once the
//! daemon runs, so that Status knows it soon; a runtime that is not there yet is asked again until it is.

use std::path::Path;
use std::time::Duration;

use super::error::chain;
use super::{PodError, Pods};
use crate::runtime::Features;
use crate::sys::{self, kernel, namespace};

/// How long after a failure a runtime is asked again.
const AGAIN: Duration = Duration::from_secs(30);

/// The first Linux whose overlayfs takes layers with mapped owners.
const KERNEL: (u32, u32) = (5, 19);

impl Pods {
    /// Asks the runtimes that have not answered yet, until all have.
    pub async fn look_at_the_node(&self) {
        if let Err(why) = self.user_namespaces().await {
            tracing::info!("pods cannot have user namespaces of their own: {why}");
        }
        let mut told = Vec::new();
        loop {
            let mut missing = false;
            for name in self.runtimes.keys() {
                let Err(error) = self.runtime(name).await else { continue };
                missing = true;
                if !told.contains(name) {
                    tracing::info!("the runtime {name} cannot be used yet: {}", chain(&error));
                    told.push(name.clone());
                }
            }
            if !missing {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The abilities of a handler's runtime; `None` until it has answered.
    pub fn features(&self, handler: &str) -> Option<&Features> {
        Some(self.runtimes.get(handler)?.get()?.features())
    }

    /// Whether pods can have user namespaces of their own, as far as it is known by now.
    pub fn has_user_namespaces(&self) -> bool {
        self.user_namespaces.get().is_some_and(Result::is_ok)
    }

    /// Whether pods can have user namespaces of their own, or else why not.
    async fn user_namespaces(&self) -> Result<(), String> {
        let ask = || async {
            let root = self.config.root.clone();
            sys::blocking(move || user_namespaces_on(&root)).await
        };
        self.user_namespaces.get_or_init(ask).await.clone()
    }

    /// Refuses a pod that wants a user namespace (`hostUsers: false`) where there can be none.
    pub(super) async fn check_user_namespaces(&self) -> Result<(), PodError> {
        self.user_namespaces().await.map_err(|why| {
            let field = "config.linux.security_context.namespace_options.userns_options";
            PodError::invalid(field, format!("no user namespace for hostUsers: false on this node: {why}"))
        })
    }
}

/// Whether pods whose files lie below `root` can have user namespaces of their own, or else why not. Blocks; needs root.
pub fn user_namespaces_on(root: &Path) -> Result<(), String> {
    let (major, minor) = KERNEL;
    if !kernel::is_at_least(major, minor) {
        return Err(format!("they need Linux {major}.{minor}; this is {}", kernel::release()));
    }
    let refused =
        |e| format!("the file system of {} cannot be mounted with mapped owners: {e}", root.display());
    namespace::maps_owners(root).map_err(refused)
}
