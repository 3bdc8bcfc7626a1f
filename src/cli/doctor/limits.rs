//! Limits of the node and of the daemon's process. Without a daemon this command's own stand for it.

use std::fs;

use podd::spec::lacking;

use super::finding::Check;

/// Without these nothing works.
const ESSENTIAL: [&str; 5] = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_MKNOD"];

/// A node full of pods needs some files for each.
const FILES: u64 = 65_536;
/// The kernel's default, which was made for other machines.
const PIDS: u64 = 65_536;
/// The kubelet, podd and what runs in pods have one or more each.
const INSTANCES: u64 = 512;

/// What was seen of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits {
    /// The daemon's process, if one runs.
    pub(super) daemon: Option<i32>,
    /// The soft limit of open files.
    pub(super) files: Option<u64>,
    /// The capabilities in force.
    pub(super) capabilities: Option<u64>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) pid_max: Option<u64>,
    pub(super) inotify_instances: Option<u64>,
}

/// Looks at them.
pub(super) fn observe(daemon: Option<i32>) -> Limits {
    let process = daemon.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    Limits {
        daemon,
        files: open_files(&read("limits")),
        capabilities: capabilities(&read("status")),
        oom_score_adj: read("oom_score_adj").trim().parse().ok(),
        pid_max: number("/proc/sys/kernel/pid_max"),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
    }
}

/// From the table of proc_pid_limits(5).
fn open_files(table: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

fn capabilities(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// Judges them.
pub(super) fn checks(limits: &Limits) -> Vec<Check> {
    let mut checks = vec![rights(limits), files(limits)];
    checks.extend(limits.daemon.and(limits.oom_score_adj).map(|adj| match adj {
        -1000..=-900 => Check::ok("limits.oom", format!("the daemon's oom_score_adj is {adj}")),
        _ => Check::note(
            "limits.oom",
            format!("the daemon's oom_score_adj is {adj}: it may be killed when the node runs out of memory"),
            "OOMScoreAdjust=-999 in its unit; its containers would live on, as they do now",
        ),
    }));
    checks.push(number("limits.pids", "kernel.pid_max", limits.pid_max, PIDS, "4194304"));
    let instances = limits.inotify_instances;
    checks.push(number("limits.inotify", "fs.inotify.max_user_instances", instances, INSTANCES, "8192"));
    checks
}

fn whose(limits: &Limits) -> &'static str {
    if limits.daemon.is_some() { "the daemon" } else { "this process (no daemon runs)" }
}

fn rights(limits: &Limits) -> Check {
    const ID: &str = "limits.capabilities";
    let Some(set) = limits.capabilities else {
        return Check::unseen(ID, "/proc tells nothing of the daemon");
    };
    let lacking = lacking(set);
    let whose = whose(limits);
    if lacking.is_empty() {
        return Check::ok(ID, format!("{whose} has all"));
    }
    if limits.daemon.is_none() && set == 0 {
        return Check::unseen(ID, "no daemon runs, and this process has no rights of its own to go by");
    }
    let seen = format!("{whose} lacks {}", lacking.join(", "));
    match lacking.iter().any(|name| ESSENTIAL.contains(&name.as_str())) {
        true => Check::problem(
            ID,
            seen,
            "run podd as root with all capabilities: without these it makes no container",
        ),
        false => Check::warning(
            ID,
            seen,
            "nothing on a nested node: containers get what there is (privileged ones too), and negative \
             oom_score_adj are raised to the daemon's own",
        ),
    }
}

fn files(limits: &Limits) -> Check {
    const ID: &str = "limits.files";
    match (limits.files, limits.daemon) {
        (None, _) => Check::unseen(ID, "/proc tells nothing of the daemon's limits"),
        (Some(files), _) if files >= FILES => {
            Check::ok(ID, format!("{} may open {}", whose(limits), count(files)))
        }
        (Some(files), Some(_)) => Check::warning(
            ID,
            format!("the daemon may open {files} files"),
            "LimitNOFILE=1048576 in its unit: some are needed for each container and for each layer on its way",
        ),
        (Some(files), None) => Check::note(
            ID,
            format!("no daemon runs; this process may open {files} files"),
            "nothing, if podd's unit has a LimitNOFILE of its own, as the one that comes with podd",
        ),
    }
}

fn count(files: u64) -> String {
    if files == u64::MAX { "any number of files".to_owned() } else { format!("{files} files") }
}

fn number(id: &str, name: &str, value: Option<u64>, least: u64, better: &str) -> Check {
    match value {
        None => Check::unseen(id, format!("{name} cannot be read")),
        Some(value) if value >= least => Check::ok(id, format!("{name} is {value}")),
        Some(value) => {
            let advice = format!(
                "sysctl -w {name}={better}, and put it into /etc/sysctl.d, for a node with many pods"
            );
            Check::note(id, format!("{name} is {value}"), &advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    fn good() -> Limits {
        Limits {
            daemon: Some(7),
            files: Some(1 << 20),
            capabilities: Some(u64::MAX),
            oom_score_adj: Some(-999),
            pid_max: Some(4 << 20),
            inotify_instances: Some(8192),
        }
    }

    fn check(limits: &Limits, id: &str) -> Check {
        checks(limits).into_iter().find(|check| check.id == id).unwrap()
    }

    #[test]
    fn generous_limits_are_well() {
        assert!(checks(&good()).iter().all(|check| check.outcome == Outcome::Ok));
    }

    #[test]
    fn what_the_daemon_lacks_is_named() {
        let without = |bit: u32| Limits { capabilities: Some(!(1 << bit)), ..good() };
        let nested = check(&without(24), "limits.capabilities");
        assert_eq!(
            (nested.outcome, nested.seen.as_str()),
            (Outcome::Warning, "the daemon lacks CAP_SYS_RESOURCE")
        );
        assert_eq!(check(&without(21), "limits.capabilities").outcome, Outcome::Problem);
        let nobody = Limits { daemon: None, capabilities: Some(0), ..good() };
        assert_eq!(check(&nobody, "limits.capabilities").outcome, Outcome::Note);
    }

    #[test]
    fn small_numbers_are_told() {
        let few = Limits { files: Some(1024), ..good() };
        assert_eq!(check(&few, "limits.files").outcome, Outcome::Warning);
        assert_eq!(check(&Limits { daemon: None, ..few }, "limits.files").outcome, Outcome::Note);
        let small =
            Limits { pid_max: Some(32_768), inotify_instances: Some(128), oom_score_adj: Some(0), ..good() };
        for id in ["limits.pids", "limits.inotify", "limits.oom"] {
            assert_eq!(check(&small, id).outcome, Outcome::Note, "{id}");
        }
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let seen = observe(None);
        assert!(seen.files.is_some() && seen.capabilities.is_some() && seen.pid_max.is_some(), "{seen:?}");
        assert_eq!(
            open_files("Limit  Soft\nMax open files            unlimited  unlimited files\n"),
            Some(u64::MAX)
        );
        assert_eq!(open_files(""), None);
    }
}
