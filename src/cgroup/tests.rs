use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command};

use super::*;

/// A cgroup of its own for one test, removed at its end.
struct Scratch(Cgroups, CgroupPath);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = CgroupPath::new(&format!("/podd-test-{}-{name}", std::process::id())).unwrap();
        Self(Cgroups::detect().unwrap(), path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let killed = self.0.kill_all(&self.1);
        let removed = self.0.remove_tree(&self.1);
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
        }
    }
}

fn path(text: &str) -> CgroupPath {
    CgroupPath::new(text).unwrap()
}

fn sleeper(cgroups: &Cgroups, path: &CgroupPath) -> Child {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    for hierarchy in cgroups.directories(path) {
        fs::write(hierarchy.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    child
}

#[test]
fn a_parent_cannot_lead_out_of_the_cgroup_file_system() {
    for text in ["..", "/a/../b", "a/..", "/a\nb", " /a", "/a\0"] {
        assert!(matches!(CgroupPath::new(text), Err(CgroupError::Parent(_))), "{text:?}");
    }
    assert_eq!(path("kubepods//burstable/./pod1/").as_str(), "/kubepods/burstable/pod1");
    assert_eq!(path("").as_str(), "/");
    assert_eq!(path("/a/b").under(Path::new("/sys/fs/cgroup")), Path::new("/sys/fs/cgroup/a/b"));
    assert_eq!(path("/a/b/c").lineage(), [path("/a"), path("/a/b"), path("/a/b/c")]);
    assert!(path("/").lineage().is_empty());
}

fn at(driver: Driver, cgroup_parent: &str) -> Result<Location, CgroupError> {
    location(driver, &parent(driver, cgroup_parent, "/podd-pod-1")?, "abc")
}

#[test]
fn cgroupfs_names_a_container_below_its_parent() {
    let found = at(Driver::Cgroupfs, "/kubepods/pod1").unwrap();
    assert_eq!(
        (found.spec.as_str(), found.path.as_str()),
        ("/kubepods/pod1/podd-abc", "/kubepods/pod1/podd-abc")
    );
    assert_eq!(at(Driver::Cgroupfs, "").unwrap().path.as_str(), "/podd-pod-1/podd-abc");
    assert!(at(Driver::Cgroupfs, "../../etc").is_err());
}

#[test]
fn systemd_names_a_slice_and_a_scope_in_it() {
    let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
    let found = at(Driver::Systemd, pod).unwrap();
    assert_eq!(found.spec, "kubepods-burstable-pod1.slice:podd:abc");
    assert_eq!(found.path.as_str(), format!("{pod}/podd-abc.scope"));
    assert_eq!(at(Driver::Systemd, "kubepods-burstable-pod1.slice").unwrap(), found);
    assert_eq!(parent(Driver::Systemd, "kubepods-burstable-pod1.slice", "").unwrap().as_str(), pod);
    let without = at(Driver::Systemd, "").unwrap();
    assert_eq!(
        (without.spec.as_str(), without.path.as_str()),
        ("system.slice:podd:abc", "/system.slice/podd-abc.scope")
    );
    assert_eq!(at(Driver::Systemd, "-.slice").unwrap().path.as_str(), "/podd-abc.scope");
    for given in ["/kubepods", "a--b.slice", ".slice", "/kubepods.slice/x"] {
        assert!(matches!(at(Driver::Systemd, given), Err(CgroupError::Slice(_))), "{given}");
    }
}

#[test]
fn a_document_says_where_the_cgroup_is_in_the_form_of_either_driver() {
    for (driver, given) in [
        (Driver::Cgroupfs, "/kubepods/pod1"),
        (Driver::Cgroupfs, ""),
        (Driver::Systemd, "kubepods-burstable-pod1.slice"),
        (Driver::Systemd, ""),
    ] {
        let found = at(driver, given).unwrap();
        assert_eq!(path_of_spec(&found.spec).unwrap(), found.path);
        assert_eq!(is_systemd(&found.spec), driver == Driver::Systemd);
    }
    assert_eq!(path_of_spec("/a:b:c/d").unwrap().as_str(), "/a:b:c/d");
    assert!(path_of_spec("a.slice:podd:../x").is_err());
}

#[test]
fn a_hybrid_host_is_read_as_v1() {
    let table = "30 29 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                 31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
                 32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                 33 29 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                 34 29 0:26 / /mnt/memory rw - cgroup cgroup rw,memory\n\
                 35 29 0:30 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
    let cgroups = Cgroups::v1(table);
    assert_eq!(cgroups.mode(), CgroupMode::V1);
    let files = cgroups.procs_files(&path("/m"));
    let at = |name: &str| PathBuf::from(format!("/sys/fs/cgroup/{name}/m/cgroup.procs"));
    assert_eq!(files, [at("memory"), at("cpu,cpuacct"), at("systemd")]);
    assert_eq!(cgroups.oom_file(&path("/c")), Some("/sys/fs/cgroup/memory/c/memory.oom_control".into()));
    let v2 = Cgroups::v2(Path::new("/sys/fs/cgroup"));
    assert_eq!(v2.oom_file(&path("/c")), Some("/sys/fs/cgroup/c/memory.events".into()));
    assert_eq!(v2.procs_files(&path("/c")), [PathBuf::from("/sys/fs/cgroup/c/cgroup.procs")]);
}

#[test]
fn a_cgroup_is_made_filled_emptied_and_removed() {
    let scratch = Scratch::new("life");
    let (cgroups, parent) = (&scratch.0, &scratch.1);
    let container = location(Driver::Cgroupfs, parent, "abc").unwrap().path;
    assert!(!cgroups.exists(&container));
    assert!(cgroups.processes(&container).unwrap().is_empty());
    cgroups.create(&container).unwrap();
    cgroups.create(&container).unwrap();
    assert!(cgroups.directories(&container).all(|directory| directory.is_dir()));

    let mut child = sleeper(cgroups, &container);
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(cgroups.processes(parent).unwrap(), BTreeSet::from([pid]));
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    cgroups.kill_all(parent).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&reaper.join().unwrap()), Some(9));
    cgroups.remove_tree(parent).unwrap();
    cgroups.remove_tree(parent).unwrap();
    assert!(!cgroups.exists(parent));
}

#[test]
fn a_cgroup_with_a_process_is_busy_for_a_bounded_time() {
    let scratch = Scratch::new("busy");
    let (cgroups, parent) = (&scratch.0, &scratch.1);
    cgroups.create(parent).unwrap();
    let mut child = sleeper(cgroups, parent);
    let error = remove_in_one(cgroups, parent).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(error.to_string().starts_with("remove cgroup /"), "{error}");
}

/// One hierarchy is enough to see that removal gives up.
fn remove_in_one(cgroups: &Cgroups, path: &CgroupPath) -> Result<(), CgroupError> {
    let first = Cgroups { mode: cgroups.mode, hierarchies: cgroups.hierarchies[..1].to_vec() };
    first.remove_tree(path)
}

#[test]
fn the_root_is_never_emptied_or_removed() {
    let cgroups = Cgroups::detect().unwrap();
    assert!(cgroups.kill_all(&path("/")).is_err());
    assert!(cgroups.remove_tree(&path("/")).is_err());
}

proptest::proptest! {
    #[test]
    fn any_parent_stays_below_the_root(given: String) {
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            if let Ok(found) = at(driver, &given) {
                let directory = found.path.under(Path::new("/cg"));
                assert!(directory.starts_with("/cg") && found.path.as_str().contains("/podd-abc"));
                assert!(!directory.components().any(|part| part == std::path::Component::ParentDir));
            }
        }
        let _ = path_of_spec(&given);
    }
}
