//! What containers and pods may use: limits at creation and later, seen in the files of their cgroups and from inside.

use std::fs;
use std::path::{Path, PathBuf};

use podd::api;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::common::leftovers::cgroups;
use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec, cgroup_driver, oci_runtime};

type Resources = api::LinuxContainerResources;

const MIB: i64 = 1 << 20;

async fn start() -> (Node, Pod) {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    (node, pod)
}

/// Whether this host has nothing but cgroup v2.
fn on_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of the cgroup of that name; `files` are its names on v1 and on v2.
fn limit_in(node: &Node, cgroup: &str, files: [&str; 2]) -> String {
    let file = files[usize::from(on_v2())];
    let named = |at: &&PathBuf| at.file_name().is_some_and(|name| name.to_string_lossy().contains(cgroup));
    let found =
        cgroups(&node.names).iter().filter(named).find_map(|at| fs::read_to_string(at.join(file)).ok());
    found.unwrap_or_else(|| panic!("no {file} in a cgroup {cgroup}")).trim().to_owned()
}

fn memory(node: &Node, id: &str) -> i64 {
    limit_in(node, id, ["memory.limit_in_bytes", "memory.max"]).parse().unwrap_or(-1)
}

/// Memory and swap together, in bytes.
fn memory_and_swap(node: &Node, id: &str) -> i64 {
    let swap = limit_in(node, id, ["memory.memsw.limit_in_bytes", "memory.swap.max"]).parse::<i64>();
    swap.map_or(-1, |swap| if on_v2() { swap + memory(node, id) } else { swap })
}

/// Quota and period, in microseconds; no quota is -1.
fn cpu(node: &Node, id: &str) -> (i64, i64) {
    let quota = limit_in(node, id, ["cpu.cfs_quota_us", "cpu.max"]);
    let mut words = quota.split(' ');
    let quota = words.next().unwrap().parse().unwrap_or(-1);
    let period = limit_in(node, id, ["cpu.cfs_period_us", "cpu.max"]);
    (quota, period.rsplit(' ').next().unwrap().parse().unwrap())
}

fn shares(node: &Node, id: &str) -> i64 {
    limit_in(node, id, ["cpu.shares", "cpu.weight"]).parse().unwrap()
}

fn limited(resources: Resources) -> impl FnOnce(&mut api::ContainerConfig) {
    move |config| config.linux.as_mut().unwrap().resources = Some(resources)
}

async fn update(node: &mut Node, id: &str, linux: Resources) -> Result<(), Status> {
    let request = api::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    node.runtime.update_container_resources(request).await.map(drop)
}

async fn reported(node: &mut Node, id: &str) -> Resources {
    node.container_status(id).await.unwrap().resources.unwrap().linux.unwrap()
}

async fn pod_info(node: &mut Node, id: &str) -> Value {
    let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let info = node.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    serde_json::from_str(&info["info"]).unwrap()
}

#[tokio::test]
async fn limits_change_in_place_and_what_is_left_out_stays_also_over_a_restart() {
    let (mut node, pod) = start().await;
    let first = Resources {
        cpu_period: 50_000,
        cpu_quota: 25_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        ..Default::default()
    };
    let id = node.run(&pod, ContainerSpec::waiting("c").with(limited(first.clone()))).await;
    let more = Resources { memory_limit_in_bytes: 128 * MIB, cpu_quota: 20_000, ..Default::default() };
    update(&mut node, &id, more).await.unwrap();
    assert_eq!(memory(&node, &id), 128 * MIB);
    assert_eq!(cpu(&node, &id), (20_000, 50_000), "the period was left out");
    let inside =
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
    assert_eq!(node.exec_ok(&id, inside).await, (128 * MIB).to_string());
    let now = Resources { memory_limit_in_bytes: 128 * MIB, cpu_quota: 20_000, ..first };
    assert_eq!(reported(&mut node, &id).await, now);
    node.restart().await;
    assert_eq!(reported(&mut node, &id).await, now, "an update must survive the daemon");
    let weight = shares(&node, &id);
    let other = Resources { cpu_shares: 2048, ..Default::default() };
    update(&mut node, &id, other).await.unwrap();
    assert!(shares(&node, &id) > weight);
    assert_eq!((memory(&node, &id), cpu(&node, &id)), (128 * MIB, (20_000, 50_000)));
    let unlimited = Resources { cpu_quota: -1, ..Default::default() };
    update(&mut node, &id, unlimited).await.unwrap();
    assert_eq!(cpu(&node, &id), (-1, 50_000));
    node.finish().await;
}

#[tokio::test]
async fn memory_and_swap_go_up_and_down_together_in_whichever_order_the_kernel_takes() {
    let (mut node, pod) = start().await;
    let limit = |memory: i64, swap: i64| Resources {
        memory_limit_in_bytes: memory * MIB,
        memory_swap_limit_in_bytes: swap * MIB,
        ..Default::default()
    };
    let id = node.run(&pod, ContainerSpec::waiting("c").with(limited(limit(64, 0)))).await;
    assert_eq!(memory_and_swap(&node, &id), 64 * MIB, "a memory limit alone allows no swap");
    for (asked, expected) in
        [((128, 0), (128, 128)), ((32, 0), (32, 32)), ((32, 64), (32, 64)), ((96, 128), (96, 128))]
    {
        update(&mut node, &id, limit(asked.0, asked.1)).await.unwrap();
        assert_eq!((memory(&node, &id), memory_and_swap(&node, &id)), (expected.0 * MIB, expected.1 * MIB));
    }
    let refused = update(&mut node, &id, limit(192, 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "the swap limit of before includes the memory");
    assert!(refused.message().starts_with("linux.memory_swap_limit_in_bytes"), "{refused:?}");
    assert_eq!(memory(&node, &id), 96 * MIB);
    node.finish().await;
}

#[tokio::test]
async fn a_created_container_takes_other_limits_and_an_exited_one_refuses_them() {
    let (mut node, pod) = start().await;
    let id = node.create(&pod, ContainerSpec::waiting("c")).await;
    let limit = Resources { memory_limit_in_bytes: 48 * MIB, ..Default::default() };
    update(&mut node, &id, limit.clone()).await.unwrap();
    assert_eq!(memory(&node, &id), 48 * MIB);
    node.start_container(&id).await.unwrap();
    assert_eq!(memory(&node, &id), 48 * MIB);
    assert_eq!(reported(&mut node, &id).await, limit);
    node.stop_container(&id, 5).await.unwrap();
    let refused = update(&mut node, &id, limit).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("is exited"), "{refused:?}");
    assert_eq!(update(&mut node, "no-such", Resources::default()).await.unwrap_err().code(), Code::NotFound);
    node.finish().await;
}

#[tokio::test]
async fn a_memory_limit_below_what_is_in_use_is_refused_before_anything_changes() {
    let (mut node, pod) = start().await;
    let first = Resources { memory_limit_in_bytes: 100 * MIB, cpu_shares: 512, ..Default::default() };
    let id = node.run(&pod, ContainerSpec::waiting("c").with(limited(first.clone()))).await;
    node.exec_ok(&id, "head -c 41943040 /dev/zero >/dev/shm/used").await;
    let weight = shares(&node, &id);
    let less = Resources { memory_limit_in_bytes: 20 * MIB, cpu_shares: 4096, ..Default::default() };
    let refused = update(&mut node, &id, less.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let text = format!("linux.memory_limit_in_bytes: {} is below the ", 20 * MIB);
    assert!(refused.message().starts_with(&text), "{refused:?}");
    assert_eq!((memory(&node, &id), shares(&node, &id)), (100 * MIB, weight));
    assert_eq!(reported(&mut node, &id).await, first);
    assert_eq!(node.exec_ok(&id, "rm /dev/shm/used; echo alive").await, "alive");
    update(&mut node, &id, less).await.unwrap();
    assert_eq!(memory(&node, &id), 20 * MIB);
    node.finish().await;
}

/// What a host does not have is refused, and what was changed on the way to it is taken back.
#[tokio::test]
async fn a_set_of_processors_holds_inside_and_a_refused_one_changes_nothing() {
    let (mut node, pod) = start().await;
    let first = Resources { memory_limit_in_bytes: 64 * MIB, ..Default::default() };
    let id = node.run(&pod, ContainerSpec::waiting("c").with(limited(first.clone()))).await;
    let set = |cpus: &str| Resources {
        memory_limit_in_bytes: 80 * MIB,
        cpu_quota: 30_000,
        cpuset_cpus: cpus.to_owned(),
        ..Default::default()
    };
    let refused = update(&mut node, &id, set("4095")).await.unwrap_err();
    assert!(refused.message().contains("cpuset"), "{refused:?}");
    assert_eq!((memory(&node, &id), cpu(&node, &id).0), (64 * MIB, -1));
    assert_eq!(reported(&mut node, &id).await, first);
    let controlled = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    if controlled.is_ok_and(|names| !names.contains("cpuset")) {
        let refused = update(&mut node, &id, set("0")).await.unwrap_err();
        assert!(refused.message().contains("cpuset"), "{refused:?}");
        assert_eq!(memory(&node, &id), 64 * MIB);
    } else {
        update(&mut node, &id, set("0")).await.unwrap();
        assert_eq!(node.exec_ok(&id, "nproc").await, "1");
        assert_eq!(limit_in(&node, &id, ["cpuset.cpus", "cpuset.cpus"]), "0");
    }
    node.finish().await;
}

#[tokio::test]
async fn what_an_update_cannot_be_names_its_field() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    for (asked, field) in [
        (Resources { cpu_shares: -1, ..Default::default() }, "linux.cpu_shares: -1"),
        (Resources { cpu_quota: 10, ..Default::default() }, "linux.cpu_quota: 10"),
        (Resources { cpu_period: 10, ..Default::default() }, "linux.cpu_period: 10"),
        (Resources { cpuset_cpus: "a".to_owned(), ..Default::default() }, "linux.cpuset_cpus: \"a\""),
        (Resources { memory_limit_in_bytes: -7, ..Default::default() }, "linux.memory_limit_in_bytes: -7"),
        (Resources { oom_score_adj: 2000, ..Default::default() }, "linux.oom_score_adj: 2000"),
    ] {
        let refused = update(&mut node, &id, asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    let request = || api::UpdateContainerResourcesRequest { container_id: id.clone(), ..Default::default() };
    let windows = api::UpdateContainerResourcesRequest { windows: Some(Default::default()), ..request() };
    let annotations = [("a.io/b".to_owned(), "c".to_owned())].into();
    let annotated = api::UpdateContainerResourcesRequest { annotations, ..request() };
    for (request, text) in [
        (windows, "windows: this node runs Linux"),
        (annotated, "annotations: \"a.io/b\" is not known"),
        (request(), "linux: is missing"),
    ] {
        let refused = node.runtime.update_container_resources(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(text), "{refused:?}");
    }
    node.finish().await;
}

/// The kubelet's memory QoS sets these.
#[tokio::test]
async fn unified_settings_are_files_of_v2_and_refused_on_v1() {
    let (mut node, pod) = start().await;
    let unified = |pairs: &[(&str, i64)]| Resources {
        unified: pairs.iter().map(|(key, value)| ((*key).to_owned(), value.to_string())).collect(),
        ..Default::default()
    };
    let first = unified(&[("memory.min", 8 * MIB), ("memory.high", 64 * MIB)]);
    let created = node.try_create(&pod, ContainerSpec::waiting("c").with(limited(first))).await;
    if !on_v2() {
        let refused = created.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("config.linux.resources.unified"), "{refused:?}");
        node.finish().await;
        return;
    }
    let id = created.unwrap();
    node.start_container(&id).await.unwrap();
    let file = |node: &Node, file: &str| limit_in(node, &id, [file; 2]);
    assert_eq!(
        (file(&node, "memory.min"), file(&node, "memory.high")),
        ("8388608".into(), "67108864".into())
    );
    update(&mut node, &id, unified(&[("memory.high", 96 * MIB)])).await.unwrap();
    assert_eq!(
        (file(&node, "memory.min"), file(&node, "memory.high")),
        ("8388608".into(), "100663296".into())
    );
    assert_eq!(reported(&mut node, &id).await.unified["memory.min"], "8388608");
    let refused = update(&mut node, &id, unified(&[("no.such", 1)])).await.unwrap_err();
    // With systemd a file may come with the first limit that needs it, so that the runtime has the last word.
    let words = if cgroup_driver() == "systemd" { "update" } else { "linux.unified: " };
    assert!(refused.message().contains(words), "{refused:?}");
    node.finish().await;
}

/// B24
#[tokio::test]
async fn b24_oom_score_adj_holds_for_commands_too_and_changes_for_all_processes() {
    let (mut node, pod) = start().await;
    let score = |oom_score_adj: i64| Resources { oom_score_adj, ..Default::default() };
    let script = "sleep 1000 & echo $! >/tmp/other; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let id = node.run(&pod, ContainerSpec::script("c", script).with(limited(score(300)))).await;
    assert_eq!(node.exec_ok(&id, "cat /proc/self/oom_score_adj /proc/1/oom_score_adj").await, "300\n300");
    update(&mut node, &id, score(700)).await.unwrap();
    let of_both = "cat /proc/1/oom_score_adj /proc/$(cat /tmp/other)/oom_score_adj";
    assert_eq!(node.exec_ok(&id, of_both).await, "700\n700");
    // runc takes a command's score from the container as it was made.
    let of_command = if oci_runtime() == "runc" { "300" } else { "700" };
    assert_eq!(node.exec_ok(&id, "cat /proc/self/oom_score_adj").await, of_command);
    assert_eq!(reported(&mut node, &id).await.oom_score_adj, 700);
    node.finish().await;
}

#[tokio::test]
async fn the_nodes_limit_of_processes_is_every_containers() {
    let mut node = Node::start_configured("[cgroup]\npids_limit = 40\n").await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    assert_eq!(limit_in(&node, &id, ["pids.max"; 2]), "40");
    let forks = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done";
    let ran = node.exec(&id, forks, 30).await.unwrap();
    assert!(ran.err.contains("fork"), "{ran:?}");
    let limit = Resources { memory_limit_in_bytes: 64 * MIB, ..Default::default() };
    update(&mut node, &id, limit).await.unwrap();
    assert_eq!(limit_in(&node, &id, ["pids.max"; 2]), "40", "an update lifts the limit of processes");
    node.finish().await;
}

fn with_parent(node: &Node, name: &str, overhead: Resources, resources: Resources) -> PodSpec {
    let parent = match cgroup_driver().as_str() {
        "systemd" => node.names.cgroup_parent.clone(),
        _ => format!("{}/{name}", node.names.cgroup_parent),
    };
    PodSpec::new(node, name).with(|config| {
        let linux = config.linux.as_mut().unwrap();
        linux.cgroup_parent = parent;
        (linux.overhead, linux.resources) = (Some(overhead), Some(resources));
    })
}

#[tokio::test]
async fn a_pods_overhead_and_resources_limit_the_cgroup_that_podd_made_for_it() {
    let mut node = Node::start().await;
    let of = |memory: i64, quota: i64| Resources {
        memory_limit_in_bytes: memory * MIB,
        cpu_quota: quota,
        cpu_period: 100_000,
        ..Default::default()
    };
    let pod = node.run_pod(with_parent(&node, "own", of(16, 10_000), of(64, 40_000))).await;
    let info = pod_info(&mut node, &pod.id).await;
    let told = (&info["overhead"]["linux"], &info["resources"]["linux"]);
    assert_eq!(told, (&json!(of(16, 10_000)), &json!(of(64, 40_000))));
    let systemd = cgroup_driver() == "systemd";
    assert_eq!(info["limitedBy"], if systemd { "client" } else { "podd" });
    if !systemd {
        assert_eq!((memory(&node, "own"), cpu(&node, "own").0), (80 * MIB, 50_000));
    }
    let request = api::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: None,
        resources: Some(of(32, 0)),
    };
    node.runtime.update_pod_sandbox_resources(request.clone()).await.unwrap();
    node.restart().await;
    let info = pod_info(&mut node, &pod.id).await;
    let told = (&info["overhead"]["linux"], &info["resources"]["linux"]);
    assert_eq!(told, (&json!(of(16, 10_000)), &json!(of(32, 0))));
    if !systemd {
        assert_eq!((memory(&node, "own"), cpu(&node, "own").0), (48 * MIB, -1));
        let spec = ContainerSpec::script("c", "exec tail -c 200000000 /dev/zero");
        let id = node.run(&pod, spec).await;
        assert_eq!(node.wait_for_exit(&id).await.reason, "OOMKilled", "the pod's limit does not hold");
    }
    node.stop_pod(&pod.id).await;
    let refused = node.runtime.update_pod_sandbox_resources(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    node.finish().await;
}

/// As the kubelet does, which limits the cgroups of its pods itself.
#[tokio::test]
async fn a_cgroup_that_the_client_made_is_the_clients_to_limit() {
    if cgroup_driver() == "systemd" {
        return; // no slice is ever podd's to limit: see the test above
    }
    let mut node = Node::start().await;
    let hierarchies =
        ["", "memory", "cpu", "cpuset", "pids", "devices", "freezer", "blkio", "cpuacct", "systemd"];
    let roots = hierarchies.map(|name| Path::new("/sys/fs/cgroup").join(name));
    for root in roots.iter().filter(|root| root.join("cgroup.procs").exists()) {
        fs::create_dir_all(root.join(node.names.cgroup_parent.trim_start_matches('/')).join("given"))
            .unwrap();
    }
    let limit = Resources { memory_limit_in_bytes: 64 * MIB, ..Default::default() };
    let pod = node.run_pod(with_parent(&node, "given", Resources::default(), limit.clone())).await;
    let info = pod_info(&mut node, &pod.id).await;
    assert_eq!(info["limitedBy"], "client");
    assert_eq!(info["resources"]["linux"], json!(limit));
    let files = ["memory.limit_in_bytes", "memory.max"];
    let file = files[usize::from(on_v2())];
    for at in cgroups(&node.names).iter().filter(|at| at.ends_with("given")) {
        let found = fs::read_to_string(at.join(file)).unwrap_or_default();
        assert_ne!(found.trim(), (64 * MIB).to_string(), "{}", at.display());
    }
    node.remove_pod(&pod.id).await;
    let left: Vec<_> = cgroups(&node.names).into_iter().filter(|at| at.ends_with("given")).collect();
    assert!(!left.is_empty(), "what the client made is the client's to remove");
    for at in left {
        fs::remove_dir(at).unwrap();
    }
    node.finish().await;
}

#[tokio::test]
async fn a_pods_resources_that_cannot_be_name_their_field() {
    let mut node = Node::start().await;
    let wrong = || Resources { cpu_quota: -9, ..Default::default() };
    let spec = with_parent(&node, "wrong", wrong(), Resources::default());
    let refused = node.try_run_pod(&spec).await.unwrap_err();
    assert!(refused.message().starts_with("config.linux.overhead.cpu_quota: -9"), "{refused:?}");
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let request = api::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: None,
        resources: Some(Resources { oom_score_adj: 1, ..Default::default() }),
    };
    let refused = node.runtime.update_pod_sandbox_resources(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("resources.oom_score_adj: "), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_container_sees_its_own_cgroup_as_the_root_on_v2_and_cannot_write_to_it() {
    let (mut node, pod) = start().await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let own = node.exec_ok(&id, "cat /proc/self/cgroup").await;
    assert_ne!(node.exec(&id, "mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x", 10).await.unwrap().code, 0);
    if on_v2() {
        assert_eq!(own, "0::/");
        assert_eq!(node.exec_ok(&id, "cat /sys/fs/cgroup/memory.max").await, "max");
    } else {
        // No namespace: the container's own directories are bound to the places of the hierarchies.
        assert!(own.lines().any(|line| line.contains("memory") && line.contains(&id)), "{own}");
        node.exec_ok(&id, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes").await;
        let processes = "grep -c . /sys/fs/cgroup/memory/cgroup.procs";
        assert!(node.exec_ok(&id, processes).await.parse::<u32>().unwrap() < 10);
    }
    node.finish().await;
}

/// The kernel keeps nsdelegate and the like once for all mounts of cgroup v2.
#[tokio::test]
async fn a_privileged_container_sees_the_nodes_cgroups_and_leaves_their_mount_as_it_is() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod").privileged()).await;
    let options = || {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let cgroups =
            table.lines().filter(|line| line.split(' ').any(|word| word.starts_with("/sys/fs/cgroup")));
        cgroups.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = options();
    let spec = ContainerSpec::waiting("c").secured(|context| context.privileged = true);
    let id = node.run(&pod, spec).await;
    assert_eq!(options(), before);
    if on_v2() {
        let parent = node.names.cgroup_parent.trim_start_matches('/');
        let made = format!("mkdir /sys/fs/cgroup/{parent}/made && rmdir /sys/fs/cgroup/{parent}/made");
        node.exec_ok(&id, &made).await;
    }
    node.finish().await;
}

#[tokio::test]
async fn a_cgroup_is_writable_inside_by_an_annotation_that_the_operator_allows() {
    const NAME: &str = "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw";
    let runtime = oci_runtime();
    let allowed = format!("[runtimes.{runtime}]\nallowed_annotations = [\"{NAME}\"]\n");
    let mut node = Node::start_configured(&allowed).await;
    let annotated =
        |spec: PodSpec| spec.with(|config| drop(config.annotations.insert(NAME.into(), "true".into())));
    let pod = node.run_pod(annotated(PodSpec::new(&node, "pod"))).await;
    let limit = Resources { memory_limit_in_bytes: 64 * MIB, ..Default::default() };
    let created = node.try_create(&pod, ContainerSpec::waiting("c").with(limited(limit))).await;
    if !on_v2() {
        let refused = created.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(NAME) && refused.message().contains("cgroup v2"), "{refused:?}");
        node.finish().await;
        return;
    }
    let id = created.unwrap();
    node.start_container(&id).await.unwrap();
    let below =
        "mkdir /sys/fs/cgroup/below && echo $$ >/sys/fs/cgroup/below/cgroup.procs && cat /proc/self/cgroup";
    assert_eq!(node.exec_ok(&id, below).await, "0::/below");
    let lift = node.exec(&id, "echo max >/sys/fs/cgroup/memory.max", 10).await.unwrap();
    assert_ne!(lift.code, 0, "a container lifts its own limit: {lift:?}");
    assert_eq!(memory(&node, &id), 64 * MIB);
    let deaf = node.run_pod(PodSpec::new(&node, "deaf")).await;
    let id = node.run(&deaf, ContainerSpec::waiting("c")).await;
    assert_ne!(node.exec(&id, "mkdir /sys/fs/cgroup/x", 10).await.unwrap().code, 0);
    node.finish().await;
}
