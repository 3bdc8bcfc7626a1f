//! Devices from all sides: the CRI's, the operator's, an annotation's, those of the Container Device Interface.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use podd::api;
use serde_json::{Value, json};
use tonic::Code;

use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec};
use crate::handlers::{own_handler, pod_of};

/// A directory for files that the daemon reads.
fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("podd-test-").tempdir().unwrap()
}

async fn start_with(settings: &str) -> (Node, Pod) {
    let mut node = Node::start_with(settings).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod").privileged()).await;
    (node, pod)
}

fn cdi_file(at: &Path, kind: &str, devices: &Value, shared: &Value) {
    let document = json!({"cdiVersion": "0.7.0", "kind": kind, "devices": devices, "containerEdits": shared});
    fs::write(at, document.to_string()).unwrap();
}

fn asking(name: &str, script: &str, devices: &[&str]) -> ContainerSpec {
    let device = |name: &&str| api::CdiDevice { name: (*name).to_owned() };
    ContainerSpec::script(name, script)
        .with(|config| config.cdi_devices = devices.iter().map(device).collect())
}

async fn refusal(node: &mut Node, pod: &Pod, spec: ContainerSpec) -> String {
    let refused = node.try_create(pod, spec).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    refused.message().to_owned()
}

#[tokio::test]
async fn a_cdi_device_brings_nodes_mounts_variables_groups_and_hooks() {
    let specs = directory();
    let told = specs.path().join("told");
    let hook = format!("cat >{}", told.display());
    fs::write(specs.path().join("library"), "of the vendor").unwrap();
    let device = json!([{"name": "0", "containerEdits": {
        "env": ["GPU=0"],
        "deviceNodes": [
            {"path": "/dev/gpu0", "hostPath": "/dev/zero", "permissions": "r", "fileMode": 0o640},
            {"path": "/dev/gpu-null", "type": "c", "major": 1, "minor": 3, "gid": 7},
        ],
        "mounts": [{
            "hostPath": specs.path().join("library"), "containerPath": "/usr/lib/vendor/library",
            "options": ["ro", "nosuid", "nodev", "bind"],
        }],
        "hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", hook]}],
        "additionalGids": [4711],
    }}]);
    cdi_file(&specs.path().join("a.json"), "test.io/gpu", &device, &json!({"env": ["SHARED=yes"]}));
    let yaml = "cdiVersion: 0.5.0\nkind: test.io/nic\ndevices:\n- name: n1\n  containerEdits:\n    env:\n    - NIC=n1\n";
    fs::write(specs.path().join("b.yaml"), yaml).unwrap();
    let (mut node, pod) = start_with(&format!("cdi.spec_dirs = [{:?}]\n", specs.path())).await;
    let script = "echo $GPU $SHARED $NIC; id -G; head -c 2 /dev/gpu0 | od -An -tx1; stat -c '%t:%T %a %u %g' \
                  /dev/gpu0 /dev/gpu-null; cat /usr/lib/vendor/library; echo x >/usr/lib/vendor/library";
    let spec = asking("c", script, &["test.io/gpu=0"])
        .with(|config| {
            let annotation = ("cdi.k8s.io/plugin_nic".to_owned(), "test.io/nic=n1,test.io/gpu=0".to_owned());
            config.annotations = HashMap::from([annotation]);
        })
        .secured(|context| {
            context.run_as_user = Some(api::Int64Value { value: 1000 });
            context.supplemental_groups = vec![4242];
        });
    let (code, out) = node.run_to_end(&pod, spec).await;
    let expected = "0 yes n1\n1000 4242 4711 50000\n 00 00\n1:5 640 1000 1000\n1:3 666 1000 7\nof the vendor";
    assert_eq!((code, out.as_str()), (1, expected), "{out}");
    let state: Value = serde_json::from_str(&fs::read_to_string(told).unwrap()).unwrap();
    assert!(state["id"].is_string() && state["pid"].as_i64() > Some(0), "the hook gets the state: {state}");
    node.finish().await;
}

#[tokio::test]
async fn a_cdi_device_that_cannot_be_had_is_named_and_a_broken_file_hinders_no_other() {
    let (first, second) = (directory(), directory());
    let named = |from: &str| json!([{"name": "0", "containerEdits": {"env": [format!("FROM={from}")]}}]);
    cdi_file(&first.path().join("x.json"), "test.io/gpu", &named("first"), &json!({}));
    fs::write(first.path().join("broken.yaml"), "kind: [").unwrap();
    let settings = format!("cdi.spec_dirs = [{:?}, {:?}]\n", first.path(), second.path());
    let (mut node, pod) = start_with(&settings).await;
    let ask = |name: &str| asking(name, "echo $FROM", &["test.io/gpu=0"]);
    assert_eq!(node.run_to_end(&pod, ask("one")).await, (0, "first\n".to_owned()));
    cdi_file(&second.path().join("x.json"), "test.io/gpu", &named("second"), &json!({}));
    assert_eq!(
        node.run_to_end(&pod, ask("two")).await,
        (0, "second\n".to_owned()),
        "the later directory wins"
    );
    cdi_file(&second.path().join("y.json"), "test.io/gpu", &named("again"), &json!({}));
    let text = refusal(&mut node, &pod, ask("conflict")).await;
    let conflict = "config.CDI_devices: device test.io/gpu=0 is described more than once, in ";
    assert!(text.starts_with(conflict) && text.contains("x.json and ") && text.contains("y.json"), "{text}");
    let text = refusal(&mut node, &pod, asking("unknown", "", &["test.io/gpu=9"])).await;
    assert!(text.starts_with("config.CDI_devices: no device test.io/gpu=9 is described in "), "{text}");
    assert!(text.contains("broken.yaml: not YAML"), "{text}");
    let text = refusal(&mut node, &pod, asking("malformed", "", &["gpu9"])).await;
    assert!(text.starts_with("config.CDI_devices[0].name: \"gpu9\" is not a device's name"), "{text}");
    let annotated = ContainerSpec::script("annotated", "").with(|config| {
        config.annotations = HashMap::from([("cdi.k8s.io/x".to_owned(), "gpu9".to_owned())]);
    });
    let text = refusal(&mut node, &pod, annotated).await;
    assert!(text.starts_with("config.annotations[\"cdi.k8s.io/x\"]: \"gpu9\" is not"), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn a_device_of_the_cri_belongs_to_the_containers_user_where_that_is_configured() {
    let device = || api::Device {
        container_path: "/dev/mine".to_owned(),
        host_path: "/dev/zero".to_owned(),
        permissions: "r".to_owned(),
    };
    let spec = || {
        let spec = ContainerSpec::script("c", "stat -c '%u %g' /dev/mine").secured(|context| {
            context.run_as_user = Some(api::Int64Value { value: 1000 });
            context.run_as_group = Some(api::Int64Value { value: 1001 });
        });
        spec.with(|config| config.devices = vec![device()])
    };
    let host = fs::metadata("/dev/zero").unwrap();
    for (settings, expected) in [
        ("", format!("{} {}\n", host.uid(), host.gid())),
        ("devices.ownership_from_security_context = true\n", "1000 1001\n".to_owned()),
    ] {
        let (mut node, pod) = start_with(settings).await;
        assert_eq!(node.run_to_end(&pod, spec()).await, (0, expected), "{settings}");
        node.finish().await;
    }
}

#[tokio::test]
async fn what_a_device_must_not_say_is_named() {
    let (mut node, pod) = start_with("").await;
    let device = |container: &str, host: &str, permissions: &str| api::Device {
        container_path: container.to_owned(),
        host_path: host.to_owned(),
        permissions: permissions.to_owned(),
    };
    for (device, words) in [
        (device("/dev/x", "/dev/zero", "rx"), "config.devices[0]: /dev/zero: permissions \"rx\""),
        (device("dev/x", "/dev/zero", "r"), "config.devices[0].container_path: \"dev/x\" is not an absolute"),
        (device("/dev/../etc", "/dev/zero", "r"), "config.devices[0].container_path: \"/dev/../etc\""),
        (device("/dev/x", "/etc/passwd", "r"), "config.devices[0]: /etc/passwd: it is not a device"),
    ] {
        let spec = ContainerSpec::script("c", "").with(|config| config.devices = vec![device]);
        let text = refusal(&mut node, &pod, spec).await;
        assert!(text.starts_with(words), "{text:?} does not begin with {words:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn the_operator_gives_devices_to_all_and_allows_some_by_annotation() {
    let settings = "devices.additional = [\"/dev/kmsg:/dev/for-all:w\"]\ndevices.allowed = [\"/dev/kmsg\"]\n"
        .to_owned()
        + &own_handler("allowed_annotations = [\"io.kubernetes.cri-o.Devices\"]");
    let mut node = Node::start_with(&settings).await;
    let annotated = |node: &Node, name: &str, value: &str| {
        let annotation = ("io.kubernetes.cri-o.Devices".to_owned(), value.to_owned());
        PodSpec::new(node, name).with(|config| config.annotations = HashMap::from([annotation]))
    };
    let script = "(: >>/dev/for-all) && echo writable; (: </dev/for-all) 2>/dev/null || echo not readable; \
                  stat -c %t:%T /dev/kmsg /dev/as 2>/dev/null";
    let spec = annotated(&node, "plain", "");
    let plain = pod_of(&mut node, "own", spec).await;
    let out = node.run_to_end(&plain, ContainerSpec::script("c", script)).await.1;
    assert_eq!(out, "writable\nnot readable\n");
    let spec = annotated(&node, "allowed", "/dev/kmsg:/dev/kmsg:w, /dev/kmsg:/dev/as:w");
    let allowed = pod_of(&mut node, "own", spec).await;
    let out = node.run_to_end(&allowed, ContainerSpec::script("c", script)).await.1;
    assert_eq!(out, "writable\nnot readable\n1:b\n1:b\n");
    let spec = annotated(&node, "forbidden", "/dev/kmsg,/dev/tty");
    let forbidden = pod_of(&mut node, "own", spec).await;
    let text = refusal(&mut node, &forbidden, ContainerSpec::script("c", "")).await;
    let why = "annotations[\"io.kubernetes.cri-o.Devices\"]: /dev/tty is not one of devices.allowed";
    assert!(text.starts_with(why), "{text}");
    node.finish().await;
}

const BLOCKIO: &str = "blockio.resources.beta.kubernetes.io";
const RDT: &str = "rdt.resources.beta.kubernetes.io";

/// A whole block device of the machine: its node, and its numbers as cgroups have them.
fn block_device() -> (String, String) {
    let mut devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap());
    let found = devices.find_map(|entry| {
        let node = format!("/dev/{}", entry.file_name().to_str()?);
        let numbers = fs::read_to_string(entry.path().join("dev")).ok()?;
        Path::new(&node).exists().then(|| (node, numbers.trim().to_owned()))
    });
    found.expect("the machine has a block device")
}

/// The line of that device in the container's limits of bytes read per second.
fn read_limit(pid: i64, device: &str) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = |controller: &str| {
        let mut lines = groups.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
        lines.find_map(|line| line[1].split(',').any(|c| c == controller).then(|| line[2].to_owned()))
    };
    let (root, group, file) = match group("blkio") {
        Some(group) => ("/sys/fs/cgroup/blkio", group, "blkio.throttle.read_bps_device"),
        None => ("/sys/fs/cgroup", group("").unwrap(), "io.max"),
    };
    let text = fs::read_to_string(format!("{root}{group}/{file}")).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(device)?.strip_prefix(' '));
    lines.next().map(|line| line.split(' ').next().unwrap().trim_start_matches("rbps=").to_owned())
}

async fn pid(node: &mut Node, id: &str) -> i64 {
    let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let status = node.runtime.container_status(request).await.unwrap().into_inner();
    let info: Value = serde_json::from_str(&status.info["info"]).unwrap();
    info["pid"].as_i64().unwrap()
}

fn of_classes(node: &Node) -> PodSpec {
    let annotations = [
        (BLOCKIO, "pod", "slow"),
        (BLOCKIO, "container.own", "slower"),
        (BLOCKIO, "container.unknown", "fast"),
        (BLOCKIO, "container.nothing", "none"),
        (BLOCKIO, "container.free", ""),
        (RDT, "container.cache", "../gold"),
    ];
    let entry = |(kind, of, class)| (format!("{kind}/{of}"), str::to_owned(class));
    PodSpec::new(node, "pod").with(|config| config.annotations = annotations.map(entry).into())
}

#[tokio::test]
async fn a_class_of_block_io_limits_the_containers_that_name_it() {
    let directory = directory();
    let file = directory.path().join("classes.yaml");
    let (device, numbers) = block_device();
    let (front, last) = device.split_at(device.len() - 1);
    let class = |rate: &str| format!("- Devices: [\"{front}[{last}]\"]\n    ThrottleReadBps: {rate}\n");
    let classes = format!("Classes:\n  slow:\n  {}  slower:\n  {}", class("50M"), class("\"1Mi\""));
    let none = "  none:\n  - Devices: [/dev/null]\n    ThrottleReadBps: 1\n";
    fs::write(&file, classes + none).unwrap();
    let mut node = Node::start_with(&format!("blockio.config_file = {file:?}\n")).await;
    let spec = of_classes(&node);
    let pod = node.run_pod(spec).await;
    for (name, limit) in [("other", Some("50000000")), ("own", Some("1048576")), ("free", None)] {
        let id = node.run(&pod, ContainerSpec::waiting(name)).await;
        let pid = pid(&mut node, &id).await;
        assert_eq!(read_limit(pid, &numbers).as_deref(), limit, "{name}");
    }
    let file = file.display();
    for (name, kind, words) in [
        (
            "unknown",
            BLOCKIO,
            format!("class \"fast\": {file}: Classes: it has no \"fast\"; the classes are: "),
        ),
        ("nothing", BLOCKIO, format!("class \"none\": {file}: Classes.none[0].Devices: no block device")),
        ("cache", RDT, "class \"../gold\": it is not one name".to_owned()),
    ] {
        let text = refusal(&mut node, &pod, ContainerSpec::script(name, "")).await;
        let words = format!("sandbox_config.annotations[\"{kind}/container.{name}\"]: {words}");
        assert!(text.starts_with(&words), "{text}");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_class_that_the_node_does_not_have_is_refused() {
    let (mut node, pod) = start_with("").await;
    for (kind, words) in [
        (BLOCKIO, "class \"a-class-of-nobody\": blockio.config_file of the node's configuration is empty"),
        (RDT, "class \"a-class-of-nobody\": "),
    ] {
        let key = format!("{kind}/pod");
        let spec = ContainerSpec::script("c", "").with(|config| {
            config.annotations = HashMap::from([(key.clone(), "a-class-of-nobody".to_owned())]);
        });
        let text = refusal(&mut node, &pod, spec).await;
        assert!(text.starts_with(&format!("config.annotations[{key:?}]: {words}")), "{text}");
        assert!(kind == BLOCKIO || text.contains("/sys/fs/resctrl"), "{text}");
    }
    node.finish().await;
}

/// B27
#[tokio::test]
async fn b27_a_handler_may_keep_the_hosts_devices_from_privileged_containers() {
    let without = own_handler("privileged_without_host_devices = true");
    let allowed = own_handler(
        "privileged_without_host_devices = true, privileged_without_host_devices_all_devices_allowed = true",
    );
    let script = "test -e /dev/kmsg && echo seen; mknod /tmp/kmsg c 1 11; \
                  dd if=/tmp/kmsg of=/dev/null bs=8192 count=1 2>/dev/null && echo usable; true";
    for (settings, expected) in
        [(own_handler("args = []"), "seen\nusable\n"), (without, ""), (allowed, "usable\n")]
    {
        let mut node = Node::start_with(&settings).await;
        let spec = PodSpec::new(&node, "pod").privileged();
        let pod = pod_of(&mut node, "own", spec).await;
        let spec = ContainerSpec::script("c", script).secured(|context| context.privileged = true);
        assert_eq!(node.run_to_end(&pod, spec).await.1, expected, "{settings}");
        node.finish().await;
    }
}
