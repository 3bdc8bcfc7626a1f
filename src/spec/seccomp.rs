//! The seccomp filter: none, or the RuntimeDefault one made from `seccomp.json`.
//!
//! Unset means unconfined, as the CRI says (B25). The default profile is data: system calls that are always allowed, and
//! groups of them that a capability opens. All others fail with EPERM, and those that the C libraries try first and then
//! do without (`clone3`) fail with ENOSYS, so that they fall back.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::{SpecError, SpecInput, security};
use crate::api::{self, security_profile::ProfileType};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The flags of clone(2) that make namespaces; all but CLONE_NEWTIME, which clone(2) cannot make.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// This address family reaches the hypervisor past the pod's network namespace.
const AF_VSOCK: u64 = 40;

/// The personalities that do not weaken the process: Linux and Linux with 32-bit or 2.6 version numbers.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// The profile's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    /// Allowed to all.
    always: Vec<String>,
    /// Allowed to all, where the architecture has them.
    x86_64: Vec<String>,
    /// Allowed to all, where the architecture has them.
    aarch64: Vec<String>,
    /// Allowed to those who have any of the capabilities.
    capability: Vec<Gate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gate {
    any: Vec<Capability>,
    allow: Vec<String>,
}

static PROFILE: LazyLock<Profile> = LazyLock::new(|| {
    serde_json::from_str(include_str!("seccomp.json")).expect("the profile is part of the program and tested")
});

/// The filter of a container; `None` is unconfined.
pub(super) fn build(input: &SpecInput<'_>, privileged: bool) -> Result<Option<LinuxSeccomp>, SpecError> {
    if privileged {
        return Ok(None);
    }
    let context = security(input);
    let field = "linux.security_context.seccomp";
    let kind = match (&context.seccomp, deprecated(context)) {
        (Some(profile), _) => profile.profile_type(),
        (None, "" | "unconfined") => ProfileType::Unconfined,
        (None, "runtime/default" | "docker/default") => ProfileType::RuntimeDefault,
        (None, _) => ProfileType::Localhost,
    };
    match kind {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => Ok(Some(runtime_default(&security::granted(input)?))),
        ProfileType::Localhost => Err(SpecError::unsupported(field, "profiles in files are not read")),
    }
}

#[allow(deprecated)]
fn deprecated(context: &api::LinuxContainerSecurityContext) -> &str {
    &context.seccomp_profile_path
}

/// The default filter for a container with these capabilities.
fn runtime_default(capabilities: &Capabilities) -> LinuxSeccomp {
    let profile = &*PROFILE;
    let native = if cfg!(target_arch = "aarch64") { &profile.aarch64 } else { &profile.x86_64 };
    let gates =
        profile.capability.iter().filter(|gate| gate.any.iter().any(|cap| capabilities.contains(cap)));
    let names: BTreeSet<_> =
        profile.always.iter().chain(native).chain(gates.flat_map(|gate| &gate.allow)).collect();
    let names = names.into_iter().cloned().collect();
    let mut rules = vec![rule(names, LinuxSeccompAction::ScmpActAllow, None, Vec::new())];
    rules.extend(
        PERSONALITIES.map(|value| {
            allow("personality", vec![argument(0, value, None, LinuxSeccompOperator::ScmpCmpEq)])
        }),
    );
    rules.push(allow("socket", vec![argument(0, AF_VSOCK, None, LinuxSeccompOperator::ScmpCmpNe)]));
    if !capabilities.contains(&Capability::SysAdmin) {
        let masked = argument(0, NAMESPACE_FLAGS, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq);
        rules.push(allow("clone", vec![masked]));
        // Its flags are in memory, where a filter cannot look.
        rules.push(rule(
            vec!["clone3".to_owned()],
            LinuxSeccompAction::ScmpActErrno,
            Some(ENOSYS),
            Vec::new(),
        ));
    }
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(rules));
    filter
}

fn architectures() -> Vec<Arch> {
    match cfg!(target_arch = "aarch64") {
        true => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        false => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
    }
}

fn allow(name: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    rule(vec![name.to_owned()], LinuxSeccompAction::ScmpActAllow, None, args)
}

fn rule(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names)
        .set_action(action)
        .set_errno_ret(errno)
        .set_args(Some(args).filter(|args| !args.is_empty()));
    rule
}

fn argument(index: usize, value: u64, second: Option<u64>, op: LinuxSeccompOperator) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    let builder = match second {
        Some(second) => builder.value_two(second),
        None => builder,
    };
    builder.build().expect("every field of an argument has a default")
}
