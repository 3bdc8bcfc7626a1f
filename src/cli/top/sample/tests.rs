use super::*;

const SECOND: i64 = 1_000_000_000;

fn number(value: u64) -> Option<api::UInt64Value> {
    Some(api::UInt64Value { value })
}

fn stats(id: &str, timestamp: i64, used: u64, memory: u64) -> api::ContainerStats {
    api::ContainerStats {
        attributes: Some(api::ContainerAttributes { id: id.into(), ..Default::default() }),
        cpu: Some(api::CpuUsage { timestamp, usage_core_nano_seconds: number(used), ..Default::default() }),
        memory: Some(api::MemoryUsage { working_set_bytes: number(memory), ..Default::default() }),
        writable_layer: Some(api::FilesystemUsage { used_bytes: number(4096), ..Default::default() }),
        ..Default::default()
    }
}

fn container(id: &str, name: &str, attempt: u32) -> api::Container {
    api::Container {
        id: id.into(),
        pod_sandbox_id: "p".into(),
        metadata: Some(api::ContainerMetadata { name: name.into(), attempt }),
        state: api::ContainerState::ContainerRunning.into(),
        ..Default::default()
    }
}

fn network(timestamp: i64, received: u64, sent: u64) -> api::NetworkUsage {
    let interface = api::NetworkInterfaceUsage {
        name: "eth0".into(),
        rx_bytes: number(received),
        tx_bytes: number(sent),
        ..Default::default()
    };
    // Some runtimes list the default interface twice.
    api::NetworkUsage { timestamp, default_interface: Some(interface.clone()), interfaces: vec![interface] }
}

fn sample(containers: Option<Vec<api::ContainerStats>>, net: Option<api::NetworkUsage>) -> Sample {
    let pod = api::PodSandbox {
        id: "p".into(),
        metadata: Some(api::PodSandboxMetadata {
            name: "web".into(),
            namespace: "default".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pod_stats = net.map(|network| {
        vec![api::PodSandboxStats {
            attributes: Some(api::PodSandboxAttributes { id: "p".into(), ..Default::default() }),
            linux: Some(api::LinuxPodSandboxStats { network: Some(network), ..Default::default() }),
            windows: None,
        }]
    });
    Sample {
        pods: vec![pod],
        containers: vec![container("a", "app", 0), container("b", "side", 0)],
        pod_stats,
        container_stats: containers,
        now: 0,
    }
}

#[test]
fn rates_come_from_two_samples_by_their_own_times() {
    let before = sample(
        Some(vec![stats("a", SECOND, 500_000_000, 1), stats("b", SECOND, 0, 2)]),
        Some(network(SECOND, 1000, 100)),
    );
    let now = sample(
        Some(vec![stats("a", 3 * SECOND, 1_500_000_000, 1), stats("b", 3 * SECOND, 200_000_000, 2)]),
        Some(network(3 * SECOND, 5000, 100)),
    );
    let entries = now.entries(Some(&before));
    let pod = &entries[0];
    let cpu: HashMap<_, _> = pod.containers.iter().map(|own| (own.name.as_str(), own.usage.cpu)).collect();
    assert_eq!(cpu, HashMap::from([("app", Some(500_000_000)), ("side", Some(100_000_000))]));
    // The runtime told nothing of the pod's processor time: its containers' sum.
    assert_eq!((pod.usage.cpu, pod.usage.memory, pod.usage.disk), (Some(600_000_000), Some(3), Some(8192)));
    assert_eq!((pod.usage.received, pod.usage.sent), (Some(2000), Some(0)));
    assert_eq!(pod.usage.pids, None);
    assert_eq!((pod.name.as_str(), pod.state), ("default/web", "ready"));
}

#[test]
fn one_sample_has_no_rates_but_what_the_runtime_tells() {
    let mut own = stats("a", SECOND, 5, 7);
    let alone = sample(Some(vec![own.clone()]), Some(network(SECOND, 1, 1)));
    let usage = alone.entries(None)[0].usage;
    assert_eq!((usage.cpu, usage.received, usage.memory), (None, None, Some(7)));
    own.cpu = Some(api::CpuUsage { usage_nano_cores: number(42), ..Default::default() });
    let told = sample(Some(vec![own]), None);
    assert_eq!(told.entries(None)[0].usage.cpu, Some(42));
    // No time has passed, or a counter began anew.
    let same = sample(Some(vec![stats("a", SECOND, 9, 7)]), None);
    assert_eq!(same.entries(Some(&alone))[0].usage.cpu, None);
    let anew = sample(Some(vec![stats("a", 2 * SECOND, 0, 7)]), None);
    assert_eq!(anew.entries(Some(&alone))[0].usage.cpu, None);
}

#[test]
fn a_runtime_without_stats_still_has_pods() {
    let bare = sample(None, None);
    assert!(!bare.has_stats());
    let entries = bare.entries(Some(&bare));
    assert_eq!(entries[0].containers.len(), 2);
    assert_eq!(entries[0].usage, Usage::default());
}

#[test]
fn a_container_that_was_made_again_hides_the_one_before() {
    let mut twice = sample(None, None);
    twice.containers.push(container("c", "app", 3));
    twice.containers.push(container("d", "app", 2));
    assert_eq!(twice.latest().iter().filter(|own| own.id == "c").count(), 1);
    assert_eq!(twice.latest().len(), 2);
}

#[test]
fn what_uses_most_comes_first_and_the_unknown_last() {
    let entry = |name: &str, cpu, memory| Entry {
        name: name.into(),
        usage: Usage { cpu, memory, ..Usage::default() },
        ..Entry::default()
    };
    let mut entries = [entry("a", None, Some(9)), entry("b", Some(0), None), entry("c", Some(7), Some(1))];
    let order = |entries: &[Entry]| entries.iter().map(|own| own.name.clone()).collect::<String>();
    sort(&mut entries, Sort::Cpu);
    assert_eq!(order(&entries), "cba");
    sort(&mut entries, Sort::Memory);
    assert_eq!(order(&entries), "acb");
    sort(&mut entries, Sort::Net);
    assert_eq!(order(&entries), "abc");
    let all = [Sort::Cpu, Sort::Memory, Sort::Io, Sort::Net];
    assert_eq!(all.map(Sort::next), [Sort::Memory, Sort::Io, Sort::Net, Sort::Cpu]);
}
