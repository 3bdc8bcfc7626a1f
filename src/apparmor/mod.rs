//! AppArmor on this node: podd's own profile in the kernel, and what else is loaded there.
//!
//! The kernel owns the profiles. podd loads one, [`OWN_PROFILE`], at each start: its text may have changed with podd, the
//! kernel exchanges it in one step for the containers that run under it, and does nothing where it is the same. It is
//! never unloaded, because containers outlive the daemon. Should somebody else unload it, it is loaded again before the next
//! container. Where there is no AppArmor, or its file system is not to be seen (a node inside a container), nothing is done.

mod profile;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::config::AppArmorConfig;
use crate::sys;
use crate::telemetry::chain;

pub use profile::OWN_PROFILE;

/// Where the kernel says whether AppArmor is on.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Where the kernel lists what is loaded.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// The label of the reader.
const OWN_LABEL: &str = "/proc/self/attr/current";
/// The parser; distributions differ about the directory.
const PARSERS: [&str; 3] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];

/// What there is of AppArmor at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmorFacts {
    /// The kernel does not have it, or its file system is not mounted here.
    Disabled,
    /// It confines processes.
    Enabled {
        /// The profile of containers that ask for none.
        default: DefaultProfile,
        /// The names of all loaded profiles.
        loaded: BTreeSet<String>,
    },
}

/// The profile of containers that ask for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultProfile {
    /// The operator wants none.
    Unconfined,
    /// It is in the kernel, and its name is this.
    Loaded(String),
    /// The operator names one that is not loaded.
    Missing(String),
    /// podd's own cannot be loaded, for this reason.
    Failed(String),
}

/// Why podd's own profile cannot be loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("there is no apparmor_parser; install the apparmor package")]
    NoParser,
    #[error("cannot run {path}")]
    Run {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{path} refuses the profile: {words}")]
    Refused { path: &'static str, words: String },
}

/// The node's AppArmor, as the configuration wants it.
#[derive(Debug, Clone)]
pub struct AppArmor {
    profile: String,
}

impl AppArmor {
    /// Loads podd's own profile where it is the default one. That it cannot be loaded is no reason not to serve.
    pub async fn open(config: &AppArmorConfig) -> Self {
        let opened = Self { profile: config.profile.clone() };
        let again = opened.clone();
        sys::blocking(move || match (loaded_profiles(), again.profile.as_str()) {
            (None, _) => {}
            (Some(_), OWN_PROFILE) => match load() {
                Ok(()) => tracing::debug!("the AppArmor profile {OWN_PROFILE} is loaded"),
                Err(error) => tracing::warn!(
                    "containers that ask for no AppArmor profile run without one: {}",
                    chain(&error)
                ),
            },
            (Some(loaded), name) => {
                if default_of(name, &loaded) == DefaultProfile::Missing(name.to_owned()) {
                    tracing::warn!("the AppArmor profile {name:?} of [apparmor] profile is not loaded");
                }
            }
        })
        .await;
        opened
    }

    /// The same for a look from beside the daemon: nothing is loaded.
    pub fn look(config: &AppArmorConfig) -> AppArmorFacts {
        Self { profile: config.profile.clone() }.facts()
    }

    /// What holds for a container that is made now; podd's own profile is brought back where it has gone.
    pub async fn prepare(&self) -> AppArmorFacts {
        let own = self.clone();
        sys::blocking(move || {
            let AppArmorFacts::Enabled { default: DefaultProfile::Missing(name), loaded } = own.facts()
            else {
                return own.facts();
            };
            if name != OWN_PROFILE {
                return AppArmorFacts::Enabled { default: DefaultProfile::Missing(name), loaded };
            }
            match load() {
                Ok(()) => own.facts(),
                Err(error) => {
                    AppArmorFacts::Enabled { default: DefaultProfile::Failed(chain(&error)), loaded }
                }
            }
        })
        .await
    }

    /// What holds now.
    pub fn facts(&self) -> AppArmorFacts {
        match loaded_profiles() {
            None => AppArmorFacts::Disabled,
            Some(loaded) => AppArmorFacts::Enabled { default: default_of(&self.profile, &loaded), loaded },
        }
    }
}

fn default_of(name: &str, loaded: &BTreeSet<String>) -> DefaultProfile {
    match name {
        "" | "unconfined" => DefaultProfile::Unconfined,
        name if loaded.contains(name) => DefaultProfile::Loaded(name.to_owned()),
        name => DefaultProfile::Missing(name.to_owned()),
    }
}

/// The names of the loaded profiles; `None` where there is no AppArmor to be seen.
fn loaded_profiles() -> Option<BTreeSet<String>> {
    if !fs::read(ENABLED).is_ok_and(|text| text.starts_with(b"Y")) {
        return None;
    }
    fs::read_to_string(LOADED).ok().map(|list| names(&list))
}

/// Each line is a name, which may have blanks in it, and the mode in brackets.
fn names(list: &str) -> BTreeSet<String> {
    list.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0.to_owned())).collect()
}

/// Has the parser put podd's own profile into the kernel, past its cache, in the place of an older one.
fn load() -> Result<(), LoadError> {
    let path = PARSERS.into_iter().find(|path| Path::new(path).exists()).ok_or(LoadError::NoParser)?;
    let run = |source| LoadError::Run { path, source };
    let label = fs::read_to_string(OWN_LABEL).unwrap_or_default();
    let label = label.trim_end_matches(['\0', '\n']);
    let label = label.rsplit_once(" (").map_or(label, |(name, _)| name);
    let text = profile::text(label, Path::new(profile::ABI).exists());
    let mut parser = Command::new(path)
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(run)?;
    let sent = parser.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let out = parser.wait_with_output().map_err(run)?;
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
        return Err(LoadError::Refused { path, words });
    }
    sent.map_err(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_listed_by_name_whatever_is_in_it() {
        let list = "podd-default (enforce)\n/usr/bin/man (complain)\na b (c) (enforce)\n";
        let wanted = ["podd-default", "/usr/bin/man", "a b (c)"].map(str::to_owned);
        assert_eq!(names(list), BTreeSet::from(wanted));
    }

    #[test]
    fn the_default_is_what_the_operator_says() {
        let loaded = BTreeSet::from(["mine".to_owned()]);
        assert_eq!(default_of("", &loaded), DefaultProfile::Unconfined);
        assert_eq!(default_of("unconfined", &loaded), DefaultProfile::Unconfined);
        assert_eq!(default_of("mine", &loaded), DefaultProfile::Loaded("mine".to_owned()));
        assert_eq!(default_of("other", &loaded), DefaultProfile::Missing("other".to_owned()));
    }
}
