//! The AppArmor profile of a process.

use super::{SpecError, SpecInput, security};
use crate::api::{self, security_profile::ProfileType};
use crate::apparmor::{AppArmorFacts, DefaultProfile};

const FIELD: &str = "linux.security_context.apparmor";

/// What the client asks for.
enum Asked {
    /// No profile at all.
    Unconfined,
    /// The node's default; in so many words, or by saying nothing.
    Default { explicit: bool },
    /// A profile by its name.
    Named(String),
}

/// The profile to run under; none is unconfined.
pub(super) fn profile(input: &SpecInput<'_>, privileged: bool) -> Result<Option<String>, SpecError> {
    match (asked(input)?, &input.host.apparmor) {
        (Asked::Unconfined, _) | (Asked::Default { .. }, AppArmorFacts::Disabled) => Ok(None),
        (Asked::Default { .. }, _) if privileged => Ok(None),
        (Asked::Default { explicit }, AppArmorFacts::Enabled { default, .. }) => {
            default_profile(default, explicit)
        }
        (Asked::Named(_), AppArmorFacts::Disabled) => {
            Err(SpecError::unsupported(FIELD, "AppArmor is not enabled on this host"))
        }
        (Asked::Named(name), AppArmorFacts::Enabled { loaded, .. }) if loaded.contains(&name) => {
            Ok(Some(name))
        }
        (Asked::Named(name), AppArmorFacts::Enabled { .. }) => {
            let why =
                format!("the profile {name:?} is not loaded on this node; load it with apparmor_parser");
            Err(SpecError::invalid(format!("{FIELD}.localhost_ref"), why))
        }
    }
}

/// Where podd's own profile cannot be loaded, who asks for nothing runs without one, as on a node without AppArmor; who asks
/// for the default in so many words is not left unconfined in silence.
fn default_profile(default: &DefaultProfile, explicit: bool) -> Result<Option<String>, SpecError> {
    match default {
        DefaultProfile::Unconfined => Ok(None),
        DefaultProfile::Loaded(name) => Ok(Some(name.clone())),
        DefaultProfile::Failed(_) if !explicit => Ok(None),
        DefaultProfile::Failed(why) => {
            Err(SpecError::unsupported(FIELD, format!("the default profile cannot be loaded: {why}")))
        }
        DefaultProfile::Missing(name) => {
            let why = format!(
                "the default profile {name:?} ([apparmor] profile in podd.toml) is not loaded on this node; load it with \
                 apparmor_parser"
            );
            Err(SpecError::unsupported(FIELD, why))
        }
    }
}

fn asked(input: &SpecInput<'_>) -> Result<Asked, SpecError> {
    let context = security(input);
    let Some(profile) = &context.apparmor else {
        return match deprecated(context) {
            "" => Ok(Asked::Default { explicit: false }),
            "runtime/default" => Ok(Asked::Default { explicit: true }),
            "unconfined" => Ok(Asked::Unconfined),
            name => named(name),
        };
    };
    match profile.profile_type() {
        ProfileType::RuntimeDefault => Ok(Asked::Default { explicit: true }),
        ProfileType::Unconfined => Ok(Asked::Unconfined),
        ProfileType::Localhost => named(&profile.localhost_ref),
    }
}

fn named(reference: &str) -> Result<Asked, SpecError> {
    match reference.strip_prefix("localhost/").unwrap_or(reference) {
        "" => Err(SpecError::invalid(format!("{FIELD}.localhost_ref"), "a profile's name is needed")),
        name => Ok(Asked::Named(name.to_owned())),
    }
}

#[allow(deprecated)]
fn deprecated(context: &api::LinuxContainerSecurityContext) -> &str {
    &context.apparmor_profile
}
