//! What an OCI runtime can do of what a client may ask for: by its own word (`features`, OCI runtime specification,
//! features.md), or by its version where it does not have the command. What the kernel lacks, no runtime can do.

use serde::Deserialize;

use super::Kind;
use crate::sys::kernel;

/// The first Linux with mount_setattr(2), which both features are made with.
const KERNEL: (u32, u32) = (5, 12);

/// Nothing, or what is needed for it.
pub type Ability = Result<(), String>;

/// The abilities of one runtime on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Mounts that are read-only with all that is mounted below them (the mount option `rro`).
    pub recursive_read_only: Ability,
    /// Mounts that show other owners than the disk has (`uidMappings` of a mount).
    pub id_mapped_mounts: Ability,
}

/// The part of the answer that podd looks at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    mount_options: Vec<String>,
    #[serde(default)]
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    mount_extensions: Extensions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extensions {
    idmap: Extension,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extension {
    enabled: Option<bool>,
}

impl Features {
    /// From the answer to `features`, if there is a readable one, else from the version.
    pub(super) fn of(kind: Kind, version: &str, answer: Option<&[u8]>) -> Self {
        let answer = answer.and_then(|answer| serde_json::from_slice::<Answer>(answer).ok());
        let (rro, idmap) = match answer {
            Some(answer) => (
                answer.mount_options.iter().any(|option| option == "rro"),
                answer.linux.mount_extensions.idmap.enabled == Some(true),
            ),
            None => by_version(kind, version),
        };
        let name = match kind {
            Kind::Crun => "crun",
            Kind::Runc => "runc",
            Kind::Other => "another one,",
        };
        let ability = |able: bool, since: &str| match able {
            true => kernel_has(kernel::is_at_least(KERNEL.0, KERNEL.1)),
            false => {
                Err(format!("it needs a runtime that can do it, such as {since}; this is {name} {version}"))
            }
        };
        Self {
            recursive_read_only: ability(rro, "crun 1.4 or runc 1.1"),
            id_mapped_mounts: ability(idmap, "crun 1.9 or runc 1.2"),
        }
    }
}

/// crun has the command since 1.8.6, `rro` since 1.4, and mounts with any mapping only since 1.9; runc has had the command
/// for as long as either. Of any other nothing is known.
fn by_version(kind: Kind, version: &str) -> (bool, bool) {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match kind {
        Kind::Crun => (version >= (1, 4), version >= (1, 9)),
        Kind::Runc | Kind::Other => (false, false),
    }
}

fn kernel_has(able: bool) -> Ability {
    let (major, minor) = KERNEL;
    match able {
        true => Ok(()),
        false => Err(format!("it needs Linux {major}.{minor}; this is {}", kernel::release())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able(kind: Kind, version: &str, answer: Option<&str>) -> (bool, bool) {
        let features = Features::of(kind, version, answer.map(str::as_bytes));
        (features.recursive_read_only.is_ok(), features.id_mapped_mounts.is_ok())
    }

    #[test]
    fn a_runtime_is_taken_at_its_word() {
        let both = r#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],
                       "linux":{"mountExtensions":{"idmap":{"enabled":true}},"cgroup":{"v1":true}}}"#;
        assert_eq!(able(Kind::Other, "0.1", Some(both)), (true, true));
        assert_eq!(able(Kind::Runc, "1.1.5", Some(r#"{"mountOptions":["rro"],"linux":{}}"#)), (true, false));
        let neither = r#"{"linux":{"mountExtensions":{"idmap":{"enabled":false}}}}"#;
        assert_eq!(able(Kind::Crun, "1.21", Some(neither)), (false, false));
    }

    #[test]
    fn a_runtime_without_a_word_is_known_by_its_version() {
        assert_eq!(able(Kind::Crun, "1.8.1", None), (true, false));
        assert_eq!(able(Kind::Crun, "1.3", Some("unknown command")), (false, false));
        assert_eq!(able(Kind::Crun, "1.21", None), (true, true));
        assert_eq!(able(Kind::Crun, "unknown", None), (false, false));
        assert_eq!(able(Kind::Other, "9.9", None), (false, false));
    }

    #[test]
    fn what_is_lacking_is_said() {
        let features = Features::of(Kind::Crun, "1.8.1", None);
        let why = features.id_mapped_mounts.unwrap_err();
        assert!(why.contains("crun 1.9") && why.ends_with("this is crun 1.8.1"), "{why}");
        assert!(kernel_has(false).unwrap_err().contains("Linux 5.12"));
    }
}
