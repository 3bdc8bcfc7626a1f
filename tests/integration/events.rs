//! GetContainerEvents: what a reader sees of the life of pods, whatever becomes of it, of others and of the daemon.

use std::collections::HashMap;
use std::time::Duration;

use podd::api::runtime_service_client::RuntimeServiceClient;
use podd::api::{
    self, ContainerEventResponse as Event, ContainerEventType as Kind, ContainerState, PodSandboxState,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec, eventually};

/// How many events may wait for a reader.
const WAITING_MAX: usize = 1024;
/// How many readers there may be.
const READERS_MAX: usize = 64;

/// A reader that keeps up, on a connection of its own.
struct Watcher {
    seen: std::sync::Arc<std::sync::Mutex<Vec<Event>>>,
    end: JoinHandle<Option<Status>>,
}

impl Watcher {
    async fn start(node: &Node) -> Self {
        let mut stream = subscribe(node).await.unwrap();
        let seen: std::sync::Arc<std::sync::Mutex<Vec<Event>>> = std::sync::Arc::default();
        let kept = std::sync::Arc::clone(&seen);
        let end = tokio::spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(event)) => kept.lock().unwrap().push(event),
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        });
        Self { seen, end }
    }

    /// What it has seen so far, once that is enough.
    async fn until(&self, what: &str, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        eventually(what, || async {
            let seen = self.seen.lock().unwrap();
            enough(&seen).then(|| seen.clone())
        })
        .await
    }

    async fn until_many(&self, count: usize) -> Vec<Event> {
        self.until(&format!("{count} events"), |seen| seen.len() >= count).await
    }

    /// Why its stream has ended.
    async fn end(self) -> Status {
        let end = tokio::time::timeout(Duration::from_secs(60), self.end).await;
        end.expect("the stream goes on").unwrap().expect("the stream ended without a status")
    }
}

async fn subscribe(node: &Node) -> Result<Streaming<Event>, Status> {
    // A small window, so that little is on its way to one that does not read.
    let endpoint = Endpoint::try_from(format!("unix://{}", node.names.socket().display())).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut client = RuntimeServiceClient::new(endpoint.connect().await.unwrap());
    Ok(client.get_container_events(api::GetEventsRequest {}).await?.into_inner())
}

/// One of the numbers in `crictl info`.
async fn number(node: &Node, name: &str) -> u64 {
    let answer =
        node.runtime.clone().status(api::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let numbers: serde_json::Value = serde_json::from_str(&answer.info["events"]).unwrap();
    numbers[name].as_u64().unwrap_or_else(|| panic!("{name}: {numbers}"))
}

/// The process that a verbose status names.
fn pid_in(info: &HashMap<String, String>) -> i32 {
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
}

fn kinds<'a>(events: &[Event], names: &HashMap<&str, &'a str>) -> Vec<(Kind, &'a str)> {
    events.iter().map(|event| (event.container_event_type(), names[event.container_id.as_str()])).collect()
}

fn of_container<'a>(events: &'a [Event], id: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.container_id == id).collect()
}

fn status_in<'a>(event: &'a Event, id: &str) -> Option<&'a api::ContainerStatus> {
    event.containers_statuses.iter().find(|status| status.id == id)
}

fn assert_times_grow(events: &[Event]) {
    assert!(events.is_sorted_by(|a, b| a.created_at < b.created_at), "times run backwards");
}

async fn start() -> (Node, Pod) {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    (node, pod)
}

#[tokio::test]
async fn a_pod_with_two_containers_is_told_from_its_birth_to_its_end_with_what_was_true_then() {
    let mut node = Node::start().await;
    let watcher = Watcher::start(&node).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let other = node.run_pod(PodSpec::new(&node, "other")).await;
    let a = node.create(&pod, ContainerSpec::waiting("a")).await;
    let b = node
        .create(&pod, ContainerSpec::script("b", "trap 'exit 7' TERM; while :; do sleep 0.1; done"))
        .await;
    node.start_container(&a).await.unwrap();
    node.start_container(&b).await.unwrap();
    node.stop_container(&b, 30).await.unwrap();
    node.stop_pod(&pod.id).await;
    node.remove_container(&a).await.unwrap();
    node.remove_pod(&pod.id).await;

    let events = watcher.until("the pod's removal", |seen| {
        seen.iter().any(|event| {
            event.container_id == pod.id && event.container_event_type() == Kind::ContainerDeletedEvent
        })
    });
    let events = events.await;
    assert_times_grow(&events);
    let names = HashMap::from([(&*pod.id, "pod"), (&*other.id, "other"), (&*a, "a"), (&*b, "b")]);
    let (created, started) = (Kind::ContainerCreatedEvent, Kind::ContainerStartedEvent);
    let (stopped, deleted) = (Kind::ContainerStoppedEvent, Kind::ContainerDeletedEvent);
    let expected = [
        (created, "pod"),
        (started, "pod"),
        (created, "other"),
        (started, "other"),
        (created, "a"),
        (created, "b"),
        (started, "a"),
        (started, "b"),
        (stopped, "b"),
        (stopped, "a"),
        (stopped, "pod"),
        (deleted, "a"),
        (deleted, "b"),
        (deleted, "pod"),
    ];
    assert_eq!(kinds(&events, &names), expected);

    for event in &events {
        let of_pod =
            event.pod_sandbox_status.as_ref().expect("the kubelet ignores an event without the pod's status");
        let config = if event.container_id == other.id { &other.config } else { &pod.config };
        assert_eq!(of_pod.metadata, config.metadata);
        assert!(event.container_id != other.id || event.containers_statuses.is_empty());
    }
    // The states of pod, a and b right after each event.
    use ContainerState::{
        ContainerCreated as Created, ContainerExited as Exited, ContainerRunning as Running,
    };
    let of_pod = Vec::from_iter(events.iter().filter(|event| event.container_id != other.id));
    let states = |event: &Event| {
        let ready = event.pod_sandbox_status.as_ref().unwrap().state() == PodSandboxState::SandboxReady;
        (ready, status_in(event, &a).map(|s| s.state()), status_in(event, &b).map(|s| s.state()))
    };
    let expected = [
        (true, None, None),
        (true, None, None),
        (true, Some(Created), None),
        (true, Some(Created), Some(Created)),
        (true, Some(Running), Some(Created)),
        (true, Some(Running), Some(Running)),
        (true, Some(Running), Some(Exited)),
        (true, Some(Exited), Some(Exited)),
        (false, Some(Exited), Some(Exited)),
        (false, None, Some(Exited)),
        (false, None, None),
        (false, None, None),
    ];
    assert_eq!(Vec::from_iter(of_pod.iter().map(|event| states(event))), expected);
    let network = of_pod[0].pod_sandbox_status.as_ref().unwrap().network.as_ref().unwrap();
    assert!(network.ip.starts_with(&node.names.subnet), "{network:?}");
    let exit = status_in(of_pod[6], &b).unwrap();
    assert_eq!((exit.exit_code, exit.reason.as_str()), (7, "Error"));
    assert!(exit.finished_at > 0 && exit.finished_at <= of_pod[6].created_at);

    // Whoever orders statuses by their time beside the events must not be misled.
    let request = api::PodSandboxStatusRequest { pod_sandbox_id: other.id.clone(), verbose: false };
    let status = node.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    assert!(status.timestamp > events.last().unwrap().created_at);
    node.finish().await;
}

/// The start of a process that ends at once returns when the end is known already.
#[tokio::test]
async fn a_container_that_ends_at_once_has_started_before_and_a_start_that_fails_has_not() {
    let (mut node, pod) = start().await;
    let watcher = Watcher::start(&node).await;
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(node.run(&pod, ContainerSpec::script(&format!("c{n}"), "exit 3")).await);
    }
    let events = watcher.until_many(3 * ids.len()).await;
    assert_times_grow(&events);
    for id in &ids {
        let of = of_container(&events, id);
        let kinds = Vec::from_iter(of.iter().map(|event| event.container_event_type()));
        let expected =
            [Kind::ContainerCreatedEvent, Kind::ContainerStartedEvent, Kind::ContainerStoppedEvent];
        assert_eq!(kinds, expected);
        let exit = status_in(of[2], id).unwrap();
        assert_eq!((exit.state(), exit.exit_code), (ContainerState::ContainerExited, 3));
        assert!(exit.started_at > 0, "the times are not complete: {exit:?}");
    }
    let spec =
        ContainerSpec::waiting("fails").with(|config| config.command = vec!["/no/such/program".to_owned()]);
    // One runtime finds out when it creates the container, the other when it starts it.
    if let Ok(id) = node.try_create(&pod, spec).await {
        node.start_container(&id).await.unwrap_err();
        let events = watcher.until("its end", |seen| of_container(seen, &id).len() >= 2).await;
        let of = of_container(&events, &id);
        assert_eq!(of[1].container_event_type(), Kind::ContainerStoppedEvent);
        let exit = status_in(of[1], &id).unwrap();
        assert_eq!((exit.exit_code, exit.reason.as_str()), (128, "StartError"));
        node.remove_container(&id).await.unwrap();
        let events = watcher.until("its removal", |seen| of_container(seen, &id).len() >= 3).await;
        assert_eq!(of_container(&events, &id).len(), 3, "its end is told twice");
    }
    node.finish().await;
}

#[tokio::test]
async fn kills_and_want_of_memory_are_told_as_what_they_are() {
    let (mut node, pod) = start().await;
    let watcher = Watcher::start(&node).await;
    let resources = api::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        ..Default::default()
    };
    let greedy = ContainerSpec::script("greedy", "exec tail -c 200000000 /dev/zero")
        .with(|config| config.linux.as_mut().unwrap().resources = Some(resources));
    let greedy = node.run(&pod, greedy).await;
    let killed =
        node.run(&pod, ContainerSpec::script("killed", "trap '' TERM; while :; do sleep 0.1; done")).await;
    node.stop_container(&killed, 0).await.unwrap();
    for (id, reason) in [(&greedy, "OOMKilled"), (&killed, "Error")] {
        let stopped = |seen: &[Event]| of_container(seen, id).len() >= 3;
        let events = watcher.until("its end", stopped).await;
        let last = of_container(&events, id)[2];
        assert_eq!(last.container_event_type(), Kind::ContainerStoppedEvent);
        let exit = status_in(last, id).unwrap();
        assert_eq!((exit.exit_code, exit.reason.as_str()), (137, reason));
    }
    node.finish().await;
}

/// B8
#[tokio::test]
async fn a_pod_whose_pause_container_ends_is_told_as_stopped_once() {
    let mut node = Node::start().await;
    let spec = PodSpec::new(&node, "shared").with(|config| {
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options = Some(api::NamespaceOption::default());
    });
    let pod = node.run_pod(spec).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let watcher = Watcher::start(&node).await;
    let request = api::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let info = node.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    kill_process(Pid::from_raw(pid_in(&info)).unwrap(), Signal::KILL).unwrap();
    let events = watcher.until_many(2).await;
    let of_pod = of_container(&events, &pod.id)[0];
    assert_eq!(of_pod.container_event_type(), Kind::ContainerStoppedEvent);
    assert_eq!(of_pod.pod_sandbox_status.as_ref().unwrap().state(), PodSandboxState::SandboxNotready);
    assert_eq!(of_container(&events, &id)[0].container_event_type(), Kind::ContainerStoppedEvent);
    node.stop_pod(&pod.id).await;
    node.remove_pod(&pod.id).await;
    let events = watcher.until_many(4).await;
    let deleted = events[2..].iter().map(|event| event.container_event_type());
    assert!(deleted.eq([Kind::ContainerDeletedEvent; 2]), "its end is told twice");
    node.finish().await;
}

/// B16
#[tokio::test]
async fn what_ended_while_the_daemon_was_down_is_told_to_every_reader_that_comes_again() {
    let (mut node, pod) = start().await;
    let spec = ContainerSpec::script("c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done");
    let log = node.log_path(&pod, "c.log");
    let ends = node.run(&pod, spec).await;
    let lives = node.run(&pod, ContainerSpec::waiting("lives")).await;
    crate::common::file_text(&log, |text| text.contains("ready")).await;
    let request = api::ContainerStatusRequest { container_id: ends.clone(), verbose: true };
    let info = node.runtime.container_status(request).await.unwrap().into_inner().info;
    let pid = pid_in(&info);
    let before = Watcher::start(&node).await;
    node.kill9();
    before.end().await;

    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let exit_file = node.names.run_dir().join("exits").join(&ends);
    crate::common::file_text(&exit_file, |text| !text.is_empty()).await;
    let down_until = podd::pod::now();
    node.start_again().await;
    for _ in 0..2 {
        let again = Watcher::start(&node).await;
        let events = again.until_many(1).await;
        assert_eq!(
            (events[0].container_event_type(), &events[0].container_id),
            (Kind::ContainerStoppedEvent, &ends)
        );
        let exit = status_in(&events[0], &ends).unwrap();
        assert_eq!((exit.exit_code, exit.state()), (5, ContainerState::ContainerExited));
        assert!(exit.finished_at < down_until && events[0].created_at > down_until);
        let other = status_in(&events[0], &lives).expect("the statuses of all containers");
        assert_eq!(other.state(), ContainerState::ContainerRunning);
        assert_eq!(events[0].pod_sandbox_status.as_ref().unwrap().metadata, pod.config.metadata);
    }
    // And life goes on, for containers of the daemon before, too.
    let again = Watcher::start(&node).await;
    node.stop_container(&lives, 30).await.unwrap();
    let events = again.until_many(2).await;
    assert_eq!(
        (events[1].container_event_type(), &events[1].container_id),
        (Kind::ContainerStoppedEvent, &lives)
    );
    assert_times_grow(&events);
    node.finish().await;
}

/// B22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b22_a_reader_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let node = Node::start().await;
    let watcher = Watcher::start(&node).await;
    let mut slow = subscribe(&node).await.unwrap();
    // Beyond the bound there is what is on its way to the slow one, a window of 64 KiB and buffers: so that these are few
    // events, they are large.
    let pods = (WAITING_MAX + 400) / 4;
    let spec = |n: usize| {
        PodSpec::new(&node, &format!("p{n}")).host_network().with(|config| {
            config.annotations.insert("tests/large".to_owned(), "x".repeat(2000));
        })
    };
    let lives = (0..8).map(|lane| {
        let mut client = node.runtime.clone();
        let specs = Vec::from_iter((lane..pods).step_by(8).map(spec));
        async move {
            for spec in specs {
                let request =
                    api::RunPodSandboxRequest { config: Some(spec.0), runtime_handler: String::new() };
                let id = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
                let request = api::RemovePodSandboxRequest { pod_sandbox_id: id };
                client.remove_pod_sandbox(request).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(lives).await;
    let events = watcher.until_many(4 * pods).await;
    assert_times_grow(&events);
    let mut of_pods: HashMap<&str, Vec<Kind>> = HashMap::new();
    for event in &events {
        of_pods.entry(&event.container_id).or_default().push(event.container_event_type());
    }
    let life = [
        Kind::ContainerCreatedEvent,
        Kind::ContainerStartedEvent,
        Kind::ContainerStoppedEvent,
        Kind::ContainerDeletedEvent,
    ];
    assert!(of_pods.len() == pods && of_pods.values().all(|kinds| *kinds == life));
    assert_eq!((number(&node, "cutOff").await, number(&node, "readers").await), (1, 1));
    assert_eq!(number(&node, "waiting").await, 0, "something is kept for nobody");

    // What had been on its way comes in order and without a gap, and then the reason.
    let mut had = 0;
    let end = loop {
        match slow.message().await {
            Ok(Some(event)) => {
                assert_eq!(event, events[had]);
                had += 1;
            }
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert!(had < events.len() - WAITING_MAX, "{had} of {}", events.len());
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert!(end.message().contains("too slowly") && end.message().contains("list"), "{end}");
    drop(watcher);
    node.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_and_there_are_as_many_as_there_may_be() {
    let (mut node, pod) = start().await;
    let gone = || async { (number(&node, "readers").await == 0).then_some(()) };
    let told = number(&node, "told").await;
    let streams = futures_util::future::join_all((0..READERS_MAX).map(|_| subscribe(&node))).await;
    assert!(streams.iter().all(Result::is_ok));
    let refused = subscribe(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains(&READERS_MAX.to_string()), "{refused}");
    drop(streams);
    eventually("no readers", gone).await;
    assert_eq!(number(&node, "told").await, told, "events are made for nobody");
    let id = node.run(&pod, ContainerSpec::script("c", "exit 0")).await;
    node.wait_for_exit(&id).await;
    assert_eq!(
        (number(&node, "told").await, number(&node, "waiting").await),
        (told, 0),
        "events are made for nobody"
    );

    let watcher = Watcher::start(&node).await;
    let id = node.create(&pod, ContainerSpec::waiting("new")).await;
    let events = watcher.until_many(1).await;
    assert_eq!(events[0].container_id, id, "a new reader gets what was before it came");
    node.finish().await;
}

#[tokio::test]
async fn a_daemon_that_stops_tells_the_last_of_it_and_ends_the_stream() {
    let (mut node, pod) = start().await;
    let spec = ContainerSpec::script("c", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done");
    let log = node.log_path(&pod, "c.log");
    let id = node.run(&pod, spec).await;
    crate::common::file_text(&log, |text| text.contains("ready")).await;
    let watcher = Watcher::start(&node).await;
    let mut client = node.runtime.clone();
    let request = api::StopContainerRequest { container_id: id.clone(), timeout: 2 };
    let stop = tokio::spawn(async move { client.stop_container(request).await });
    crate::common::file_text(&log, |text| text.contains("asked")).await;
    assert!(node.terminate().await.success());
    stop.await.unwrap().unwrap();
    let events = watcher.until_many(1).await;
    assert_eq!(
        (events[0].container_event_type(), &events[0].container_id),
        (Kind::ContainerStoppedEvent, &id)
    );
    let end = watcher.end().await;
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    assert!(end.message().contains("stopping"), "{end}");
    node.start_again().await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_containers_of_a_pod_are_told_in_order_with_all_statuses() {
    const MANY: usize = 100;
    let (mut node, pod) = start().await;
    let watcher = Watcher::start(&node).await;
    let mut ids = Vec::new();
    for n in 0..MANY {
        ids.push(node.create(&pod, ContainerSpec::waiting(&format!("c{n}"))).await);
    }
    let starts = ids.iter().map(|id| {
        let (mut client, container_id) = (node.runtime.clone(), id.clone());
        async move { client.start_container(api::StartContainerRequest { container_id }).await.unwrap() }
    });
    futures_util::future::join_all(starts).await;
    node.stop_pod(&pod.id).await;
    let events = watcher.until_many(3 * MANY + 1).await;
    assert_times_grow(&events);
    for id in &ids {
        let kinds =
            Vec::from_iter(of_container(&events, id).iter().map(|event| event.container_event_type()));
        let expected =
            [Kind::ContainerCreatedEvent, Kind::ContainerStartedEvent, Kind::ContainerStoppedEvent];
        assert_eq!(kinds, expected);
    }
    // Each event differs from the one before it in the one container that it is about.
    let count =
        |event: &Event, state| event.containers_statuses.iter().filter(|s| s.state() == state).count();
    for pair in events[MANY..3 * MANY].windows(2) {
        assert!(pair.iter().all(|event| event.containers_statuses.len() == MANY));
        let exited = |event| count(event, ContainerState::ContainerExited);
        let is_exit = pair[1].container_event_type() == Kind::ContainerStoppedEvent;
        assert_eq!(exited(&pair[1]), exited(&pair[0]) + usize::from(is_exit));
    }
    assert_eq!(events[3 * MANY].container_id, pod.id, "the pod ends after all that was in it");
    node.finish().await;
}
