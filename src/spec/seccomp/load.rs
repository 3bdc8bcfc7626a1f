//! Reading profiles. With `observe.rs` the only part of the module that looks at the system.

use std::borrow::Cow;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use super::{FIELD, Filter, InvalidProfile, Profile, Wanted, wanted};
use crate::api;
use crate::config::{SeccompConfig, UnsetSeccomp};
use crate::spec::SpecError;

/// The largest profile that is read, in bytes; the longest known ones have 20 KB.
const MAX_BYTES: u64 = 1 << 20;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum UnreadableProfile {
    /// The file cannot be read.
    #[error("the seccomp profile {path} cannot be read")]
    Io { path: PathBuf, source: io::Error },
    /// The file is too large.
    #[error("the seccomp profile {path} has more than 1 MiB")]
    TooLarge { path: PathBuf },
    /// The file is no profile.
    #[error("{path} is not a seccomp profile")]
    Invalid { path: PathBuf, source: InvalidProfile },
}

/// The node's rules about profiles, and its default one.
#[derive(Debug)]
pub struct Profiles {
    default: Option<Profile>,
    localhost_root: PathBuf,
    unset: UnsetSeccomp,
}

impl Profiles {
    /// Reads the default profile, where the configuration names one.
    pub fn load(config: &SeccompConfig) -> Result<Self, UnreadableProfile> {
        let file = Some(config.profile.as_path()).filter(|path| !path.as_os_str().is_empty());
        Ok(Self {
            default: file.map(read).transpose()?,
            localhost_root: config.localhost_root.clone(),
            unset: config.unset,
        })
    }

    /// The filter that a container asks for. A profile of the kubelet's is read each time: it may have been written anew.
    pub fn filter(&self, config: &api::ContainerConfig) -> Result<Filter<'_>, SpecError> {
        match (wanted(config, self.unset), &self.default) {
            (Wanted::Unconfined, _) => Ok(Filter::Unconfined),
            (Wanted::RuntimeDefault, None) => Ok(Filter::BuiltIn),
            (Wanted::RuntimeDefault, Some(profile)) => Ok(Filter::Profile(Cow::Borrowed(profile))),
            (Wanted::Localhost(reference), _) => {
                let path = locate(reference, &self.localhost_root)?;
                let profile = read(&path).map_err(|error| {
                    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                    SpecError::invalid(FIELD, format!("{error}{cause}"))
                })?;
                Ok(Filter::Profile(Cow::Owned(profile)))
            }
        }
    }
}

/// The file that a reference names: the kubelet sends an absolute path; the older form is `localhost/` and a name.
fn locate(reference: &str, root: &Path) -> Result<PathBuf, SpecError> {
    let path = Path::new(reference.strip_prefix("localhost/").unwrap_or(reference));
    let plain = |component: Component<'_>| matches!(component, Component::Normal(_) | Component::CurDir);
    match path {
        path if reference.contains('\0') || path.as_os_str().is_empty() => {
            Err(SpecError::invalid(format!("{FIELD}.localhost_ref"), "the path of a profile is needed"))
        }
        path if path.is_absolute() => Ok(path.to_owned()),
        path if path.components().all(plain) => Ok(root.join(path)),
        path => {
            let why = format!("{path:?} is neither an absolute path nor one below {}", root.display());
            Err(SpecError::invalid(format!("{FIELD}.localhost_ref"), why))
        }
    }
}

fn read(path: &Path) -> Result<Profile, UnreadableProfile> {
    let text = read_bounded(path);
    let text = text.map_err(|source| UnreadableProfile::Io { path: path.to_owned(), source })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(UnreadableProfile::TooLarge { path: path.to_owned() });
    }
    Profile::parse(&text).map_err(|source| UnreadableProfile::Invalid { path: path.to_owned(), source })
}

/// At most one byte more than is allowed. What is not a regular file could keep the reader waiting for ever.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}
