//! What pods and containers use: the CRI's stats beside the work that was done, and the metrics beside their descriptors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use podd::api;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec, cgroup_driver, eventually, program};

const MIB: u64 = 1 << 20;

/// Fills a file of that many MiB in memory, then burns the processor.
fn busy(name: &str, mebibytes: u32) -> ContainerSpec {
    let script = format!("head -c {mebibytes}m /dev/zero >/dev/shm/{name}; while :; do :; done");
    ContainerSpec::script(name, &script)
}

fn limited(mebibytes: i64) -> impl FnOnce(&mut api::ContainerConfig) {
    let resources = api::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 90_000,
        cpu_shares: 512,
        memory_limit_in_bytes: mebibytes << 20,
        ..Default::default()
    };
    move |config| config.linux.as_mut().unwrap().resources = Some(resources)
}

fn labelled(key: &str, value: &str) -> impl FnOnce(&mut api::ContainerConfig) {
    let labels = HashMap::from([(key.to_owned(), value.to_owned())]);
    move |config| config.labels = labels
}

/// A pod with a cgroup that is nobody else's, as the kubelet makes it.
fn with_own_cgroup(node: &Node, name: &str) -> PodSpec {
    let parent = &node.names.cgroup_parent;
    let own = match cgroup_driver().as_str() {
        "systemd" => format!("{}-{name}.slice", parent.trim_end_matches(".slice")),
        _ => format!("{parent}/{name}"),
    };
    PodSpec::new(node, name).with(|config| config.linux.as_mut().unwrap().cgroup_parent = own)
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn value(value: &Option<api::UInt64Value>) -> u64 {
    value.as_ref().unwrap_or_else(|| panic!("a figure is missing")).value
}

fn id(stats: &api::ContainerStats) -> &str {
    &stats.attributes.as_ref().unwrap().id
}

async fn of_container(node: &mut Node, id: &str) -> api::ContainerStats {
    let request = api::ContainerStatsRequest { container_id: id.to_owned() };
    node.runtime.container_stats(request).await.unwrap().into_inner().stats.unwrap()
}

async fn of_pod(node: &mut Node, id: &str) -> (api::PodSandboxAttributes, api::LinuxPodSandboxStats) {
    let request = api::PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
    let stats = node.runtime.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
    (stats.attributes.unwrap(), stats.linux.unwrap())
}

async fn list(node: &mut Node, filter: api::ContainerStatsFilter) -> Vec<api::ContainerStats> {
    let request = api::ListContainerStatsRequest { filter: Some(filter) };
    node.runtime.list_container_stats(request).await.unwrap().into_inner().stats
}

/// The container's stats as soon as it has so much of the memory.
async fn once_it_holds(node: &mut Node, id: &str, bytes: u64) -> api::ContainerStats {
    let client = node.runtime.clone();
    eventually("memory in use", || {
        let mut client = client.clone();
        let request = api::ContainerStatsRequest { container_id: id.to_owned() };
        async move {
            let stats = client.container_stats(request).await.unwrap().into_inner().stats.unwrap();
            (value(&stats.memory.as_ref()?.usage_bytes) >= bytes).then_some(stats)
        }
    })
    .await
}

async fn metrics(node: &mut Node) -> Vec<api::PodSandboxMetrics> {
    let request = api::ListPodSandboxMetricsRequest {};
    node.runtime.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics
}

async fn descriptors(node: &mut Node) -> BTreeMap<String, api::MetricDescriptor> {
    let request = api::ListMetricDescriptorsRequest {};
    let descriptors = node.runtime.list_metric_descriptors(request).await.unwrap().into_inner().descriptors;
    descriptors.into_iter().map(|descriptor| (descriptor.name.clone(), descriptor)).collect()
}

/// The daemon's open files whose names satisfy `wanted`.
fn open_files(node: &Node, wanted: impl Fn(&str) -> bool) -> usize {
    let entries = fs::read_dir(format!("/proc/{}/fd", node.daemon_pid())).unwrap().flatten();
    let names = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    names.filter(|name| wanted(&name.to_string_lossy())).count()
}

#[tokio::test]
async fn b21_a_container_shows_its_processor_time_memory_and_a_rate_once_there_is_one() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let container = node.run(&pod, busy("busy", 20).with(limited(64))).await;
    let first = once_it_holds(&mut node, &container, 20 * MIB).await;
    let memory = first.memory.unwrap();
    let working_set = value(&memory.working_set_bytes);
    assert!(working_set >= 20 * MIB && working_set <= value(&memory.usage_bytes), "{memory:?}");
    assert_eq!(value(&memory.available_bytes), 64 * MIB - working_set);
    assert!(value(&memory.rss_bytes) > 0 && value(&memory.rss_bytes) < 16 * MIB, "{memory:?}");
    assert!(value(&memory.page_faults) > 100 && memory.major_page_faults.is_some(), "{memory:?}");
    if let Some(swap) = first.swap {
        assert_eq!((value(&swap.swap_usage_bytes), value(&swap.swap_available_bytes)), (0, 0));
    }
    let base = of_container(&mut node, &container).await.cpu.unwrap();
    let client = node.runtime.clone();
    let rated = eventually("a rate", || {
        let mut client = client.clone();
        let request = api::ContainerStatsRequest { container_id: container.clone() };
        async move {
            let stats = client.container_stats(request).await.unwrap().into_inner().stats.unwrap();
            let cpu = stats.cpu.unwrap();
            (cpu.usage_nano_cores.is_some() && cpu.timestamp > base.timestamp + 1_500_000_000).then_some(cpu)
        }
    })
    .await;
    assert!(value(&rated.usage_core_nano_seconds) > value(&base.usage_core_nano_seconds));
    let cores = value(&rated.usage_nano_cores);
    assert!(cores > 10_000_000 && cores < 1_100_000_000, "a busy loop used {cores} nano cores of 0.9");
    // Nobody has asked the restarted daemon yet.
    node.restart().await;
    let cpu = of_container(&mut node, &container).await.cpu.unwrap();
    assert_eq!(cpu.usage_nano_cores, None);
    assert!(value(&cpu.usage_core_nano_seconds) >= value(&rated.usage_core_nano_seconds));
    node.finish().await;
}

#[tokio::test]
async fn the_writable_layer_is_told_of_running_and_ended_containers_with_its_time_and_place() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let container = node.run(&pod, ContainerSpec::waiting("c")).await;
    let new = of_container(&mut node, &container).await.writable_layer.unwrap();
    assert!(new.timestamp > 0 && value(&new.used_bytes) < MIB, "{new:?}");
    let write = "mkdir /data; for n in $(seq 50); do head -c 100k /dev/zero >/data/$n; done; sync";
    node.exec_ok(&container, write).await;
    let written = once_it_has_written(&mut node, &container, 50 * 100 * 1024).await;
    assert!(value(&written.inodes_used) > 50 && value(&written.used_bytes) < 8 * MIB, "{written:?}");
    assert!(written.timestamp > new.timestamp);
    let places = node.image.image_fs_info(api::ImageFsInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(written.fs_id, places.container_filesystems[0].fs_id);
    node.stop_container(&container, 5).await.unwrap();
    let ended = once_it_has_written(&mut node, &container, 50 * 100 * 1024).await;
    assert_eq!(ended.fs_id, written.fs_id);
    node.finish().await;
}

/// The container's writable layer as soon as it is known to hold so much.
async fn once_it_has_written(node: &mut Node, id: &str, bytes: u64) -> api::FilesystemUsage {
    let client = node.runtime.clone();
    eventually("a writable layer that was counted", || {
        let mut client = client.clone();
        let request = api::ContainerStatsRequest { container_id: id.to_owned() };
        async move {
            let stats = client.container_stats(request).await.unwrap().into_inner().stats.unwrap();
            stats.writable_layer.filter(|layer| value(&layer.used_bytes) >= bytes)
        }
    })
    .await
}

#[tokio::test]
async fn pressure_is_told_where_the_kernel_measures_it_for_cgroups() {
    let mut node = Node::start().await;
    let pod = node.run_pod(with_own_cgroup(&node, "pod")).await;
    let container = node.run(&pod, busy("busy", 1)).await;
    let stats = of_container(&mut node, &container).await;
    let measured = is_v2() && fs::read_to_string("/proc/pressure/cpu").is_ok();
    assert_eq!(stats.cpu.as_ref().unwrap().psi.is_some(), measured);
    assert_eq!(stats.memory.as_ref().unwrap().psi.is_some(), measured);
    assert_eq!(stats.io.is_some(), measured);
    let (_, of_pod) = of_pod(&mut node, &pod.id).await;
    assert_eq!(of_pod.io.is_some(), measured);
    node.finish().await;
}

#[tokio::test]
async fn lists_go_by_prefix_of_id_and_pod_and_by_labels_and_streams_give_the_same() {
    let mut node = Node::start().await;
    assert_eq!(list(&mut node, api::ContainerStatsFilter::default()).await, [], "no containers are no error");
    let one = node.run_pod(PodSpec::new(&node, "one")).await;
    let two = node.run_pod(PodSpec::new(&node, "two")).await;
    let a = node.run(&one, ContainerSpec::waiting("a").with(labelled("tier", "front"))).await;
    let b = node.run(&one, ContainerSpec::waiting("b").with(labelled("tier", "back"))).await;
    let c = node.run(&two, ContainerSpec::waiting("c").with(labelled("tier", "back"))).await;
    let back = HashMap::from([("tier".to_owned(), "back".to_owned())]);
    let filter = api::ContainerStatsFilter::default;
    for (filter, expected) in [
        (filter(), vec![&a, &b, &c]),
        (api::ContainerStatsFilter { id: a[..12].to_owned(), ..filter() }, vec![&a]),
        (api::ContainerStatsFilter { pod_sandbox_id: one.id[..12].to_owned(), ..filter() }, vec![&a, &b]),
        (api::ContainerStatsFilter { label_selector: back.clone(), ..filter() }, vec![&b, &c]),
        (
            api::ContainerStatsFilter { pod_sandbox_id: one.id.clone(), label_selector: back, ..filter() },
            vec![&b],
        ),
        (api::ContainerStatsFilter { id: "no-such".to_owned(), ..filter() }, vec![]),
    ] {
        let expected: BTreeSet<_> = expected.into_iter().map(String::as_str).collect();
        let listed = list(&mut node, filter.clone()).await;
        assert_eq!(listed.iter().map(id).collect::<BTreeSet<_>>(), expected, "{filter:?}");
        assert!(listed.iter().all(|stats| stats.cpu.is_some() && stats.memory.is_some()));
        let request = api::StreamContainerStatsRequest { filter: Some(filter) };
        let stream = node.runtime.stream_container_stats(request).await.unwrap().into_inner();
        let streamed: Vec<_> = stream.map(|batch| batch.unwrap().container_stats).collect().await;
        let streamed = streamed.concat();
        assert_eq!(streamed.iter().map(id).collect::<BTreeSet<_>>(), expected);
    }
    assert_eq!(id(&of_container(&mut node, &a[..10]).await), a);
    let unknown = api::ContainerStatsRequest { container_id: "no-such".to_owned() };
    assert_eq!(node.runtime.container_stats(unknown).await.unwrap_err().code(), Code::NotFound);
    pods_by_filter(&mut node, &one, &two).await;
    node.finish().await;
}

async fn pods_by_filter(node: &mut Node, one: &Pod, two: &Pod) {
    let id = |stats: &api::PodSandboxStats| stats.attributes.as_ref().unwrap().id.clone();
    let filter = api::PodSandboxStatsFilter::default;
    let two_alone = HashMap::from([("app".to_owned(), "two".to_owned())]);
    for (filter, expected) in [
        (filter(), vec![one, two]),
        (api::PodSandboxStatsFilter { id: one.id[..12].to_owned(), ..filter() }, vec![one]),
        (api::PodSandboxStatsFilter { label_selector: two_alone, ..filter() }, vec![two]),
        (api::PodSandboxStatsFilter { id: "no-such".to_owned(), ..filter() }, vec![]),
    ] {
        let expected: BTreeSet<_> = expected.into_iter().map(|pod| pod.id.clone()).collect();
        let request = api::ListPodSandboxStatsRequest { filter: Some(filter.clone()) };
        let listed = node.runtime.list_pod_sandbox_stats(request).await.unwrap().into_inner().stats;
        assert_eq!(listed.iter().map(id).collect::<BTreeSet<_>>(), expected, "{filter:?}");
        let request = api::StreamPodSandboxStatsRequest { filter: Some(filter) };
        let stream = node.runtime.stream_pod_sandbox_stats(request).await.unwrap().into_inner();
        let streamed: Vec<_> = stream.map(|batch| batch.unwrap().pod_sandbox_stats).collect().await;
        assert_eq!(streamed.concat().iter().map(id).collect::<BTreeSet<_>>(), expected);
    }
    let unknown = api::PodSandboxStatsRequest { pod_sandbox_id: "no-such".to_owned() };
    assert_eq!(node.runtime.pod_sandbox_stats(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_pod_shows_its_traffic_its_processes_and_its_containers() {
    let mut node = Node::start().await;
    let pod = node.run_pod(with_own_cgroup(&node, "server")).await;
    let other = node.run_pod(PodSpec::new(&node, "client")).await;
    let script = "mkdir /www; head -c 300k /dev/zero >/www/file; exec httpd -f -p 8080 -h /www";
    let server = node.run(&pod, ContainerSpec::script("httpd", script)).await;
    let second = node.run(&pod, ContainerSpec::script("two", "sleep 1000 & sleep 1000 & wait")).await;
    let client = node.run(&other, ContainerSpec::waiting("c")).await;
    let (_, before) = of_pod(&mut node, &pod.id).await;
    let idle = before.network.unwrap().default_interface.unwrap();
    // A second interface, after the first look: what is counted is looked for each time.
    let netns = format!("podd-{}", pod.id);
    let link = ["-n", &netns, "link", "add", "net1", "type", "veth", "peer", "name", "net2"];
    assert!(Command::new(program("ip")).args(link).status().unwrap().success());
    let ip = node.pod_status(&pod.id).await.unwrap().network.unwrap().ip;
    let fetch = format!(
        "for i in $(seq 100); do wget -q -O /dev/null http://{ip}:8080/file && exit 0; sleep 0.1; done; exit 1"
    );
    node.exec_ok(&client, &fetch).await;
    // A server's child of a moment ago may still be there.
    let runtime = node.runtime.clone();
    let stats = eventually("httpd, a shell and two that sleep", || {
        let mut client = runtime.clone();
        let request = api::PodSandboxStatsRequest { pod_sandbox_id: pod.id[..16].to_owned() };
        async move {
            let stats = client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
            let processes = stats.linux.as_ref().unwrap().process.as_ref().unwrap();
            (value(&processes.process_count) == 4).then_some(stats)
        }
    })
    .await;
    let (attributes, stats) = (stats.attributes.unwrap(), stats.linux.unwrap());
    assert_eq!(
        (attributes.id.as_str(), attributes.metadata.unwrap().name.as_str()),
        (pod.id.as_str(), "server")
    );
    assert_eq!(
        (attributes.labels["app"].as_str(), attributes.annotations["tests/annotation"].as_str()),
        ("server", "kept")
    );
    let network = stats.network.unwrap();
    let eth0 = network.default_interface.unwrap();
    assert_eq!((eth0.name.as_str(), network.timestamp > 0), ("eth0", true));
    assert!(value(&eth0.tx_bytes) >= value(&idle.tx_bytes) + 300 * 1024, "{eth0:?}");
    assert!(value(&eth0.rx_bytes) > value(&idle.rx_bytes) && value(&eth0.rx_errors) == 0, "{eth0:?}");
    let others: BTreeSet<_> = network.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(others, BTreeSet::from(["net1", "net2"]));
    let containers: BTreeSet<_> = stats.containers.iter().map(id).collect();
    assert_eq!(containers, BTreeSet::from([server.as_str(), second.as_str()]));
    let sum: u64 =
        stats.containers.iter().map(|it| value(&it.cpu.as_ref().unwrap().usage_core_nano_seconds)).sum();
    assert!(value(&stats.cpu.unwrap().usage_core_nano_seconds) >= sum);
    node.restart().await;
    let (_, again) = of_pod(&mut node, &pod.id).await;
    let again = again.network.unwrap().default_interface.unwrap();
    assert!(value(&again.tx_bytes) >= value(&eth0.tx_bytes), "after a restart: {again:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_has_none_of_its_own() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod").host_network()).await;
    node.run(&pod, ContainerSpec::waiting("c")).await;
    let (_, stats) = of_pod(&mut node, &pod.id).await;
    assert_eq!(stats.network, None);
    assert!(stats.cpu.is_some() && stats.memory.is_some());
    let metrics = metrics(&mut node).await;
    assert_eq!((metrics.len(), metrics[0].metrics.len(), metrics[0].container_metrics.len()), (1, 0, 1));
    node.finish().await;
}

#[tokio::test]
async fn pods_in_one_cgroup_are_not_charged_with_each_other() {
    let mut node = Node::start().await;
    let small = node.run_pod(PodSpec::new(&node, "small")).await;
    let large = node.run_pod(PodSpec::new(&node, "large")).await;
    let own = node.run_pod(with_own_cgroup(&node, "own")).await;
    node.run(&small, ContainerSpec::waiting("c")).await;
    // More than is asked after below: while a file grows, what the kernel takes beside it comes and goes.
    let filled = node.run(&large, busy("busy", 48)).await;
    once_it_holds(&mut node, &filled, 48 * MIB).await;
    let also_filled = node.run(&own, busy("busy", 38).with(limited(64))).await;
    once_it_holds(&mut node, &also_filled, 38 * MIB).await;
    let mut used = Vec::new();
    for pod in [&small, &large, &own] {
        let (_, stats) = of_pod(&mut node, &pod.id).await;
        used.push(value(&stats.memory.unwrap().usage_bytes) / MIB);
    }
    assert!(used[0] < 20 && used[1] >= 40 && used[2] >= 30, "{used:?} MiB");
    node.finish().await;
}

#[tokio::test]
async fn b21_what_has_ended_keeps_its_name_and_what_vanishes_fails_nothing() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let created = node.create(&pod, ContainerSpec::waiting("created")).await;
    let ended = node.run(&pod, ContainerSpec::script("ended", "exit 3").with(labelled("a", "b"))).await;
    node.wait_for_exit(&ended).await;
    let stats = of_container(&mut node, &ended).await;
    let attributes = stats.attributes.unwrap();
    assert_eq!((attributes.metadata.unwrap().name.as_str(), attributes.labels["a"].as_str()), ("ended", "b"));
    assert_eq!((stats.cpu, stats.memory, stats.swap, stats.io), (None, None, None, None));
    assert!(of_container(&mut node, &created).await.memory.is_some(), "its init is there");
    let mut going = Vec::new();
    for number in 0..4 {
        going.push(node.run(&pod, ContainerSpec::waiting(&format!("c{number}"))).await);
    }
    let mut client = node.runtime.clone();
    let polled = tokio::spawn(async move {
        let mut lengths = Vec::new();
        loop {
            let listed =
                client.list_container_stats(api::ListContainerStatsRequest::default()).await.unwrap();
            lengths.push(listed.into_inner().stats.len());
            client.list_pod_sandbox_stats(api::ListPodSandboxStatsRequest::default()).await.unwrap();
            client.list_pod_sandbox_metrics(api::ListPodSandboxMetricsRequest {}).await.unwrap();
            if lengths.last() == Some(&2) {
                return lengths;
            }
        }
    });
    for id in &going {
        node.stop_container(id, 0).await.unwrap();
        node.remove_container(id).await.unwrap();
    }
    let lengths = tokio::time::timeout(Duration::from_secs(60), polled).await.unwrap().unwrap();
    assert!(lengths.is_sorted_by(|one, other| one >= other), "{lengths:?}");
    node.stop_pod(&pod.id).await;
    let (attributes, stats) = of_pod(&mut node, &pod.id).await;
    assert_eq!((attributes.id, stats.containers.len()), (pod.id.clone(), 2));
    assert_eq!((stats.cpu, stats.memory, stats.network, stats.process), (None, None, None, None));
    assert_eq!(metrics(&mut node).await, [], "a stopped pod has no metrics");
    node.finish().await;
}

/// An idle daemon holds nothing, and a pod's network namespace goes with the pod.
#[tokio::test]
async fn files_stay_open_while_somebody_asks_often_and_a_network_no_longer_than_its_pod() {
    let mut node = Node::start().await;
    let pod = node.run_pod(with_own_cgroup(&node, "pod")).await;
    node.run(&pod, ContainerSpec::waiting("c")).await;
    let of_cgroups = |name: &str| name.starts_with("/sys/fs/cgroup/");
    of_pod(&mut node, &pod.id).await;
    assert_eq!(open_files(&node, of_cgroups), 0, "one request is not often");
    for _ in 0..4 {
        of_pod(&mut node, &pod.id).await;
    }
    let kept = open_files(&node, of_cgroups);
    assert!((2 * 3..=2 * 9).contains(&kept), "{kept} files of two cgroups");
    eventually("closed files", || async { (open_files(&node, of_cgroups) == 0).then_some(()) }).await;
    assert_eq!(open_files(&node, |name| name.ends_with("/net/dev")), 1);
    node.stop_pod(&pod.id).await;
    assert_eq!(open_files(&node, |name| name.ends_with("/net/dev")), 0);
    of_pod(&mut node, &pod.id).await;
    assert_eq!(open_files(&node, |name| name.ends_with("/net/dev")), 0);
    node.finish().await;
}

/// What a host may lack: devices that are accounted for, huge pages, pressure, swap.
fn may_be_missing(name: &str) -> bool {
    let devices = name.starts_with("container_fs_reads") || name.starts_with("container_fs_writes");
    let pressure =
        name.starts_with("container_pressure_") && !(is_v2() && Path::new("/proc/pressure").exists());
    devices
        || pressure
        || ["container_blkio_device_usage_total", "container_memory_swap"].contains(&name)
        || name.starts_with("container_hugetlb_")
}

#[tokio::test]
async fn each_metric_has_a_descriptor_with_as_many_labels_and_each_descriptor_a_metric() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let script = "sleep 1000 & exec 5</etc/passwd; httpd -p 8080 -h /; while :; do :; done";
    let container = node.run(&pod, ContainerSpec::script("c", script).with(limited(64))).await;
    node.exec_ok(&container, "until netstat -tln | grep -q 8080; do sleep 0.1; done").await;
    let (descriptors, metrics) = (descriptors(&mut node).await, metrics(&mut node).await);
    assert_eq!((metrics.len(), metrics[0].pod_sandbox_id.as_str()), (1, pod.id.as_str()));
    assert_eq!(metrics[0].container_metrics[0].container_id, container);
    let all: Vec<_> = metrics[0].metrics.iter().chain(&metrics[0].container_metrics[0].metrics).collect();
    let mut seen = BTreeSet::new();
    for metric in &all {
        let descriptor = &descriptors[&metric.name];
        assert_eq!(metric.label_values.len(), descriptor.label_keys.len(), "{metric:?}");
        assert!(seen.insert((&metric.name, &metric.label_values)), "{metric:?} is there twice");
        assert!(!descriptor.help.is_empty() && metric.value.is_some());
    }
    let missing = descriptors.keys().filter(|name| !all.iter().any(|metric| metric.name == **name));
    let missing: Vec<_> = missing.filter(|name| !may_be_missing(name)).collect();
    assert!(missing.is_empty(), "no metric of {missing:?}");
    let labels = &all.iter().find(|metric| metric.name == "container_processes").unwrap().label_values;
    assert!(
        labels[0].ends_with(&format!("podd-{container}"))
            || labels[0].ends_with(&format!("podd-{container}.scope"))
    );
    assert_eq!(labels[1..], [container.clone(), labels[2].clone(), "tests".into(), "pod".into(), "c".into()]);
    assert!(labels[2].contains("busybox"), "{labels:?}");
    let of = |name: &str| value(&all.iter().find(|metric| metric.name == name).unwrap().value);
    assert_eq!(of("container_processes"), 3, "the shell, its child and httpd");
    assert!(of("container_threads") >= 3 && of("container_sockets") >= 1);
    assert!(of("container_file_descriptors") > of("container_sockets"));
    assert!(
        of("container_ulimits_soft") > 0 && of("container_fs_inodes_total") >= of("container_fs_inodes_free")
    );
    let spec = ["cpu_period", "cpu_quota", "cpu_shares", "memory_limit_bytes", "memory_swap_limit_bytes"];
    let spec = spec.map(|name| of(&format!("container_spec_{name}")));
    assert_eq!(spec, [100_000, 90_000, 512, 64 * MIB, 64 * MIB]);
    assert!(of("container_last_seen") >= of("container_start_time_seconds"));
    let request = api::StreamPodSandboxMetricsRequest {};
    let stream = node.runtime.stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
    let streamed: Vec<_> = stream.map(|batch| batch.unwrap().pod_sandbox_metrics).collect().await;
    assert_eq!(
        streamed.concat().iter().map(|pod| pod.pod_sandbox_id.as_str()).collect::<Vec<_>>(),
        [pod.id.as_str()]
    );
    node.finish().await;
}

#[tokio::test]
async fn metrics_count_kills_for_want_of_memory_and_time_that_a_quota_took() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    // So little that a busy loop uses it up on a busy machine, too.
    let little = |config: &mut api::ContainerConfig| {
        let resources = config.linux.as_mut().unwrap().resources.as_mut().unwrap();
        resources.cpu_quota = 3000;
        // A limit of both is met before that of memory, and not counted by every kernel.
        resources.memory_swap_limit_in_bytes = -1;
    };
    let container = node.run(&pod, busy("busy", 1).with(limited(32)).with(little)).await;
    let killed = node.exec(&container, "exec tail -c 200000000 /dev/zero", 60).await.unwrap();
    assert_eq!(killed.code, 137, "{killed:?}");
    let client = node.runtime.clone();
    let metrics = eventually("a kill and a throttled period", || {
        let mut client = client.clone();
        async move {
            let request = api::ListPodSandboxMetricsRequest {};
            let answer = client.list_pod_sandbox_metrics(request).await.unwrap().into_inner();
            let metrics =
                answer.pod_metrics.into_iter().next()?.container_metrics.into_iter().next()?.metrics;
            let of = |name: &str| metrics.iter().find(|it| it.name == name).map(|it| value(&it.value));
            let throttled = of("container_cpu_cfs_throttled_periods_total")? > 0;
            (throttled && of("container_oom_events_total")? > 0).then_some(metrics)
        }
    })
    .await;
    let of = |name: &str| value(&metrics.iter().find(|metric| metric.name == name).unwrap().value);
    assert!(of("container_memory_failcnt") > 0 && of("container_cpu_cfs_periods_total") > 0);
    assert!(of("container_memory_max_usage_bytes") > 16 * MIB);
    let used = value(&of_container(&mut node, &container).await.cpu.unwrap().usage_core_nano_seconds);
    let seconds = of("container_cpu_usage_seconds_total");
    assert!(
        seconds <= used / 1_000_000_000 && of("container_cpu_user_seconds_total") <= seconds,
        "{used} ns"
    );
    node.finish().await;
}

#[tokio::test]
async fn crictl_shows_stats_and_metrics() {
    let mut node = Node::start().await;
    let pod = node.run_pod(with_own_cgroup(&node, "web")).await;
    let container = node.run(&pod, busy("busy", 20)).await;
    once_it_holds(&mut node, &container, 20 * MIB).await;
    let table = node.crictl_ok(&["stats"]).await;
    let row: Vec<_> = table.lines().find(|line| line.contains("busy")).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], [&container[..13], "busy"], "{table}");
    assert!(row[2].parse::<f64>().unwrap() > 1.0 && row[3].ends_with("MB"), "{table}");
    let table = node.crictl_ok(&["statsp"]).await;
    let row: Vec<_> = table.lines().find(|line| line.contains("web")).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], ["web", &pod.id[..13]], "{table}");
    assert!(row[2].parse::<f64>().unwrap() > 1.0 && row[3].ends_with("MB"), "{table}");
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let stats = json(node.crictl_ok(&["stats", "--id", &container[..13], "-o", "json"]).await);
    assert_eq!(stats["stats"][0]["attributes"]["id"], container.as_str());
    let stats = json(node.crictl_ok(&["statsp", "--label", "app=web", "-o", "json"]).await);
    assert_eq!(stats["stats"][0]["linux"]["network"]["defaultInterface"]["name"], "eth0");
    let listed = json(node.crictl_ok(&["metricdescs"]).await);
    assert_eq!(listed["descriptors"].as_array().unwrap().len(), descriptors(&mut node).await.len());
    let listed = json(node.crictl_ok(&["metricsp"]).await);
    assert_eq!(listed["podMetrics"][0]["podSandboxId"], pod.id.as_str());
    node.finish().await;
}
