//! Names of cgroups: what the client gives as a parent, and what a container's own is called below it.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::{CgroupError, Driver};

/// A cgroup below the root: absolute, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

/// Where a container's cgroup is: for the runtime, and for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// `linux.cgroupsPath` of the runtime's document.
    pub spec: String,
    /// The directory, relative to each hierarchy.
    pub path: CgroupPath,
}

impl CgroupPath {
    /// Takes a path as clients write it; a missing slash at the front is added.
    pub fn new(text: &str) -> Result<Self, CgroupError> {
        let refused = || CgroupError::Parent(text.to_owned());
        if text.contains(char::is_control) || text.trim() != text {
            return Err(refused());
        }
        let mut clean = String::new();
        for component in Path::new(text).components() {
            match component {
                Component::Normal(name) => {
                    clean.push('/');
                    clean.push_str(name.to_str().ok_or_else(refused)?);
                }
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(refused()),
            }
        }
        Ok(Self(if clean.is_empty() { "/".to_owned() } else { clean }))
    }

    /// The path from the root of a hierarchy.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root itself, which is never made, emptied or removed.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The cgroup of that name below this one. The name must be one plain component.
    fn child(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0.trim_end_matches('/')))
    }

    /// The directory of this cgroup in the hierarchy mounted at `root`.
    pub(super) fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0[1..])
    }

    /// This cgroup and all above it but the root, from the outermost inwards.
    pub(super) fn lineage(&self) -> Vec<Self> {
        let ends = self.0.match_indices('/').map(|(at, _)| at).skip(1).chain([self.0.len()]);
        ends.filter(|_| !self.is_root()).map(|end| Self(self.0[..end].to_owned())).collect()
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = CgroupError;
    fn try_from(text: String) -> Result<Self, CgroupError> {
        Self::new(&text)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> String {
        path.0
    }
}

/// The slice of a pod whose client names none, with the systemd driver: always there, and systemd's own to keep.
const DEFAULT_SLICE: &str = "system.slice";

/// The slice that is the root of every hierarchy.
const ROOT_SLICE: &str = "-.slice";

/// What names of cgroups begin with.
const PREFIX: &str = "podd";

/// The cgroup of a pod whose client gives that `cgroup_parent`; `own` where it gives none and directories are podd's.
pub fn parent(driver: Driver, cgroup_parent: &str, own: &str) -> Result<CgroupPath, CgroupError> {
    match (driver, cgroup_parent) {
        (Driver::Cgroupfs, "") => CgroupPath::new(own),
        (Driver::Cgroupfs, given) => CgroupPath::new(given),
        (Driver::Systemd, "") => expand_slice(DEFAULT_SLICE),
        (Driver::Systemd, given) => expand_slice(slice_of(&CgroupPath::new(given)?)),
    }
}

/// Where the container `id` of a pod with that cgroup has its own.
pub fn location(driver: Driver, pod: &CgroupPath, id: &str) -> Result<Location, CgroupError> {
    match driver {
        Driver::Systemd => {
            let slice = slice_of(pod);
            let path = expand_slice(slice)?.child(&format!("{PREFIX}-{id}.scope"));
            Ok(Location { spec: format!("{slice}:{PREFIX}:{id}"), path })
        }
        Driver::Cgroupfs => {
            let path = pod.child(&format!("{PREFIX}-{id}"));
            Ok(Location { spec: path.0.clone(), path })
        }
    }
}

/// The directory that a document's `linux.cgroupsPath` stands for, by its form: a path, or `<slice>:podd:<id>`, which systemd
/// makes as the scope `podd-<id>.scope` in that slice.
pub fn path_of_spec(spec: &str) -> Result<CgroupPath, CgroupError> {
    match spec.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, id] if is_systemd(spec) => {
            let scope = format!("{prefix}-{id}.scope");
            match CgroupPath::new(&scope)?.0.strip_prefix('/') {
                Some(name) if name == scope && !name.contains('/') => Ok(expand_slice(slice)?.child(name)),
                Some(_) | None => Err(CgroupError::Parent(spec.to_owned())),
            }
        }
        _ => CgroupPath::new(spec),
    }
}

/// Whether a document's `linux.cgroupsPath` asks systemd for the cgroup.
pub fn is_systemd(spec: &str) -> bool {
    !spec.starts_with('/') && spec.matches(':').count() == 2
}

/// The last name of the path is the slice's, whatever is before it.
fn slice_of(path: &CgroupPath) -> &str {
    match path.0.rsplit('/').next() {
        Some("") | None => ROOT_SLICE,
        Some(name) => name,
    }
}

/// `a-b.slice` lives in `/a.slice/a-b.slice`: each dash is a level.
fn expand_slice(slice: &str) -> Result<CgroupPath, CgroupError> {
    let refused = || CgroupError::Slice(slice.to_owned());
    let name = slice.strip_suffix(".slice").ok_or_else(refused)?;
    if name == "-" {
        return Ok(CgroupPath("/".to_owned()));
    }
    if name.split('-').any(str::is_empty) {
        return Err(refused());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.fold(CgroupPath("/".to_owned()), |path, end| path.child(&format!("{}.slice", &name[..end]))))
}
