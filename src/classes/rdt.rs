//! A class of RDT: a directory of resctrl, which whoever manages the node makes; containers are only put into it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;

/// Other names of the class that holds all tasks without another one, which OCI calls `/`.
const ROOT: [&str; 2] = ["/", "system/default"];

/// Why a container cannot be put into a class.
#[derive(Debug, thiserror::Error)]
pub enum RdtError {
    /// It cannot be a class.
    #[error("it is not one name without \"/\", and not \"/\"")]
    Name,
    /// The kernel or the node has no RDT.
    #[error("resctrl is not mounted on {}; mount it, on a CPU and kernel with RDT", .0.display())]
    NotMounted(PathBuf),
    /// Nobody has made it.
    #[error("{} is not a class of resctrl; make the class first", .0.display())]
    Unknown(PathBuf),
}

/// The class by its name, which must be there: a runtime would make a class that limits nothing.
pub(super) fn class(resctrl: &Path, name: &str) -> Result<LinuxIntelRdt, RdtError> {
    let root = ROOT.contains(&name);
    if !root && (name == "." || name == ".." || name.contains(['/', '\0', '\n'])) {
        return Err(RdtError::Name);
    }
    // Each class has this file, and nothing else in there.
    let is_class = |directory: &Path| directory.join("schemata").is_file();
    if !is_class(resctrl) {
        return Err(RdtError::NotMounted(resctrl.to_owned()));
    }
    let directory = resctrl.join(name);
    if !root && !is_class(&directory) {
        return Err(RdtError::Unknown(directory));
    }
    let mut rdt = LinuxIntelRdt::default();
    rdt.set_clos_id(Some(if root { "/" } else { name }.to_owned()));
    Ok(rdt)
}
