//! The seccomp filter: none, the RuntimeDefault one, or one from a file (B25).
//!
//! ```text
//! mod.rs       which of them a container asks for         file.rs   the formats of profiles (errno.rs: names in them)
//! default.rs   the built-in profile, and its data         load.rs   reading them, in bounds
//! ```
//!
//! A privileged container has none. What the filter of a profile with conditions is depends on the container's
//! capabilities, the architecture and the kernel, and is settled here, because the runtimes know of no conditions.

use std::borrow::Cow;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

use super::{SpecError, SpecInput, security};
use crate::api::{self, security_profile::ProfileType};
use crate::config::UnsetSeccomp;

mod default;
mod errno;
mod file;
mod load;
#[cfg(test)]
mod tests;

pub use file::{InvalidProfile, Profile};
pub use load::{Profiles, UnreadableProfile};

/// The field that names a profile.
const FIELD: &str = "linux.security_context.seccomp";

/// The filter of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter<'a> {
    /// None.
    Unconfined,
    /// The default profile that podd brings.
    BuiltIn,
    /// A profile of the operator's or of the kubelet's.
    Profile(Cow<'a, Profile>),
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted<'a> {
    Unconfined,
    RuntimeDefault,
    Localhost(&'a str),
}

/// What a container asks for by its security context, or by the field that was there before it.
fn wanted(config: &api::ContainerConfig, unset: UnsetSeccomp) -> Wanted<'_> {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let unset = match unset {
        UnsetSeccomp::Unconfined => Wanted::Unconfined,
        UnsetSeccomp::RuntimeDefault => Wanted::RuntimeDefault,
    };
    let Some(context) = context else { return unset };
    if context.privileged {
        return Wanted::Unconfined;
    }
    match (&context.seccomp, deprecated(context)) {
        (Some(profile), _) => match profile.profile_type() {
            ProfileType::Unconfined => Wanted::Unconfined,
            ProfileType::RuntimeDefault => Wanted::RuntimeDefault,
            ProfileType::Localhost => Wanted::Localhost(&profile.localhost_ref),
        },
        (None, "") => unset,
        (None, "unconfined") => Wanted::Unconfined,
        (None, "runtime/default" | "docker/default") => Wanted::RuntimeDefault,
        (None, path) => Wanted::Localhost(path),
    }
}

#[allow(deprecated)]
fn deprecated(context: &api::LinuxContainerSecurityContext) -> &str {
    &context.seccomp_profile_path
}

/// The document's filter.
pub(super) fn build(input: &SpecInput<'_>) -> Result<Option<LinuxSeccomp>, SpecError> {
    let capabilities = || security::granted(input);
    match input.seccomp {
        Filter::Unconfined => Ok(None),
        Filter::BuiltIn => Ok(Some(default::filter(&capabilities()?))),
        Filter::Profile(profile) => Ok(Some(profile.filter(&capabilities()?, input.host.kernel))),
    }
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
