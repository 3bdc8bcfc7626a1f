//! The network against real plugins, real namespaces and plugins that misbehave.
//!
//! Each test is a node of its own: its runtime lives in a private network namespace, in which the plugins make their
//! bridges and iptables rules, so tests run side by side and leave nothing on the machine.

mod bridge;
mod hostile;
mod plugins;
mod recovery;
mod selection;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Attachment, Dns, Network, NetworkError, Timeouts};
use crate::config::NetworkConfig;
use crate::id::PodId;
use crate::sys::namespace::{NamespaceRequest, create_pinned, in_namespace, unpin};

/// A node with its own network namespace, directories and plugins.
struct Node {
    directory: TempDir,
    timeouts: Timeouts,
}

impl Node {
    /// Runs a test on a node that is gone afterwards.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send) {
        let outside = tempfile::tempdir().unwrap();
        let host = outside.path().join("host");
        create_pinned(&NamespaceRequest { net: Some(host.clone()), ..NamespaceRequest::default() }).unwrap();
        let result = in_namespace(&host, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test(Node::new()))))
        });
        unpin(&host).unwrap();
        if let Err(panic) = result.unwrap() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new() -> Self {
        let node = Self {
            directory: tempfile::tempdir().unwrap(),
            timeouts: Timeouts { add: Duration::from_secs(20), del: Duration::from_secs(20) },
        };
        for name in ["conf", "bin", "netns", "log"] {
            fs::create_dir(node.path(name)).unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn network(&self) -> Network {
        let config = NetworkConfig {
            conf_dir: self.path("conf"),
            plugin_dirs: vec![self.path("bin"), "/usr/lib/cni".into()],
            cache_dir: self.path("cache"),
            netns_dir: self.path("netns"),
        };
        Network::open_with(&config, self.timeouts).await.unwrap()
    }

    fn configure(&self, file: &str, text: impl AsRef<str>) {
        fs::write(self.path("conf").join(file), text.as_ref()).unwrap();
    }

    /// A network of scripts: each writes what it gets to the log directory, then does `body`.
    fn scripts(&self, version: &str, scripts: &[(&str, &str)]) {
        let mut plugins = Vec::new();
        for (name, body) in scripts {
            let log = self.path("log");
            let log = log.display();
            let text = format!(
                "#!/bin/sh\nlog={log}\necho {name} $CNI_COMMAND >> $log/calls\n\
                 env | grep ^CNI_ > $log/{name}.$CNI_COMMAND.env\n{body}\n"
            );
            let draft = self.path("draft");
            fs::write(&draft, text).unwrap();
            // Copied by another process: no fork of this one can hold the program open for writing.
            let copied =
                Command::new("install").arg("-m755").arg(&draft).arg(self.path("bin").join(name)).status();
            assert!(copied.unwrap().success());
            plugins.push(serde_json::json!({
                "type": name, "unknown": {"kept": true}, "capabilities": {"portMappings": true, "dns": false},
            }));
        }
        let list = serde_json::json!({"cniVersion": version, "name": "scripted", "plugins": plugins});
        self.configure("10-scripted.conflist", list.to_string());
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path("log").join(name)).unwrap_or_default()
    }

    fn calls(&self) -> Vec<String> {
        self.log("calls").lines().map(str::to_owned).collect()
    }

    /// A pod with a pinned namespace; [`Self::finish`] removes it.
    fn pod(&self) -> Attachment {
        let pod = PodId::generate();
        let netns = self.path("netns").join(pod.as_str());
        create_pinned(&NamespaceRequest { net: Some(netns.clone()), ..NamespaceRequest::default() }).unwrap();
        Attachment {
            pod,
            netns,
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            uid: "1234".to_owned(),
            port_mappings: Vec::new(),
            dns: Dns::default(),
            cgroup_parent: String::new(),
            annotations: BTreeMap::new(),
        }
    }

    fn records(&self) -> usize {
        fs::read_dir(self.path("cache")).unwrap().count()
    }

    /// Removes the pods' namespaces and asserts that no record is left.
    fn finish(self, pods: &[&Attachment]) {
        for pod in pods {
            unpin(&pod.netns).unwrap();
        }
        assert_eq!(self.records(), 0);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pin in fs::read_dir(self.path("netns")).unwrap() {
            unpin(&pin.unwrap().path()).unwrap();
        }
    }
}

/// The output of a program inside a network namespace; `None` for the node's own.
fn output(netns: Option<&Path>, command: &[&str]) -> String {
    let run = || Command::new(command[0]).args(&command[1..]).output().unwrap();
    let output = netns.map_or_else(run, |path| in_namespace(path, run).unwrap());
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// An error with all its causes, as a log shows it.
fn text(error: &NetworkError) -> String {
    crate::telemetry::chain(error)
}

/// Waits until `done`, for ten seconds at most.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

/// Whether a process is there and not a zombie.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// A result with one address, as a script prints it.
const RESULT: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.7/24"}]}'"#;

#[test]
fn errors_are_sendable() {
    fn check<T: Error + Send + Sync + 'static>() {}
    check::<NetworkError>();
}
