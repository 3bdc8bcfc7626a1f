//! AppArmor: which profile a container runs under, and what podd's own denies.
//!
//! On a machine with AppArmor only: `tests/run.sh` runs these in the stage `node`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;

use podd::api::SecurityProfile;
use podd::api::security_profile::ProfileType;
use tokio::sync::RwLock;
use tonic::Code;

use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec, program, random_tag};

const FIELD: &str = "config.linux.security_context.apparmor";
const OWN: &str = "podd-default (enforce)";

/// podd's own profile is one for the whole machine: who takes it away waits until nobody needs it.
static OWN_IS_LOADED: LazyLock<RwLock<()>> = LazyLock::new(RwLock::default);

/// A profile of the administrator's, unloaded with the test.
struct Profile(String);

impl Profile {
    fn load() -> Self {
        let name = format!("podd-test-{}", random_tag());
        let text = format!("profile {name} flags=(attach_disconnected) {{ file, deny /etc/hostname r, }}");
        assert!(parser("--replace", &text), "cannot load {text}");
        Self(name)
    }

    fn ask(&self) -> SecurityProfile {
        asking(ProfileType::Localhost, &format!("localhost/{}", self.0))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let removed = parser("--remove", &format!("profile {} {{}}", self.0));
        // A second panic would take all other tests along.
        assert!(removed || thread::panicking(), "profile {} stays", self.0);
    }
}

/// Hands the text to apparmor_parser, and tells whether it was taken.
fn parser(action: &str, text: &str) -> bool {
    let mut parser = Command::new(program("apparmor_parser"));
    let mut parser = parser.args([action, "--skip-cache", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    parser.wait().unwrap().success()
}

fn asking(kind: ProfileType, localhost_ref: &str) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.to_owned() }
}

async fn start_with(settings: &str) -> (Node, Pod) {
    let mut node = Node::start_with(settings).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod").privileged()).await;
    (node, pod)
}

/// What a container's first process says that it runs under.
async fn label(node: &mut Node, pod: &Pod, name: &str, profile: Option<SecurityProfile>) -> String {
    let spec = ContainerSpec::script(name, "cat /proc/self/attr/current")
        .secured(|context| context.apparmor = profile.clone());
    let (code, label) = node.run_to_end(pod, spec).await;
    assert_eq!(code, 0, "{name}");
    label.trim_end().to_owned()
}

async fn refusal(node: &mut Node, pod: &Pod, name: &str, profile: Option<SecurityProfile>) -> String {
    let spec = ContainerSpec::waiting(name).secured(|context| context.apparmor = profile.clone());
    let refused = node.try_create(pod, spec).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    refused.message().to_owned()
}

#[tokio::test]
async fn a_container_runs_under_the_profile_that_it_asks_for() {
    let _together = OWN_IS_LOADED.read().await;
    let (mut node, pod) = start_with("").await;
    let mine = Profile::load();
    assert_eq!(label(&mut node, &pod, "unset", None).await, OWN);
    let default = Some(asking(ProfileType::RuntimeDefault, ""));
    assert_eq!(label(&mut node, &pod, "default", default).await, OWN);
    let unconfined = Some(asking(ProfileType::Unconfined, ""));
    assert_eq!(label(&mut node, &pod, "unconfined", unconfined).await, "unconfined");
    assert_eq!(label(&mut node, &pod, "mine", Some(mine.ask())).await, format!("{} (enforce)", mine.0));
    let privileged = ContainerSpec::script("privileged", "cat /proc/self/attr/current")
        .secured(|context| context.privileged = true);
    assert_eq!(node.run_to_end(&pod, privileged).await, (0, "unconfined\n".to_owned()));
    let absent = Some(asking(ProfileType::Localhost, "no-such-profile"));
    let text = refusal(&mut node, &pod, "absent", absent).await;
    assert!(
        text.contains(&format!("{FIELD}.localhost_ref")) && text.contains("\"no-such-profile\""),
        "{text}"
    );
    node.finish().await;
}

/// In a privileged container nothing else denies: no capability is missing, nothing is mounted read-only.
#[tokio::test]
async fn the_default_profile_keeps_a_container_from_the_nodes_settings() {
    let _together = OWN_IS_LOADED.read().await;
    let (mut node, pod) = start_with("").await;
    let spec = |name: &str, profile: SecurityProfile| {
        ContainerSpec::waiting(name).secured(|context| {
            context.privileged = true;
            context.apparmor = Some(profile);
        })
    };
    let profile = asking(ProfileType::Localhost, "podd-default");
    let confined = node.run(&pod, spec("confined", profile)).await;
    let free = node.run(&pod, spec("free", asking(ProfileType::Unconfined, ""))).await;
    assert_eq!(node.exec_ok(&confined, "cat /proc/self/attr/current").await, OWN, "exec is confined as well");
    for (attempt, what) in [
        // Each writes what is there already, or nothing.
        ("mount -t tmpfs none /var", "mount"),
        ("f=/proc/sys/vm/swappiness; v=$(cat $f); echo $v > $f", "a kernel setting"),
        ("f=/proc/sys/kernel/panic; v=$(cat $f); echo $v > $f", "a setting of its core"),
        (": > /proc/sysrq-trigger", "the magic key"),
        (": < /proc/kcore", "the kernel's memory"),
        ("f=/sys/module/printk/parameters/time; v=$(cat $f); echo $v > $f", "a setting in /sys"),
    ] {
        let denied = node.exec(&confined, attempt, 20).await.unwrap();
        let allowed = node.exec(&free, attempt, 20).await.unwrap();
        assert_ne!(denied.code, 0, "{what} is not denied");
        assert_eq!(allowed.code, 0, "{what}: {allowed:?}");
    }
    let own =
        "echo 1 > /proc/self/oom_score_adj; echo x > /tmp/file; kill -0 1; cat /proc/1/environ > /dev/null";
    node.exec_ok(&confined, own).await;
    node.finish().await;
}

#[tokio::test]
async fn podds_own_profile_comes_back_where_somebody_has_unloaded_it() {
    let _alone = OWN_IS_LOADED.write().await;
    let (mut node, pod) = start_with("").await;
    assert!(parser("--remove", "profile podd-default {}"), "podd-default stays");
    assert_eq!(label(&mut node, &pod, "again", None).await, OWN);
    node.finish().await;
}

#[tokio::test]
async fn the_operator_chooses_another_default_or_none() {
    let mine = Profile::load();
    let (mut node, pod) = start_with(&format!("apparmor.profile = \"{}\"\n", mine.0)).await;
    assert_eq!(label(&mut node, &pod, "mine", None).await, format!("{} (enforce)", mine.0));
    let name = mine.0.clone();
    drop(mine);
    let text = refusal(&mut node, &pod, "gone", None).await;
    assert!(
        text.contains(FIELD) && text.contains(&format!("{name:?}")) && text.contains("not loaded"),
        "{text}"
    );
    node.finish().await;
    let (mut node, pod) = start_with("apparmor.profile = \"\"\n").await;
    assert_eq!(label(&mut node, &pod, "none", None).await, "unconfined");
    let default = Some(asking(ProfileType::RuntimeDefault, ""));
    assert_eq!(label(&mut node, &pod, "default", default).await, "unconfined");
    node.finish().await;
}
