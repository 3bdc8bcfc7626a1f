//! Control groups: the version, the controllers, and who makes them.

use podd::cgroup::{CgroupMode, Cgroups, Driver, Layout};
use podd::config::{CgroupDriver, Config};

use super::finding::{Check, whole};

/// Without these no limit of a pod holds.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// What was seen of the cgroups.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) layout: Result<Layout, String>,
    pub(super) configured: CgroupDriver,
    pub(super) driver: Result<Driver, String>,
    pub(super) systemd: bool,
    /// Whether a handler's runtime is crun, and whether the default one's is.
    pub(super) crun: (bool, bool),
}

/// Looks at them.
pub(super) fn observe(config: &Config) -> Observed {
    let crun = |name: &str, path: &std::path::Path| {
        name == "crun" || path.file_name().is_some_and(|file| file.to_string_lossy().starts_with("crun"))
    };
    let is_crun = |name: &String| {
        config.runtimes.get(name).is_some_and(|own| own.path.exists() && crun(name, &own.path))
    };
    Observed {
        layout: Cgroups::detect().map(|cgroups| cgroups.layout()).map_err(|e| whole(&e)),
        configured: config.cgroup_driver,
        driver: Driver::in_force(config.cgroup_driver).map_err(|e| e.to_string()),
        systemd: Driver::in_force(CgroupDriver::Systemd).is_ok(),
        crun: (config.runtimes.keys().any(is_crun), is_crun(&config.default_runtime)),
    }
}

/// Judges them.
pub(super) fn checks(observed: &Observed) -> Vec<Check> {
    let mut checks = vec![driver(observed)];
    match &observed.layout {
        Err(why) => checks.push(Check::problem(
            "cgroup.version",
            format!("the cgroups cannot be found: {why}"),
            "mount cgroups at /sys/fs/cgroup",
        )),
        Ok(layout) => checks.extend([version(layout), controllers(layout), delegation(layout)]),
    }
    let beside =
        observed.layout.iter().flat_map(|layout| &layout.beside).cloned().collect::<Vec<_>>().join(", ");
    if !beside.is_empty() {
        checks.push(hybrid(&beside, observed.crun));
    }
    checks
}

fn driver(observed: &Observed) -> Check {
    const ID: &str = "cgroup.driver";
    match (&observed.driver, observed.configured, observed.systemd) {
        (Err(why), ..) => Check::problem(ID, why.clone(), "set cgroup_driver to auto or cgroupfs"),
        (Ok(Driver::Systemd), ..) => Check::ok(ID, "systemd, which runs here"),
        (Ok(Driver::Cgroupfs), CgroupDriver::Cgroupfs, true) => Check::warning(
            ID,
            "cgroupfs, on a node where systemd looks after the cgroups too",
            "set cgroup_driver to auto, so that each cgroup has one master; the kubelet follows podd in this",
        ),
        (Ok(Driver::Cgroupfs), ..) => Check::ok(ID, "cgroupfs"),
    }
}

fn version(layout: &Layout) -> Check {
    const ID: &str = "cgroup.version";
    match (layout.mode, layout.read_only) {
        (_, true) => Check::problem(
            ID,
            "the cgroups are mounted read-only",
            "inside a container, give it a cgroup namespace of its own and writable cgroups (privileged)",
        ),
        (CgroupMode::V2, false) => Check::ok(ID, "v2"),
        (CgroupMode::V1, false) => Check::note(
            ID,
            "v1: no memory.high, no pressure (PSI) of containers, and Kubernetes gives it up",
            "boot with systemd.unified_cgroup_hierarchy=1 when you can",
        ),
    }
}

fn controllers(layout: &Layout) -> Check {
    const ID: &str = "cgroup.controllers";
    let has = |name: &str| layout.controllers.iter().any(|own| own == name);
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !has(name)).collect();
    let optional = if layout.mode == CgroupMode::V2 { ["io", "cpuset"] } else { ["blkio", "cpuset"] };
    let without: Vec<_> = optional.into_iter().filter(|name| !has(name)).collect();
    match (missing.is_empty(), without.is_empty()) {
        (false, _) => Check::problem(
            ID,
            format!("{} missing: these limits of pods cannot hold", missing.join(", ")),
            "boot without cgroup_disable=... for them, and with cgroup_enable=memory where the distribution asks for it",
        ),
        (true, false) => Check::note(
            ID,
            format!("all that is needed; not {}", without.join(", ")),
            "nothing, unless pods are to have processors of their own or classes of block I/O",
        ),
        (true, true) => {
            let known = layout.controllers.iter().filter(|name| !name.contains('='));
            Check::ok(ID, known.map(String::as_str).collect::<Vec<_>>().join(", "))
        }
    }
}

fn delegation(layout: &Layout) -> Check {
    const ID: &str = "cgroup.delegation";
    let down = |name: &&str| layout.handed_down.iter().any(|own| own == name);
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !down(name)).collect();
    match layout.mode {
        CgroupMode::V1 => Check::ok(ID, "each v1 hierarchy is podd's to use"),
        CgroupMode::V2 if missing.is_empty() => Check::ok(ID, "what is needed is handed down"),
        CgroupMode::V2 if layout.occupied => Check::problem(
            ID,
            format!(
                "{} cannot be handed down: processes live in the topmost cgroup of this container",
                missing.join(", ")
            ),
            "move them into a cgroup below it before podd starts, as init scripts for nested nodes do",
        ),
        CgroupMode::V2 => {
            Check::ok(ID, format!("{} will be handed down with the first pod", missing.join(", ")))
        }
    }
}

fn hybrid(beside: &str, (any, default): (bool, bool)) -> Check {
    const ID: &str = "cgroup.hybrid";
    let seen = format!("v1 with v2 beside it at /sys/fs/cgroup/unified, which owns {beside}");
    let advice = "mount these controllers as v1 or unmount /sys/fs/cgroup/unified before podd starts, boot with one version, \
                  or use runc: crun makes no container here";
    match (any, default) {
        (_, true) => Check::problem(ID, seen, advice),
        (true, false) => Check::warning(ID, seen, advice),
        (false, false) => {
            Check::note(ID, seen, "nothing, as long as no handler is crun, which makes no container here")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn v2() -> Layout {
        Layout {
            mode: CgroupMode::V2,
            controllers: words("cpuset cpu io memory pids"),
            handed_down: words("cpu memory pids"),
            beside: Vec::new(),
            read_only: false,
            occupied: false,
        }
    }

    fn v1(beside: &str) -> Layout {
        let controllers = words("cpuset cpu cpuacct blkio memory pids name=systemd");
        Layout { mode: CgroupMode::V1, controllers, handed_down: Vec::new(), beside: words(beside), ..v2() }
    }

    fn observed(layout: Layout) -> Observed {
        Observed {
            layout: Ok(layout),
            configured: CgroupDriver::Auto,
            driver: Ok(Driver::Cgroupfs),
            systemd: false,
            crun: (true, true),
        }
    }

    fn outcome(observed: &Observed, id: &str) -> Option<Outcome> {
        checks(observed).into_iter().find(|check| check.id == id).map(|check| check.outcome)
    }

    #[test]
    fn v2_with_everything_is_well() {
        assert!(checks(&observed(v2())).iter().all(|check| check.outcome == Outcome::Ok));
    }

    #[test]
    fn crun_makes_no_container_on_a_hybrid_host_whose_v2_owns_a_controller() {
        let mut hybrid = observed(v1("hugetlb"));
        assert_eq!(outcome(&hybrid, "cgroup.hybrid"), Some(Outcome::Problem));
        hybrid.crun = (true, false);
        assert_eq!(outcome(&hybrid, "cgroup.hybrid"), Some(Outcome::Warning));
        hybrid.crun = (false, false);
        assert_eq!(outcome(&hybrid, "cgroup.hybrid"), Some(Outcome::Note));
        assert_eq!(outcome(&observed(v1("")), "cgroup.hybrid"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let lacking = |text: &str| {
            outcome(&observed(Layout { controllers: words(text), ..v2() }), "cgroup.controllers")
        };
        assert_eq!(lacking("cpu pids io cpuset"), Some(Outcome::Problem));
        assert_eq!(lacking("cpu pids memory"), Some(Outcome::Note));
        let mut bare = observed(Layout { handed_down: Vec::new(), ..v2() });
        assert_eq!(outcome(&bare, "cgroup.delegation"), Some(Outcome::Ok));
        bare = observed(Layout { handed_down: Vec::new(), occupied: true, ..v2() });
        assert_eq!(outcome(&bare, "cgroup.delegation"), Some(Outcome::Problem));
        assert_eq!(
            outcome(&observed(Layout { read_only: true, ..v2() }), "cgroup.version"),
            Some(Outcome::Problem)
        );
    }

    #[test]
    fn the_driver_is_held_against_the_init_system() {
        let mut own = observed(v2());
        own.driver = Err("no systemd".into());
        assert_eq!(outcome(&own, "cgroup.driver"), Some(Outcome::Problem));
        own = Observed { configured: CgroupDriver::Cgroupfs, systemd: true, ..observed(v2()) };
        assert_eq!(outcome(&own, "cgroup.driver"), Some(Outcome::Warning));
    }
}
