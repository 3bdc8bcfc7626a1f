//! Classes of block I/O and of Intel's Resource Director Technology, which a pod's annotations name for its containers.
//!
//! ```text
//!   blockio.rs   the file of block I/O classes, and a class as limits     quantity.rs   numbers as Kubernetes writes them
//!   rdt.rs       a class of resctrl, which others make                    glob.rs       block devices by patterns of paths
//! ```
//!
//! The annotations are the API for this and count without being in a handler's `allowed_annotations`, as with other runtimes:
//! all that a class may do is in the node's own files. Invariant: a container gets the class that it asks for, or an error that
//! names the annotation.

use std::collections::HashMap;
use std::path::Path;

mod blockio;
mod glob;
mod quantity;
mod rdt;
#[cfg(test)]
mod tests;

pub use blockio::BlockIoError;
pub use quantity::parse as parse_quantity;
pub use rdt::RdtError;

use crate::spec::adjust::Edits;

/// Where the kernel's interface to RDT is mounted.
const RESCTRL: &str = "/sys/fs/resctrl";

type Annotations = HashMap<String, String>;

/// Why a container cannot have its class.
#[derive(Debug, thiserror::Error)]
#[error("{field}: class {class:?}")]
pub struct ClassError {
    /// The annotation, as a field of the request.
    pub field: String,
    /// What it says.
    pub class: String,
    /// Why not.
    #[source]
    pub why: WhyNot,
}

/// What is wrong with a class.
#[derive(Debug, thiserror::Error)]
pub enum WhyNot {
    /// A class of block I/O.
    #[error(transparent)]
    BlockIo(#[from] BlockIoError),
    /// A class of RDT.
    #[error(transparent)]
    Rdt(#[from] RdtError),
}

/// Who asks, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The container's name in its pod.
    pub name: &'a str,
    /// The container's annotations.
    pub container: &'a Annotations,
    /// The pod's.
    pub pod: &'a Annotations,
}

/// A class that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked<'a> {
    field: String,
    class: &'a str,
}

/// What the container gets for the classes that it asks for; `blockio_file` describes those of block I/O, and may be empty.
pub fn edits(blockio_file: &Path, subject: Subject<'_>) -> Result<Edits, ClassError> {
    let mut edits = Edits::default();
    if let Some(asked) = subject.asked("blockio") {
        let found = blockio::class(blockio_file, asked.class);
        edits.block_io = Some(found.map_err(|why| asked.refused(why.into()))?);
    }
    if let Some(asked) = subject.asked("rdt") {
        let found = rdt::class(Path::new(RESCTRL), asked.class);
        edits.intel_rdt = Some(found.map_err(|why| asked.refused(why.into()))?);
    }
    Ok(edits)
}

impl<'a> Subject<'a> {
    /// The class of that kind, if any: the narrowest annotation decides, also where it is empty, which asks for none.
    fn asked(&self, kind: &str) -> Option<Asked<'a>> {
        let own = format!("io.kubernetes.cri.{kind}-class");
        let named = format!("{kind}.resources.beta.kubernetes.io/container.{}", self.name);
        let all = format!("{kind}.resources.beta.kubernetes.io/pod");
        let (container, pod) =
            (("config.annotations", self.container), ("sandbox_config.annotations", self.pod));
        let places = [(container, &own), (container, &named), (pod, &named), (container, &all), (pod, &all)];
        let mut found = places.into_iter().filter_map(|((field, annotations), key)| {
            let class = annotations.get(key)?;
            Some(Asked { field: format!("{field}[{key:?}]"), class })
        });
        found.next().filter(|asked| !asked.class.is_empty())
    }
}

impl Asked<'_> {
    fn refused(self, why: WhyNot) -> ClassError {
        ClassError { field: self.field, class: self.class.to_owned(), why }
    }
}
