//! Devices of the Container Device Interface: vendors describe in files what a container needs for a device (nodes, mounts,
//! variables, hooks, groups), and a container asks for the device by name.
//!
//! ```text
//!   name.rs      vendor/class=name        document.rs   one spec file, checked
//!   find.rs      directories of files     convert.rs    what a file asks for, as edits of a document
//! ```
//!
//! The files are read anew for each container that asks for a device: they change whenever a driver is set up, and
//! a node has few of them. Invariant: a container gets all of the devices that it asks for, or an error that names one.

use std::path::{Path, PathBuf};
use std::rc::Rc;

mod convert;
mod document;
mod find;
mod name;
#[cfg(test)]
mod tests;

pub use convert::NodeError;
pub use document::{Document, DocumentError, Form, parse};
pub use find::{Broken, BrokenWhy};
pub use name::{DeviceName, NameError};

use crate::spec::adjust::Edits;
use find::{Place, SpecFile};

/// Annotations of a container whose values name devices, by the front of their names.
const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// Why a container cannot have a device.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// No file describes it.
    #[error("no device {name} is described in {}{}", paths(.directories), also(.broken))]
    Unknown {
        /// The device.
        name: DeviceName,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
        /// Files that might have described it.
        broken: Vec<Broken>,
    },
    /// Several files of one directory describe it.
    #[error("device {name} is described more than once, in {}; remove all but one", paths(.files))]
    Conflict {
        /// The device.
        name: DeviceName,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// The host does not have what its file says.
    #[error("device {name}, as {} describes it", file.display())]
    Node {
        /// The device.
        name: DeviceName,
        /// The file.
        file: PathBuf,
        /// The node.
        #[source]
        source: NodeError,
    },
}

/// The devices that a container's annotations name: values of `cdi.k8s.io/*`, separated by commas.
///
/// The error comes with the annotation's name.
pub fn annotated<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<DeviceName>, (String, NameError)> {
    let mut asked: Vec<_> =
        annotations.into_iter().filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX)).collect();
    asked.sort();
    let names = asked.into_iter().flat_map(|(key, value)| value.split(',').map(move |name| (key, name)));
    names.map(|(key, name)| name.trim().parse().map_err(|error| (key.clone(), error))).collect()
}

/// What the container gets for the devices that it asks for, each once.
pub fn edits(directories: &[PathBuf], names: &[DeviceName]) -> Result<Edits, CdiError> {
    if names.is_empty() {
        return Ok(Edits::default());
    }
    let mut found = find::find(directories);
    for broken in &found.broken {
        tracing::warn!("a CDI spec file is passed over: {broken}");
    }
    let (mut all, mut used): (Edits, Vec<Rc<SpecFile>>) = Default::default();
    for (n, name) in names.iter().enumerate() {
        if names[..n].contains(name) {
            continue;
        }
        let place = match found.devices.get(name).map(Vec::as_slice) {
            Some([place]) => place.clone(),
            Some(places) => {
                let files = places.iter().map(|place| place.file.path.clone()).collect();
                return Err(CdiError::Conflict { name: name.clone(), files });
            }
            None => {
                let (directories, broken) = (directories.to_vec(), std::mem::take(&mut found.broken));
                return Err(CdiError::Unknown { name: name.clone(), directories, broken });
            }
        };
        add(&mut all, &mut used, name, &place)?;
    }
    Ok(all)
}

/// The file's own edits, once, then the device's.
fn add(
    all: &mut Edits,
    used: &mut Vec<Rc<SpecFile>>,
    name: &DeviceName,
    place: &Place,
) -> Result<(), CdiError> {
    let Place { file, device } = place;
    let failed = |source| CdiError::Node { name: name.clone(), file: file.path.clone(), source };
    if !used.iter().any(|other| Rc::ptr_eq(other, file)) {
        all.append(convert::edits(&file.document.container_edits).map_err(failed)?);
        used.push(Rc::clone(file));
    }
    let device = &file.document.devices[*device];
    all.append(convert::edits(&device.container_edits).map_err(failed)?);
    Ok(())
}

fn paths<P: AsRef<Path>>(paths: &[P]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.as_ref().display().to_string()).collect();
    paths.join(" and ")
}

fn also(broken: &[Broken]) -> String {
    let broken: Vec<_> = broken.iter().map(ToString::to_string).collect();
    match broken.is_empty() {
        true => String::new(),
        false => format!("; passed over: {}", broken.join("; ")),
    }
}
