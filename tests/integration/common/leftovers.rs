//! The search for what a node has left behind: processes, mounts, namespaces, cgroups, addresses, links, files.
//!
//! Everything of a node carries its tag (directories, bridge, cgroup parent) or one of its pods' IDs, so tests that run
//! side by side do not see each other's.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::node::Names;
use super::{cgroup_driver, program};

/// What was found; empty when all is gone.
#[derive(Debug, Default)]
pub struct Leftovers(Vec<String>);

impl Leftovers {
    /// Looks everywhere. `ids` are those of the pods that ever ran on the node.
    pub fn of(names: &Names, ids: &[String]) -> Self {
        let mut found = Vec::new();
        found.extend(processes(names).into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
        found.extend(mounts(names).into_iter().map(|at| format!("mount {}", at.display())));
        found.extend(netns(ids).into_iter().map(|at| format!("network namespace {}", at.display())));
        found.extend(cgroups(names).into_iter().map(|at| format!("cgroup {}", at.display())));
        found.extend(addresses(names).into_iter().map(|at| format!("address file {}", at.display())));
        found.extend(veths(names).into_iter().map(|link| format!("link {link}")));
        found.extend(nat_rules(names).into_iter().map(|rule| format!("nat rule {rule}")));
        found.extend(state_files(names).into_iter().map(|at| format!("file {}", at.display())));
        Self(found)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// The processes of a node: those that name its directory or cgroup, or hold a file below it. Never the test itself.
pub fn processes(names: &Names) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let proc = entry.path();
        if is_zombie(&proc) || !belongs(&proc, &names.tag) {
            continue;
        }
        let line = fs::read_to_string(proc.join("cmdline")).unwrap_or_default().replace('\0', " ");
        found.push((name.parse().unwrap(), line));
    }
    found
}

fn belongs(proc: &Path, tag: &str) -> bool {
    let named = ["cmdline", "environ", "cgroup"].iter().any(|file| {
        fs::read(proc.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(tag))
    });
    let links = ["cwd".into(), "exe".into()].into_iter().chain(
        fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|fd| PathBuf::from("fd").join(fd.file_name())),
    );
    named
        || links.into_iter().any(|link| {
            fs::read_link(proc.join(link)).is_ok_and(|target| target.to_string_lossy().contains(tag))
        })
}

fn is_zombie(proc: &Path) -> bool {
    let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X'))
}

/// Mounts at a path that carries the node's tag, deepest first.
pub fn mounts(names: &Names) -> Vec<PathBuf> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = info.lines().filter_map(|line| line.split(' ').nth(4));
    let mut found: Vec<PathBuf> = points.filter(|at| at.contains(&names.tag)).map(PathBuf::from).collect();
    found.reverse();
    found
}

/// The pinned network namespaces of the given pods.
pub fn netns(ids: &[String]) -> Vec<PathBuf> {
    let pins = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    pins.filter(|path| ids.iter().any(|id| path.to_string_lossy().contains(id.as_str()))).collect()
}

/// Cgroups below the node's parent, on every hierarchy, deepest first. The parent itself is the kubelet's, hence ours.
pub fn cgroups(names: &Names) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for parent in cgroup_parents(names) {
        let below = walk(&parent).into_iter().filter(|path| path.is_dir());
        found.extend(below);
    }
    found.reverse();
    found
}

/// Where the cgroup parents of the node's pods and of its monitors are, on every hierarchy that has them.
pub fn cgroup_parents(names: &Names) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_node = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(&names.tag);
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    // Not every directory there is one: `contrib/lib/namespace.sh` puts a tmpfs in the place of `unified`.
    let hierarchies = hierarchies.chain([root.to_owned()]).filter(|dir| dir.join("cgroup.procs").exists());
    hierarchies.flat_map(below).filter(of_node).map(|entry| entry.path()).collect()
}

/// Addresses that host-local believes in use.
fn addresses(names: &Names) -> Vec<PathBuf> {
    let files = walk(&names.ipam_dir()).into_iter().filter(|path| path.is_file());
    let book = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("last_reserved_ip") || name == "lock"
    };
    files.filter(|path| !book(path)).collect()
}

/// Host ends of veth pairs on the node's bridge.
fn veths(names: &Names) -> Vec<String> {
    let ports = fs::read_dir(Path::new("/sys/class/net").join(&names.bridge).join("brif"));
    ports
        .into_iter()
        .flatten()
        .flatten()
        .map(|port| port.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Rules of masquerading and of host ports: the plugins put the network's name into their comments.
fn nat_rules(names: &Names) -> Vec<String> {
    let out = Command::new(program("iptables-save")).args(["-t", "nat"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines()
        .filter(|line| line.starts_with("-A") && line.contains(&names.tag))
        .map(str::to_owned)
        .collect()
}

/// Deletes the rules with `$1` in them, then the chains that they led to.
const SWEEP_NAT: &str = r#"
rules=$(iptables-save -t nat | sed -n "s/^-A \(.*$1.*\)/\1/p")
echo "$rules" | while read -r rule; do eval "iptables -w -t nat -D $rule"; done
for chain in $(echo "$rules" | grep -o 'CNI-[0-9A-Za-z-]*[0-9a-f]\{20\}' | sort -u); do
    iptables -w -t nat -F "$chain"
    iptables -w -t nat -X "$chain"
done
"#;

/// Files that describe a pod or container, below the run directory and the root. Empty directories, locks and sockets
/// are the skeleton of a daemon that has nothing to do.
fn state_files(names: &Names) -> Vec<PathBuf> {
    let skeleton = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with("lock") || name.ends_with(".sock")
    };
    let mut found: Vec<PathBuf> = walk(&names.run_dir()).into_iter().filter(|path| !path.is_dir()).collect();
    for dir in ["cni", "containers"] {
        found.extend(walk(&names.root().join(dir)).into_iter().filter(|path| !path.is_dir()));
    }
    found.extend(
        fs::read_dir(names.root().join("containers")).into_iter().flatten().flatten().map(|e| e.path()),
    );
    found.retain(|path| !skeleton(path));
    found.sort();
    found.dedup();
    found
}

/// Everything below a directory, the directory itself excluded; symbolic links are not followed.
pub fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(walk(&entry.path()));
        }
    }
    found
}

/// Removes by force what a failed test has left, so that it does not disturb the next one.
pub fn sweep(names: &Names, ids: &[String]) {
    for (pid, _) in processes(names) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    for at in mounts(names).into_iter().chain(netns(ids)) {
        let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
        if at.starts_with("/run/netns") {
            let _ = fs::remove_file(at);
        }
    }
    let _ = Command::new("/bin/sh").args(["-c", SWEEP_NAT, "sweep", &names.tag]).output();
    remove_links_and_cgroups(names);
}

/// The bridge, which CNI leaves in place, and the cgroup parent, which the runtime leaves in place.
pub fn remove_links_and_cgroups(names: &Names) {
    for link in veths(names).iter().chain([&names.bridge]) {
        if Path::new("/sys/class/net").join(link).exists() {
            let _ = Command::new("ip").args(["link", "delete", link]).output();
        }
    }
    if cgroup_driver() == "systemd" {
        // Made by systemd with the first scope in it, and kept.
        let _ = Command::new("systemctl").args(["stop", &names.cgroup_parent]).output();
    }
    for dir in cgroups(names).into_iter().chain(cgroup_parents(names)) {
        let _ = fs::remove_dir(dir);
    }
}
