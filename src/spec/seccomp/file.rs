//! Profiles in files, in the two formats that there are: the one of Docker and containers-common, whose rules may have
//! conditions and whose architectures a map, and the plain one of the OCI runtime specification.
//!
//! Both are JSON, and one set of keys holds all of both. A key that podd does not know is an error, because it may
//! have been meant to restrict; a system call that is not known is none: profiles are written for all kernels, and
//! the runtimes skip it.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::{argument, rule};
use crate::spec::security;

/// The largest error number (`MAX_ERRNO` of the kernel).
const MAX_ERRNO: u32 = 4095;
/// A system call has at most six arguments.
const MAX_INDEX: usize = 5;

/// A text that is not a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidProfile(String);

/// A profile that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno: Option<u32>,
    /// `None` leaves it to the runtime, which takes the native one.
    architectures: Option<Vec<Arch>>,
    flags: Vec<LinuxSeccompFilterFlag>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
    includes: Conditions,
    excludes: Conditions,
}

/// When a rule is there, or is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Conditions {
    capabilities: Vec<Capability>,
    architectures: Vec<String>,
    kernel: Option<(u32, u32)>,
}

impl Profile {
    /// Reads a profile.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidProfile> {
        let document: Document = serde_json::from_slice(text).map_err(|e| InvalidProfile(e.to_string()))?;
        document.check().map_err(InvalidProfile)
    }

    /// The filter for a container with these capabilities, on this kernel.
    pub fn filter(&self, capabilities: &Capabilities, kernel: (u32, u32)) -> LinuxSeccomp {
        let rules = self.rules.iter().filter(|rule| rule.holds(capabilities, kernel)).map(Rule::document);
        let mut filter = LinuxSeccomp::default();
        filter
            .set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno)
            .set_architectures(self.architectures.clone())
            .set_flags(Some(self.flags.clone()).filter(|flags| !flags.is_empty()))
            .set_syscalls(Some(rules.collect()));
        filter
    }
}

impl Rule {
    fn holds(&self, capabilities: &Capabilities, kernel: (u32, u32)) -> bool {
        let (includes, excludes) = (&self.includes, &self.excludes);
        let native = |names: &[String]| names.iter().any(|name| name == architecture().name);
        let excluded = excludes.capabilities.iter().any(|capability| capabilities.contains(capability))
            || native(&excludes.architectures)
            || excludes.kernel.is_some_and(|least| kernel >= least);
        !excluded
            && includes.capabilities.iter().all(|capability| capabilities.contains(capability))
            && (includes.architectures.is_empty() || native(&includes.architectures))
            && includes.kernel.is_none_or(|least| kernel >= least)
    }

    fn document(&self) -> LinuxSyscall {
        rule(self.names.clone(), self.action, self.errno, self.args.clone())
    }
}

/// This machine's architecture under its two names.
struct Architecture {
    /// As Go, and so the conditions, call it.
    name: &'static str,
    /// As libseccomp calls it.
    seccomp: &'static str,
}

fn architecture() -> Architecture {
    match cfg!(target_arch = "aarch64") {
        true => Architecture { name: "arm64", seccomp: "SCMP_ARCH_AARCH64" },
        false => Architecture { name: "amd64", seccomp: "SCMP_ARCH_X86_64" },
    }
}

/// The file as it stands. Lists may be `null`, which is how Go writes an empty one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchEntry>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    syscalls: Option<Vec<Entry>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchEntry {
    /// A text, as are those below it: a profile for all machines names more than this one knows.
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    args: Option<Vec<Arg>>,
    errno_ret: Option<u32>,
    errno: Option<String>,
    includes: Option<When>,
    excludes: Option<When>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct When {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Document {
    fn check(self) -> Result<Profile, String> {
        for (key, value) in
            [("listenerPath", self.listener_path), ("listenerMetadata", self.listener_metadata)]
        {
            if value.is_some_and(|value| !value.is_empty()) {
                return Err(format!("{key} is set, but podd connects no filter to a listener"));
            }
        }
        let architectures = match (self.architectures.filter(|list| !list.is_empty()), self.arch_map) {
            (Some(_), Some(map)) if !map.is_empty() => {
                return Err("architectures and archMap are both set; one of them is meant".to_owned());
            }
            (Some(list), _) => Some(list),
            (None, map) => mapped(&map.unwrap_or_default())?,
        };
        let rules = self.syscalls.unwrap_or_default().into_iter().enumerate();
        let rules = rules.map(|(n, entry)| entry.check().map_err(|why| format!("syscalls[{n}]: {why}")));
        Ok(Profile {
            default_action: supported(self.default_action).map_err(|why| format!("defaultAction: {why}"))?,
            default_errno: errno(self.default_errno.as_deref(), self.default_errno_ret)
                .map_err(|why| format!("defaultErrno: {why}"))?,
            architectures,
            flags: self.flags.unwrap_or_default(),
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

/// The native architecture of the map, with those that run on it.
fn mapped(map: &[ArchEntry]) -> Result<Option<Vec<Arch>>, String> {
    let Some(entry) = map.iter().find(|entry| entry.architecture == architecture().seccomp) else {
        return Ok(None);
    };
    let names = std::iter::once(&entry.architecture).chain(entry.sub_architectures.iter().flatten());
    let arch = |name: &String| {
        Arch::deserialize(name.as_str().into_deserializer())
            .map_err(|e: serde::de::value::Error| format!("archMap: {e}"))
    };
    names.map(arch).collect::<Result<_, _>>().map(Some)
}

impl Entry {
    fn check(self) -> Result<Rule, String> {
        let names = match (self.name.filter(|name| !name.is_empty()), self.names.unwrap_or_default()) {
            (Some(name), names) if names.is_empty() => vec![name],
            (Some(_), _) => return Err("name and names are both set; one of them is meant".to_owned()),
            (None, names) if names.is_empty() => return Err("it names no system call".to_owned()),
            (None, names) => names,
        };
        let args = self.args.unwrap_or_default().into_iter().map(Arg::check).collect::<Result<_, _>>()?;
        Ok(Rule {
            names,
            action: supported(self.action)?,
            errno: errno(self.errno.as_deref(), self.errno_ret)?,
            args,
            includes: self.includes.map_or_else(|| Ok(Conditions::default()), When::check)?,
            excludes: self.excludes.map_or_else(|| Ok(Conditions::default()), When::check)?,
        })
    }
}

impl Arg {
    fn check(self) -> Result<LinuxSeccompArg, String> {
        match self.index {
            0..=MAX_INDEX => Ok(argument(self.index, self.value, self.value_two, self.op)),
            index => Err(format!("args: there is no argument {index}; they count from 0 to {MAX_INDEX}")),
        }
    }
}

impl When {
    fn check(self) -> Result<Conditions, String> {
        let known =
            |name: &String| security::capability(name).ok_or_else(|| format!("{name:?} is not a capability"));
        let kernel = self.min_kernel.filter(|text| !text.is_empty()).map(|text| {
            kernel_version(&text)
                .ok_or_else(|| format!("minKernel: {text:?} is not a version such as \"4.8\""))
        });
        Ok(Conditions {
            capabilities: self.caps.unwrap_or_default().iter().map(known).collect::<Result<_, _>>()?,
            architectures: self.arches.unwrap_or_default(),
            kernel: kernel.transpose()?,
        })
    }
}

fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn supported(action: LinuxSeccompAction) -> Result<LinuxSeccompAction, String> {
    match action {
        LinuxSeccompAction::ScmpActNotify => {
            Err("SCMP_ACT_NOTIFY needs a listener, to which podd connects no filter".to_owned())
        }
        other => Ok(other),
    }
}

/// The error number by name or, where there is none, by number, as containers-common takes them.
fn errno(name: Option<&str>, number: Option<u32>) -> Result<Option<u32>, String> {
    match (name.filter(|name| !name.is_empty()), number) {
        (Some(name), _) => super::errno::number(name).map(Some).ok_or(format!("there is no error {name:?}")),
        (None, Some(number)) if number > MAX_ERRNO => Err(format!("{number} is not an error number")),
        (None, number) => Ok(number),
    }
}
