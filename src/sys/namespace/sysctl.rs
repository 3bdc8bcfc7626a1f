//! Kernel parameters of a pod: which are its own, and how they are written.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{NamespaceError, NamespaceRequest, user};

/// A parameter that is the pod's to set, with its file.
pub(super) struct Sysctl<'a> {
    name: &'a str,
    value: &'a str,
    kind: &'static str,
    path: PathBuf,
}

impl<'a> Sysctl<'a> {
    /// Refuses what reaches beyond the pod: a value of the node, or a path that leaves /proc/sys.
    pub(super) fn check(
        name: &'a str,
        value: &'a str,
        request: &NamespaceRequest,
    ) -> Result<Self, NamespaceError> {
        let refused = |reason| NamespaceError::SysctlRefused { name: name.to_owned(), reason };
        let namespace = sysctl_namespace(name).map_err(refused)?;
        let (kind, own) = match namespace {
            SysctlNamespace::Net => ("net", request.net.is_some()),
            SysctlNamespace::Ipc => ("ipc", request.ipc.is_some()),
        };
        if !own {
            return Err(refused("the pod shares that namespace with the node"));
        }
        Ok(Self { name, value, kind, path: Path::new("/proc/sys").join(sysctl_parts(name).join("/")) })
    }

    /// Writes the value; /proc/sys shows the namespaces of the thread that opens it. Parameters of an IPC namespace are
    /// open to its own root alone, and no rights help; those of a network ask for rights.
    pub(super) fn write(&self, root: u32) -> Result<(), NamespaceError> {
        let write = || {
            OpenOptions::new()
                .write(true)
                .open(&self.path)
                .and_then(|mut file| file.write_all(self.value.as_bytes()))
        };
        let written = match self.kind {
            "ipc" if root != 0 => user::acting_as(root, write),
            _ => write(),
        };
        written.map_err(|source| NamespaceError::Sysctl {
            name: self.name.to_owned(),
            value: self.value.to_owned(),
            kind: self.kind,
            source,
        })
    }
}

/// The namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlNamespace {
    /// The network namespace.
    Net,
    /// The IPC namespace.
    Ipc,
}

/// Which namespace a parameter of that name belongs to, or why it is no pod's to set.
pub fn sysctl_namespace(name: &str) -> Result<SysctlNamespace, &'static str> {
    let parts = sysctl_parts(name);
    if parts.len() < 2 || parts.iter().any(|p| p.is_empty() || p == "." || p == ".." || p.contains('/')) {
        return Err("it is not the name of a kernel parameter");
    }
    match (parts[0].as_str(), parts[1].as_str()) {
        ("net", _) => Ok(SysctlNamespace::Net),
        ("fs", "mqueue") => Ok(SysctlNamespace::Ipc),
        ("kernel", own) if own == "sem" || own.starts_with("shm") || own.starts_with("msg") => {
            Ok(SysctlNamespace::Ipc)
        }
        _ => Err(
            "it belongs to the node; a pod may set net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*",
        ),
    }
}

/// Whether two names, each in one of the notations, are of one parameter.
pub fn same_sysctl(one: &str, other: &str) -> bool {
    sysctl_parts(one) == sysctl_parts(other)
}

/// The parts of a parameter's name as sysctl(8) reads it: the first separator decides, and in the form with dots a `/`
/// stands for a dot within a part (`net.ipv4.conf.eth0/100.forwarding`).
fn sysctl_parts(name: &str) -> Vec<String> {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.split('/').map(str::to_owned).collect(),
        _ => name.split('.').map(|part| part.replace('/', ".")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sys::namespace::create_pinned;

    #[test]
    fn parameters_of_the_node_are_refused_by_name() {
        let mut request = NamespaceRequest { net: Some("/proc/none".into()), ..NamespaceRequest::default() };
        for name in [
            "kernel.pid_max",
            "vm.swappiness",
            "kernel.shmmax",
            "net",
            "",
            "net..ipv4",
            "net/../kernel/pid_max",
            "net./../kernel.pid_max",
            "fs.file-max",
            "/net/ipv4",
            "kernel/domainname",
        ] {
            request.sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            let error = create_pinned(&request).unwrap_err();
            assert!(matches!(&error, NamespaceError::SysctlRefused { name: n, .. } if n == name), "{error}");
        }
        assert_eq!(sysctl_parts("net.ipv4.conf.eth0/1.tag"), ["net", "ipv4", "conf", "eth0.1", "tag"]);
        assert_eq!(sysctl_parts("net/ipv4/conf/eth0.1/tag"), ["net", "ipv4", "conf", "eth0.1", "tag"]);
        assert!(same_sysctl("net.ipv4.conf.eth0/1.tag", "net/ipv4/conf/eth0.1/tag"));
        assert!(!same_sysctl("net.ipv4.conf.eth0.tag", "net/ipv4/conf/eth0.1/tag"));
    }
}
