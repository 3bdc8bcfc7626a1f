//! Namespaces of pods: made on a thread of their own, kept by a bind mount, entered by a thread of its own.
//!
//! A namespace belongs to a thread, so everything here runs on a fresh one that then ends: no thread of a pool ever comes
//! back in the wrong namespace. A pod without a process keeps its namespaces through their pins: bind mounts of the
//! thread's `/proc/thread-self/ns` entries on empty files. Either all that a request asks for is pinned, or nothing is left.

mod sysctl;
mod user;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use self::sysctl::Sysctl;
pub use self::sysctl::{SysctlNamespace, same_sysctl, sysctl_namespace};
use self::user::Owner;
pub use self::user::{IdMaps, IdRange, maps_owners};
use crate::sys::mount;

/// The namespaces that a pod gets: each that is asked for with the path of its pin, which must not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceRequest {
    /// The network namespace's pin; its loopback interface is brought up.
    pub net: Option<PathBuf>,
    /// The IPC namespace's pin.
    pub ipc: Option<PathBuf>,
    /// The UTS namespace's pin.
    pub uts: Option<PathBuf>,
    /// The pin of a user namespace that is to own the others, and its IDs.
    pub user: Option<(PathBuf, IdMaps)>,
    /// The host name; needs `uts`.
    pub hostname: Option<String>,
    /// Kernel parameters, with `.` or `/` between the parts of a name; each must belong to a namespace that is asked for.
    pub sysctls: BTreeMap<String, String>,
}

/// Why a pod's namespaces could not be made; nothing of them is left.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The kernel refused the namespaces.
    #[error("create the {kinds} namespace of the pod")]
    Create {
        /// Which ones, as in `net, ipc`.
        kinds: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The new network namespace has no working loopback interface.
    #[error("bring up the loopback interface in the pod's net namespace")]
    Loopback(#[source] io::Error),
    /// The host name was refused, or there is no UTS namespace for it.
    #[error("set the host name {name:?} in the pod's uts namespace")]
    Hostname {
        /// The name.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A parameter that is not a pod's to set.
    #[error("sysctl {name:?} cannot be set for this pod: {reason}")]
    SysctlRefused {
        /// The parameter as it was given.
        name: String,
        /// Why, and what would be allowed.
        reason: &'static str,
    },
    /// The kernel refused a parameter or its value.
    #[error("set sysctl {name:?} to {value:?} in the pod's {kind} namespace")]
    Sysctl {
        /// The parameter as it was given.
        name: String,
        /// The value as it was given.
        value: String,
        /// The namespace.
        kind: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A namespace could not be bound to its file.
    #[error("pin the {kind} namespace at {}", path.display())]
    Pin {
        /// The namespace.
        kind: &'static str,
        /// Its pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Makes, sets up and pins the namespaces of a pod, all or none.
pub fn create_pinned(request: &NamespaceRequest) -> Result<(), NamespaceError> {
    let sysctls = request
        .sysctls
        .iter()
        .map(|(name, value)| Sysctl::check(name, value, request))
        .collect::<Result<Vec<_>, _>>()?;
    let work = || {
        let owner = request.make()?;
        request.set_up(&sysctls)?;
        request.pin_all(owner.as_ref())
    };
    on_fresh_thread(work)
        .unwrap_or_else(|source| Err(NamespaceError::Create { kinds: request.kinds().join(", "), source }))
}

/// Pins a namespace of a process, such as its `pid`, at `path`, which must not exist.
pub fn pin_of(pid: u32, kind: &str, path: &Path) -> io::Result<()> {
    bind(&format!("/proc/{pid}/ns/{kind}"), path)
}

/// Removes a pin and, with its last user, the namespace; a pin that is not there is a success.
pub fn unpin(path: &Path) -> io::Result<()> {
    mount::unmount(path)?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Whether a namespace is pinned there, and not just the file of a pin that is gone.
pub fn is_pinned(path: &Path) -> bool {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(NSFS_MAGIC))
}

/// Runs `work` on a fresh thread inside the network namespace that is pinned at `path`.
pub fn in_namespace<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_fresh_thread(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    })?
}

/// Runs `work` on a fresh thread, and on those that it starts, as if `directory` were not bind-mounted on itself.
///
/// containers-storage does that to its directory, and no file can be linked from one mount to another. Where something
/// else is mounted there, or nothing, that is an error, and `work` is not run.
pub fn beneath_own_bind_mount<T: Send>(directory: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_fresh_thread(move || {
        let identity = || rustix::fs::stat(directory).map(|stat| (stat.st_dev, stat.st_ino));
        let before = identity()?;
        // SAFETY: the flag gives this thread, which ends with `work`, a mount table, root and working directory of its
        // own; it takes no descriptors or memory from under other threads.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        rustix::mount::unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        match identity()? == before {
            true => Ok(work()),
            false => Err(io::Error::other("another file system is mounted there")),
        }
    })?
}

impl NamespaceRequest {
    /// What is asked for: its name, its entry below /proc/thread-self/ns, its flag, its pin.
    fn wanted(&self) -> impl Iterator<Item = (&'static str, UnshareFlags, &Path)> {
        [
            ("net", UnshareFlags::NEWNET, &self.net),
            ("ipc", UnshareFlags::NEWIPC, &self.ipc),
            ("uts", UnshareFlags::NEWUTS, &self.uts),
        ]
        .into_iter()
        .filter_map(|(kind, flag, pin)| Some((kind, flag, pin.as_deref()?)))
    }

    fn kinds(&self) -> Vec<&'static str> {
        let user = self.user.is_some().then_some("user");
        user.into_iter().chain(self.wanted().map(|(kind, _, _)| kind)).collect()
    }

    /// Makes the namespaces and moves this thread into them, but for the user namespace, which stays with its owner.
    fn make(&self) -> Result<Option<Owner>, NamespaceError> {
        let failed = |source| NamespaceError::Create { kinds: self.kinds().join(", "), source };
        let flags = self.wanted().fold(UnshareFlags::empty(), |flags, (_, flag, _)| flags | flag);
        let Some((_, ids)) = &self.user else {
            // SAFETY: none of the three flags takes descriptors or memory from under other threads: only CLONE_FILES and
            // CLONE_VM semantics would, and they are not in `wanted`.
            unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|errno| failed(errno.into()))?;
            return Ok(None);
        };
        let owner = Owner::new(flags, ids).map_err(failed)?;
        self.wanted().try_for_each(|(kind, _, _)| owner.enter(kind)).map_err(failed)?;
        Ok(Some(owner))
    }

    fn set_up(&self, sysctls: &[Sysctl<'_>]) -> Result<(), NamespaceError> {
        if self.net.is_some() {
            loopback_up().map_err(NamespaceError::Loopback)?;
        }
        if let Some(name) = &self.hostname {
            let set = match self.uts {
                Some(_) => rustix::system::sethostname(name.as_bytes()).map_err(io::Error::from),
                None => Err(io::Error::other("the pod has no uts namespace of its own")),
            };
            set.map_err(|source| NamespaceError::Hostname { name: name.clone(), source })?;
        }
        sysctls.iter().try_for_each(|sysctl| sysctl.write(self.root()))
    }

    /// The host's user that is root in the namespaces.
    fn root(&self) -> u32 {
        self.user.as_ref().map_or(0, |(_, ids)| ids.uids.host)
    }

    fn pin_all(&self, owner: Option<&Owner>) -> Result<(), NamespaceError> {
        let mut pinned = Vec::new();
        let own = |kind| format!("/proc/thread-self/ns/{kind}");
        let mut pins: Vec<_> = self.wanted().map(|(kind, _, path)| (kind, own(kind), path)).collect();
        if let (Some(owner), Some((path, _))) = (owner, &self.user) {
            pins.push(("user", owner.entry("user"), path));
        }
        for (kind, entry, path) in pins {
            if let Err(source) = bind(&entry, path) {
                for done in pinned {
                    let _ = unpin(done);
                }
                return Err(NamespaceError::Pin { kind, path: path.to_owned(), source });
            }
            pinned.push(path);
        }
        Ok(())
    }
}

/// Binds a namespace to a new file; a file that was there already is left alone.
fn bind(namespace: &str, path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(path)?;
    let bound = rustix::mount::mount_bind(namespace, path);
    if bound.is_err() {
        let _ = fs::remove_file(path);
    }
    Ok(bound?)
}

/// Runs `work` on a thread that ends with it; an error when there can be no thread.
fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the namespace thread panicked"))
    })
}

/// Sets IFF_UP on `lo` of the calling thread's network namespace.
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is valid: it consists of bytes, integers and pointers that are not followed here.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open, and SIOCGIFFLAGS reads and writes one `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has just filled the union's flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The flags of interfaces fit the kernel's short: IFF_UP is 1.
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: the descriptor is open, and SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory for pins, which are gone with it also when a test fails.
    struct Pins(tempfile::TempDir);

    impl Pins {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn remove(&self) {
            for entry in fs::read_dir(self.path()).unwrap() {
                unpin(&entry.unwrap().path()).unwrap();
            }
        }
    }

    impl Drop for Pins {
        fn drop(&mut self) {
            self.remove();
        }
    }

    fn request(directory: &Path) -> NamespaceRequest {
        NamespaceRequest {
            net: Some(directory.join("net")),
            ipc: Some(directory.join("ipc")),
            uts: Some(directory.join("uts")),
            ..NamespaceRequest::default()
        }
    }

    fn nsenter(kind: &str, path: &Path, command: &[&str]) -> String {
        let output = std::process::Command::new("nsenter")
            .arg(format!("--{kind}={}", path.display()))
            .args(command)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn pinned_namespaces_have_what_was_asked_for() {
        let directory = Pins::new();
        let mut request = request(directory.path());
        request.hostname = Some("pod-a".to_owned());
        request.sysctls = BTreeMap::from([
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
            ("net/ipv4/conf/lo/forwarding".to_owned(), "1".to_owned()),
            ("kernel.shmmax".to_owned(), "1234567".to_owned()),
            ("fs.mqueue.msg_max".to_owned(), "7".to_owned()),
        ]);
        create_pinned(&request).unwrap();
        let [net, ipc, uts] = ["net", "ipc", "uts"].map(|kind| directory.path().join(kind));
        let value = |kind, pin: &Path, name: &str| nsenter(kind, pin, &["cat", &format!("/proc/sys/{name}")]);
        assert_eq!(nsenter("uts", &uts, &["uname", "-n"]), "pod-a");
        assert_eq!(value("net", &net, "net/ipv4/ip_unprivileged_port_start"), "80");
        assert_eq!(value("net", &net, "net/ipv4/conf/lo/forwarding"), "1");
        assert_eq!(value("ipc", &ipc, "kernel/shmmax"), "1234567");
        assert_eq!(value("ipc", &ipc, "fs/mqueue/msg_max"), "7");
        assert!(nsenter("net", &net, &["ip", "link", "show", "lo"]).contains("LOOPBACK,UP"));
        assert_ne!(fs::read_to_string("/proc/sys/kernel/shmmax").unwrap().trim(), "1234567");
        directory.remove();
        assert!(
            !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(directory.path().to_str().unwrap())
        );
    }

    #[test]
    fn a_user_namespace_owns_the_others() {
        let directory = Pins::new();
        let ids = IdRange { host: 100_000, count: 65_536 };
        let user = directory.path().join("user");
        let mut request = request(directory.path());
        request.user = Some((user.clone(), IdMaps { uids: ids, gids: ids }));
        request.hostname = Some("pod-u".to_owned());
        request.sysctls = BTreeMap::from([
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
            ("kernel.shmmax".to_owned(), "1234567".to_owned()),
        ]);
        create_pinned(&request).unwrap();
        let [net, ipc, uts] = ["net", "ipc", "uts"].map(|kind| directory.path().join(kind));
        // Root of the user namespace alone, as whoever enters it becomes: it may do this only where it owns the other.
        let inside = |kind: &str, pin: &Path, command: &[&str]| {
            let pin = format!("--{kind}={}", pin.display());
            let output = std::process::Command::new("nsenter")
                .args([&format!("--user={}", user.display()), &pin])
                .args(command)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert!(inside("net", &net, &["ip", "link", "show", "lo"]).contains("LOOPBACK,UP"));
        inside("net", &net, &["ip", "link", "set", "lo", "down"]);
        assert_eq!(inside("net", &net, &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]), "80");
        assert_eq!(inside("ipc", &ipc, &["cat", "/proc/sys/kernel/shmmax"]), "1234567");
        assert_eq!(inside("uts", &uts, &["sh", "-c", "hostname new-name && uname -n"]), "new-name");
        assert_eq!(
            inside("net", &net, &["cat", "/proc/self/uid_map"]).split_whitespace().nth(1),
            Some("100000")
        );
        directory.remove();
    }

    #[test]
    fn a_closure_runs_inside_and_the_caller_stays_outside() {
        let directory = Pins::new();
        let net = directory.path().join("net");
        create_pinned(&NamespaceRequest { net: Some(net.clone()), ..NamespaceRequest::default() }).unwrap();
        let own = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = own();
        let listener = in_namespace(&net, || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            (own(), listener.local_addr().unwrap())
        });
        unpin(&net).unwrap();
        assert_ne!(listener.unwrap().0, before);
        assert_eq!(own(), before);
        assert_eq!(in_namespace(&net, || ()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_failure_at_any_stage_leaves_nothing() {
        let directory = Pins::new();
        let sysctl = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let cases = [
            (
                NamespaceRequest { sysctls: sysctl("net.no.such", "1"), ..request(directory.path()) },
                "net.no.such",
            ),
            (
                NamespaceRequest { sysctls: sysctl("kernel.shmmax", "word"), ..request(directory.path()) },
                "word",
            ),
            (NamespaceRequest { hostname: Some("x".repeat(65)), ..request(directory.path()) }, "xxxx"),
            (
                NamespaceRequest { uts: Some("/proc/no/such".into()), ..request(directory.path()) },
                "/proc/no/such",
            ),
        ];
        for (request, named) in cases {
            let error = create_pinned(&request).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{error}");
        }
        fs::write(directory.path().join("uts"), "someone else's").unwrap();
        create_pinned(&request(directory.path())).unwrap_err();
        assert_eq!(fs::read_to_string(directory.path().join("uts")).unwrap(), "someone else's");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        unpin(&directory.path().join("uts")).unwrap();
        unpin(&directory.path().join("uts")).unwrap();
        bind("/proc/self/ns/none", &directory.path().join("none")).unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
