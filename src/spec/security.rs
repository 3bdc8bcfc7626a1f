//! Capabilities of a process.
//!
//! Capabilities are those asked for, cut to the daemon's own bounding set: a node inside a container has fewer than the
//! kernel knows, and what the daemon lacks nobody below it can have.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::{SpecError, SpecInput, security};
use crate::api;

/// The kernel's capabilities by number.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What a container has that asks for nothing; the same on every Kubernetes runtime, and images rely on it.
pub const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The kernel's capabilities that a set has not, by name.
pub fn lacking(set: u64) -> Vec<String> {
    let held = |bit: usize| set >> bit & 1 == 1;
    let lacking = ALL.iter().enumerate().filter(|(bit, _)| !held(*bit));
    lacking.map(|(_, name)| format!("CAP_{}", name.to_string().trim_start_matches("CAP_"))).collect()
}

/// A name in an add or drop list.
enum Named {
    All,
    One(Capability),
}

/// The capability sets of the process; the inheritable and ambient ones are empty unless ambient ones are asked for.
pub(super) fn capabilities(input: &SpecInput<'_>, privileged: bool) -> Result<LinuxCapabilities, SpecError> {
    let asked = security(input).capabilities.clone().unwrap_or_default();
    let mut granted = match privileged {
        true => ALL.to_vec(),
        false => change(&asked, input.capabilities)?,
    };
    let ambient = ambient(&asked)?;
    granted.extend(&ambient);
    let held = |capability: &Capability| {
        ALL.iter()
            .position(|known| known == capability)
            .is_some_and(|bit| input.host.bounding >> bit & 1 == 1)
    };
    let granted: Capabilities = granted.into_iter().filter(held).collect();
    let ambient: Capabilities = ambient.into_iter().filter(held).collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted.clone()))
        .set_effective(Some(granted.clone()))
        .set_permitted(Some(granted))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

/// The capabilities of the process by name: what it may hold at all. The seccomp profile opens system calls by them.
pub(super) fn granted(input: &SpecInput<'_>) -> Result<Capabilities, SpecError> {
    Ok(capabilities(input, false)?.bounding().clone().unwrap_or_default())
}

/// `ALL` is taken first, additions before removals, so that a name in both lists is dropped unless only `ALL` drops it.
fn change(asked: &api::Capability, default: &[Capability]) -> Result<Vec<Capability>, SpecError> {
    let add = parse("add_capabilities", &asked.add_capabilities)?;
    let drop = parse("drop_capabilities", &asked.drop_capabilities)?;
    let all = |list: &[Named]| list.iter().any(|named| matches!(named, Named::All));
    let mut granted = match (all(&add), all(&drop)) {
        (_, true) => Vec::new(),
        (true, false) => ALL.to_vec(),
        (false, false) => default.to_vec(),
    };
    granted.extend(singles(add));
    let dropped: Vec<_> = singles(drop).collect();
    granted.retain(|capability| !dropped.contains(capability));
    Ok(granted)
}

fn ambient(asked: &api::Capability) -> Result<Vec<Capability>, SpecError> {
    let named = parse("add_ambient_capabilities", &asked.add_ambient_capabilities)?;
    match named.iter().any(|named| matches!(named, Named::All)) {
        true => Ok(ALL.to_vec()),
        false => Ok(singles(named).collect()),
    }
}

fn singles(list: Vec<Named>) -> impl Iterator<Item = Capability> {
    list.into_iter().filter_map(|named| match named {
        Named::One(capability) => Some(capability),
        Named::All => None,
    })
}

/// A capability by its name as people write it: in any case, with or without `CAP_`.
pub fn capability(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.iter().find(|known| known.to_string() == bare).copied()
}

fn parse(field: &str, names: &[String]) -> Result<Vec<Named>, SpecError> {
    let one = |name: &String| match capability(name) {
        Some(capability) => Ok(Named::One(capability)),
        None if ["ALL", "CAP_ALL"].iter().any(|all| name.eq_ignore_ascii_case(all)) => Ok(Named::All),
        None => {
            let field = format!("linux.security_context.capabilities.{field}");
            Err(SpecError::invalid(field, format!("{name:?} is not a capability")))
        }
    };
    names.iter().map(one).collect()
}
