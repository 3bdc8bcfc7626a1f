//! The kernel: what it must have, and what podd is better with.

use std::fs;
use std::path::Path;

use podd::apparmor::{AppArmor, AppArmorFacts, DefaultProfile, OWN_PROFILE};
use podd::config::Config;
use podd::pod::user_namespaces_on;
use podd::sys::kernel::{self, Calls};

use super::finding::Check;

/// The oldest that podd is made for.
const OLDEST: (u32, u32) = (5, 10);

/// The first whose overlayfs takes layers one by one (`lowerdir+`).
const ONE_BY_ONE: (u32, u32) = (6, 7);

/// What was seen of the kernel.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) calls: Calls,
    pub(super) overlay: Overlay,
    /// The kinds of namespaces that it has.
    pub(super) namespaces: Vec<String>,
    /// The most user namespaces that there may be.
    pub(super) user_namespaces: u64,
    /// Whether pods can have user namespaces; `None` without the rights to try.
    pub(super) mapped: Option<Result<(), String>>,
    pub(super) seccomp: bool,
    pub(super) apparmor: AppArmorFacts,
    pub(super) selinux: Option<bool>,
    pub(super) forwarding: Option<bool>,
    /// `None` without the module.
    pub(super) bridge_filter: Option<bool>,
}

/// Whether there is an overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlay {
    Loaded,
    /// A module that the first mount loads.
    Loadable,
    Missing,
}

/// Looks at it.
pub(super) fn observe(config: &Config) -> Kernel {
    let switch = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim() == "1");
    let names = fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let release = kernel::release();
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let root = rustix::process::geteuid().is_root();
    Kernel {
        overlay: overlay(&release),
        calls: Calls::observe(),
        namespaces: names.collect(),
        user_namespaces: most.trim().parse().unwrap_or(0),
        mapped: root.then(|| user_namespaces_on(super::disk::existing(&config.root))),
        seccomp: fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nSeccomp:")),
        apparmor: AppArmor::look(&config.apparmor),
        selinux: switch("/sys/fs/selinux/enforce"),
        forwarding: switch("/proc/sys/net/ipv4/ip_forward"),
        bridge_filter: switch("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        release,
    }
}

fn overlay(release: &str) -> Overlay {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == "overlay") {
        return Overlay::Loaded;
    }
    let modules = Path::new("/lib/modules").join(release);
    let listed = |file: &str| {
        fs::read_to_string(modules.join(file)).is_ok_and(|text| text.contains("/overlayfs/overlay.ko"))
    };
    if listed("modules.dep") || listed("modules.builtin") { Overlay::Loadable } else { Overlay::Missing }
}

/// Judges it.
pub(super) fn checks(kernel: &Kernel) -> Vec<Check> {
    vec![
        version(kernel),
        calls(kernel),
        match kernel.overlay {
            Overlay::Loaded => Check::ok("kernel.overlayfs", "there, and takes volatile mounts"),
            Overlay::Loadable => Check::ok("kernel.overlayfs", "a module, which the first mount loads"),
            Overlay::Missing => Check::problem(
                "kernel.overlayfs",
                "neither in the kernel nor among its modules",
                "boot a kernel with CONFIG_OVERLAY_FS, or install its modules: no container can be made without",
            ),
        },
        namespaces(kernel),
        user_namespaces(kernel),
        match kernel.seccomp {
            true => Check::ok("kernel.seccomp", "there"),
            false => Check::problem(
                "kernel.seccomp",
                "the kernel has no seccomp",
                "boot a kernel with CONFIG_SECCOMP_FILTER: pods with the profile RuntimeDefault do not start without",
            ),
        },
        apparmor(&kernel.apparmor),
        match kernel.selinux {
            None => Check::ok("kernel.selinux", "not enabled"),
            Some(true) => Check::ok("kernel.selinux", "enforcing"),
            Some(false) => Check::ok("kernel.selinux", "permissive"),
        },
        forwarding(kernel.forwarding),
        bridge_filter(kernel.bridge_filter),
    ]
}

fn version(kernel: &Kernel) -> Check {
    let numbers = kernel::numbers(&kernel.release);
    let ((major, minor), release) = (OLDEST, &kernel.release);
    match numbers {
        old if old < OLDEST => Check::problem(
            "kernel.version",
            format!("Linux {release}, older than {major}.{minor}"),
            "boot a newer kernel: podd is made for 5.10 and newer",
        ),
        old if old < ONE_BY_ONE => Check::ok(
            "kernel.version",
            format!("Linux {release}; layers are mounted by short names (before 6.7)"),
        ),
        _ => Check::ok("kernel.version", format!("Linux {release}; layers are mounted one by one")),
    }
}

fn calls(kernel: &Kernel) -> Check {
    let Calls { openat2, pidfd, mount_context } = kernel.calls;
    let all = [("openat2", openat2), ("pidfd_open", pidfd), ("fsopen", mount_context)];
    let missing: Vec<_> = all.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    match missing.is_empty() {
        true => Check::ok("kernel.calls", "openat2, pidfd_open, fsopen"),
        false => Check::problem(
            "kernel.calls",
            format!("the kernel, or a filter around podd, does not have {}", missing.join(", ")),
            "boot a kernel from 5.10 on; inside a container, let its seccomp profile allow these calls",
        ),
    }
}

fn namespaces(kernel: &Kernel) -> Check {
    let needed = ["net", "ipc", "uts", "pid", "mnt", "cgroup"];
    let missing: Vec<_> =
        needed.into_iter().filter(|name| !kernel.namespaces.iter().any(|own| own == name)).collect();
    match missing.is_empty() {
        true => Check::ok("kernel.namespaces", needed.join(", ")),
        false => Check::problem(
            "kernel.namespaces",
            format!("the kernel has no {} namespaces", missing.join(", ")),
            "boot a kernel with CONFIG_NAMESPACES and all below it",
        ),
    }
}

fn user_namespaces(kernel: &Kernel) -> Check {
    const ID: &str = "kernel.user-namespaces";
    let advice = "nothing, unless pods ask for hostUsers: false; those are refused";
    if kernel.user_namespaces == 0 || !kernel.namespaces.iter().any(|own| own == "user") {
        return Check::note(ID, "there can be none (user.max_user_namespaces is 0 or missing)", advice);
    }
    match &kernel.mapped {
        None => Check::unseen(ID, "id-mapped mounts are tried by root alone"),
        Some(Ok(())) => Check::ok(ID, "there, with id-mapped mounts"),
        Some(Err(why)) => Check::note(ID, format!("not for pods: {why}"), advice),
    }
}

fn apparmor(facts: &AppArmorFacts) -> Check {
    const ID: &str = "kernel.apparmor";
    let AppArmorFacts::Enabled { default, .. } = facts else {
        return Check::ok(ID, "not enabled, or not visible here");
    };
    match default {
        DefaultProfile::Unconfined => Check::note(
            ID,
            "containers that ask for no profile have none",
            "nothing, if apparmor.profile is meant so",
        ),
        DefaultProfile::Loaded(name) => Check::ok(ID, format!("enabled; {name} is loaded")),
        DefaultProfile::Missing(name) if name == OWN_PROFILE => {
            Check::ok(ID, format!("enabled; podd loads {name} when it starts"))
        }
        DefaultProfile::Missing(name) => Check::warning(
            ID,
            format!("the profile {name:?} of apparmor.profile is not loaded"),
            "load it with apparmor_parser, or set apparmor.profile to podd-default",
        ),
        DefaultProfile::Failed(why) => {
            Check::warning(ID, format!("{OWN_PROFILE} cannot be loaded: {why}"), "install apparmor")
        }
    }
}

fn forwarding(forwarding: Option<bool>) -> Check {
    const ID: &str = "kernel.ip-forward";
    match forwarding {
        Some(true) => Check::ok(ID, "net.ipv4.ip_forward is 1"),
        Some(false) => Check::warning(
            ID,
            "net.ipv4.ip_forward is 0: pods reach nobody outside of this node",
            "sysctl -w net.ipv4.ip_forward=1, and put it into /etc/sysctl.d (CNI's bridge plugin sets it by itself, as a gateway)",
        ),
        None => Check::note(ID, "net.ipv4.ip_forward cannot be read", ""),
    }
}

fn bridge_filter(filter: Option<bool>) -> Check {
    const ID: &str = "kernel.bridge-filter";
    match filter {
        Some(true) => Check::ok(ID, "bridged packets pass iptables"),
        Some(false) | None => {
            let seen = match filter {
                None => "br_netfilter is not loaded",
                _ => "net.bridge.bridge-nf-call-iptables is 0",
            };
            let advice = "nothing, unless kube-proxy serves pods on a bridge: then modprobe br_netfilter, and set \
                          net.bridge.bridge-nf-call-iptables=1";
            Check::note(ID, seen, advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    fn good() -> Kernel {
        let namespaces = ["net", "ipc", "uts", "pid", "mnt", "cgroup", "user"];
        Kernel {
            release: "6.18.1-amd64".into(),
            calls: Calls { openat2: true, pidfd: true, mount_context: true },
            overlay: Overlay::Loaded,
            namespaces: namespaces.map(str::to_owned).to_vec(),
            user_namespaces: 1000,
            mapped: Some(Ok(())),
            seccomp: true,
            apparmor: AppArmorFacts::Disabled,
            selinux: None,
            forwarding: Some(true),
            bridge_filter: Some(true),
        }
    }

    fn outcome(kernel: &Kernel, id: &str) -> Outcome {
        checks(kernel).into_iter().find(|check| check.id == id).unwrap().outcome
    }

    #[test]
    fn a_good_kernel_has_nothing_to_be_said_about() {
        assert!(checks(&good()).iter().all(|check| check.outcome == Outcome::Ok));
    }

    #[test]
    fn each_lack_is_judged_by_what_it_costs() {
        use Outcome::{Note, Ok, Problem, Warning};
        let changed = |change: &dyn Fn(&mut Kernel)| {
            let mut kernel = good();
            change(&mut kernel);
            kernel
        };
        type Change<'a> = &'a dyn Fn(&mut Kernel);
        let cases: [(&str, Outcome, Change<'_>); 11] = [
            ("kernel.version", Problem, &|kernel| kernel.release = "5.4.0".into()),
            ("kernel.version", Ok, &|kernel| kernel.release = "5.15.0".into()),
            ("kernel.calls", Problem, &|kernel| kernel.calls.openat2 = false),
            ("kernel.overlayfs", Problem, &|kernel| kernel.overlay = Overlay::Missing),
            ("kernel.overlayfs", Ok, &|kernel| kernel.overlay = Overlay::Loadable),
            ("kernel.namespaces", Problem, &|kernel| kernel.namespaces.retain(|name| name != "net")),
            ("kernel.user-namespaces", Note, &|kernel| kernel.user_namespaces = 0),
            ("kernel.user-namespaces", Note, &|kernel| kernel.mapped = Some(Err("zfs".into()))),
            ("kernel.seccomp", Problem, &|kernel| kernel.seccomp = false),
            ("kernel.ip-forward", Warning, &|kernel| kernel.forwarding = Some(false)),
            ("kernel.bridge-filter", Note, &|kernel| kernel.bridge_filter = None),
        ];
        for (id, expected, change) in cases {
            assert_eq!(outcome(&changed(change), id), expected, "{id}");
        }
        let own = |default| {
            let apparmor = AppArmorFacts::Enabled { default, loaded: Default::default() };
            outcome(&Kernel { apparmor, ..good() }, "kernel.apparmor")
        };
        assert_eq!(own(DefaultProfile::Missing(OWN_PROFILE.into())), Ok);
        assert_eq!(own(DefaultProfile::Missing("theirs".into())), Warning);
    }
}
