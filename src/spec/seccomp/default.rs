//! The built-in RuntimeDefault profile, made from `default.json`.
//!
//! It is data: system calls that are always allowed, groups of them that a capability opens, and those that fail with
//! EPERM where they are not allowed. All others fail with ENOSYS, as on a kernel without them, so that C libraries
//! and tools fall back: also what the machine's libseccomp does not know yet, and `clone3`, whose flags no filter
//! sees. What opens the kernel far beyond a container's need is in no group: io_uring, keyrings, userfaultfd, AF_ALG
//! and AF_VSOCK sockets.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
    LinuxSyscall,
};
use serde::Deserialize;

use super::{argument, rule};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The flags of clone(2) that make namespaces; all but CLONE_NEWTIME, which clone(2) cannot make.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// The lower half of a register, which is all that the kernel reads of an `int`: a comparison of the whole register
/// would let a forbidden value with a bit in the upper half through.
const INT: u64 = 0xFFFF_FFFF;

/// AF_ALG, which few need and which has been a way out of containers, and AF_VSOCK, which reaches the hypervisor past
/// the pod's network namespace.
const REFUSED_FAMILIES: [u64; 2] = [38, 40];

/// The other address families of socket(2) below 64, as mask and value.
const FAMILIES: [(u64, u64); 8] = [
    (INT - 31, 0),
    (INT - 3, 32),
    (INT - 1, 36),
    (INT, 39),
    (INT, 41),
    (INT - 1, 42),
    (INT - 3, 44),
    (INT - 15, 48),
];

/// The personalities that do not weaken the process: Linux and Linux with 32-bit or 2.6 version numbers.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// The profile's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// Allowed to all.
    always: Vec<String>,
    /// Allowed to all, where the architecture has them.
    x86_64: Vec<String>,
    /// Allowed to all, where the architecture has them.
    aarch64: Vec<String>,
    /// Allowed to those who have any of the capabilities.
    capability: Vec<Gate>,
    /// What fails with EPERM where it is not allowed: system calls without which there is no fallback to try. The
    /// rest of what is not allowed is left to ENOSYS, which costs nothing; each rule costs the runtime time, at every
    /// container's creation.
    eperm: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gate {
    any: Vec<Capability>,
    allow: Vec<String>,
}

static DATA: LazyLock<Data> = LazyLock::new(|| {
    serde_json::from_str(include_str!("default.json")).expect("the profile is part of the program and tested")
});

/// The filter for a container with these capabilities.
pub(super) fn filter(capabilities: &Capabilities) -> LinuxSeccomp {
    let data = &*DATA;
    let native = if cfg!(target_arch = "aarch64") { &data.aarch64 } else { &data.x86_64 };
    let gates = data.capability.iter().filter(|gate| gate.any.iter().any(|cap| capabilities.contains(cap)));
    let allowed: BTreeSet<_> =
        data.always.iter().chain(native).chain(gates.flat_map(|gate| &gate.allow)).collect();
    let refused = data.eperm.iter().filter(|name| !allowed.contains(name)).cloned();
    let mut rules = vec![
        rule(
            allowed.iter().map(ToString::to_string).collect(),
            LinuxSeccompAction::ScmpActAllow,
            None,
            Vec::new(),
        ),
        rule(refused.collect(), LinuxSeccompAction::ScmpActErrno, Some(EPERM), Vec::new()),
    ];
    let equal = |value| argument(0, value, None, LinuxSeccompOperator::ScmpCmpEq);
    rules.extend(PERSONALITIES.map(|value| allow("personality", equal(value))));
    rules.extend(FAMILIES.map(|(mask, family)| allow("socket", masked(mask, family))));
    rules.extend(REFUSED_FAMILIES.map(|family| refuse("socket", masked(INT, family))));
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.extend(without_namespaces());
    }
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(ENOSYS))
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(rules));
    filter
}

/// New processes without new namespaces. The flags of clone3(2) are in memory, where a filter cannot look.
fn without_namespaces() -> Vec<LinuxSyscall> {
    let flags = (0..u64::BITS).map(|bit| 1 << bit).filter(|flag| NAMESPACE_FLAGS & flag != 0);
    let mut rules = vec![allow("clone", masked(NAMESPACE_FLAGS, 0))];
    rules.extend(flags.map(|flag| refuse("clone", masked(flag, flag))));
    let clone3 = vec!["clone3".to_owned()];
    rules.push(rule(clone3, LinuxSeccompAction::ScmpActErrno, Some(ENOSYS), Vec::new()));
    rules
}

fn architectures() -> Vec<Arch> {
    match cfg!(target_arch = "aarch64") {
        true => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        false => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
    }
}

fn allow(name: &str, arg: LinuxSeccompArg) -> LinuxSyscall {
    rule(vec![name.to_owned()], LinuxSeccompAction::ScmpActAllow, None, vec![arg])
}

fn refuse(name: &str, arg: LinuxSeccompArg) -> LinuxSyscall {
    rule(vec![name.to_owned()], LinuxSeccompAction::ScmpActErrno, Some(EPERM), vec![arg])
}

/// The first argument with only the bits of `mask` is `value`.
fn masked(mask: u64, value: u64) -> LinuxSeccompArg {
    argument(0, mask, Some(value), LinuxSeccompOperator::ScmpCmpMaskedEq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_family_but_two_is_open_whatever_is_in_the_upper_half() {
        let open = |family: u64| FAMILIES.iter().any(|(mask, value)| family & mask == *value);
        for family in 0..64 {
            for upper in [0, 1 << 32, 0xFFFF_FFFF << 32] {
                assert_eq!(open(family | upper), !REFUSED_FAMILIES.contains(&family), "{family}");
            }
        }
        assert!(!open(64) && !open(1 << 31));
    }

    #[test]
    fn no_name_is_both_open_to_all_and_behind_a_capability_and_none_of_the_dangerous_is_open() {
        let data = &*DATA;
        for gate in &data.capability {
            assert!(gate.allow.iter().all(|name| !data.always.contains(name)), "{:?}", gate.allow);
        }
        let mut all: Vec<_> = data.always.iter().collect();
        all.dedup();
        assert_eq!(all.len(), data.always.len(), "a name twice");
        let every = data.capability.iter().flat_map(|gate| &gate.allow).chain(&data.always);
        let every: BTreeSet<_> = every.map(String::as_str).collect();
        let refused: BTreeSet<_> = data.eperm.iter().collect();
        assert!(refused.len() == data.eperm.len() && data.always.iter().all(|name| !refused.contains(name)));
        for name in [
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "add_key",
            "keyctl",
            "request_key",
            "userfaultfd",
            "kexec_load",
            "kexec_file_load",
            "pivot_root",
            "swapon",
            "personality",
            "socket",
        ] {
            assert!(!every.contains(name), "{name}");
        }
    }
}
