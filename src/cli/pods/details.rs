//! One pod: its facts, its containers, and the timeline of its start.

use std::collections::HashMap;

use podd::api;
use podd::api::NamespaceMode;

use super::chart;
use super::list::{addresses, state};
use super::timeline;
use crate::cli::client::Client;
use crate::cli::table::{SHORT_ID, age, bytes, printable, table};

/// How wide a chart is where no terminal says so.
const WIDTH: usize = 100;

/// All of it as text.
pub(super) async fn details(
    client: &mut Client,
    pod: &api::PodSandbox,
    all_stages: bool,
) -> anyhow::Result<String> {
    let answer = client.pod_status(&pod.id, true).await?;
    let Some(answer) = answer else { anyhow::bail!("the pod {} has gone meanwhile", pod.id) };
    let mut containers = client.containers().await?;
    containers.retain(|container| container.pod_sandbox_id == pod.id);
    containers.sort_by_key(|container| container.created_at);
    let stats = client.container_stats().await?.unwrap_or_default();
    let stats: HashMap<_, _> =
        stats.iter().filter_map(|stats| Some((stats.attributes.as_ref()?.id.as_str(), stats))).collect();
    let mut rows = Vec::new();
    for container in &containers {
        let status = client.container_status(&container.id).await?;
        let own = stats.get(container.id.as_str()).copied();
        rows.push(row(container, status.as_ref(), own, podd::pod::now()));
    }
    let mut text = facts(pod, answer.status.as_ref(), podd::pod::now());
    text.push('\n');
    let titles = ["CONTAINER", "ID", "STATE", "AGE", "RESTARTS", "CPU TIME", "MEMORY", "IMAGE"];
    text.push_str(&table(&titles, &rows));
    text.push('\n');
    match answer.info.get(timeline::KEY).map(|told| timeline::read(told)) {
        None => text.push_str("This runtime tells nothing of where the start of a pod went.\n"),
        Some(Err(why)) => {
            text.push_str(&format!("The timeline of its start cannot be read: {}\n", printable(&why)))
        }
        Some(Ok(stages)) => text.push_str(&chart::chart(&stages, columns(), all_stages)),
    }
    Ok(text)
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(WIDTH)
}

/// Name and value in two columns; what is empty is left out.
fn facts(pod: &api::PodSandbox, status: Option<&api::PodSandboxStatus>, now: i64) -> String {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let handler = if pod.runtime_handler.is_empty() { "the default" } else { &pod.runtime_handler };
    let options = status.and_then(|status| status.linux.as_ref()?.namespaces.as_ref()?.options.as_ref());
    let facts = [
        ("Pod", format!("{}/{}", metadata.namespace, metadata.name)),
        ("ID", pod.id.clone()),
        ("UID", metadata.uid),
        ("State", format!("{}, for {}", state(pod.state()), age(now, pod.created_at))),
        ("Attempt", if metadata.attempt == 0 { String::new() } else { metadata.attempt.to_string() }),
        ("Addresses", addresses(status)),
        ("Runtime", handler.to_owned()),
        ("Of the node", options.map(of_the_node).unwrap_or_default()),
        ("Labels", pairs(&pod.labels)),
    ];
    let lines = facts.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:<13}{}\n", printable(value))).collect()
}

/// The namespaces that the pod shares with the node.
fn of_the_node(options: &api::NamespaceOption) -> String {
    let modes = [("network", options.network()), ("pid", options.pid()), ("ipc", options.ipc())];
    let shared = modes.into_iter().filter(|(_, mode)| *mode == NamespaceMode::Node);
    shared.map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// Labels but those that repeat the pod's name, by name.
fn pairs(labels: &HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = labels
        .iter()
        .filter(|(name, _)| !name.starts_with("io.kubernetes.pod."))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.sort();
    pairs.join(" ")
}

fn row(
    container: &api::Container,
    status: Option<&api::ContainerStatus>,
    stats: Option<&api::ContainerStats>,
    now: i64,
) -> Vec<String> {
    let metadata = container.metadata.clone().unwrap_or_default();
    let unknown = || "-".to_owned();
    let used = stats.and_then(|stats| stats.cpu.as_ref()?.usage_core_nano_seconds.as_ref());
    let memory = stats.and_then(|stats| stats.memory.as_ref()?.working_set_bytes.as_ref());
    let image = status.and_then(|status| status.image.as_ref()).or(container.image.as_ref());
    vec![
        metadata.name,
        container.id.chars().take(SHORT_ID).collect(),
        status.map_or_else(unknown, ended_how),
        age(now, container.created_at),
        metadata.attempt.to_string(),
        used.map_or_else(unknown, |used| seconds(used.value)),
        memory.map_or_else(unknown, |memory| bytes(memory.value)),
        image.map(|image| image.image.clone()).unwrap_or_default(),
    ]
}

/// A container's state, and of one that has ended how.
fn ended_how(status: &api::ContainerStatus) -> String {
    match status.state() {
        api::ContainerState::ContainerCreated => "created".to_owned(),
        api::ContainerState::ContainerRunning => "running".to_owned(),
        api::ContainerState::ContainerUnknown => "unknown".to_owned(),
        api::ContainerState::ContainerExited => match (status.reason.as_str(), status.exit_code) {
            ("Completed" | "", code) => format!("exited {code}"),
            (reason, code) => format!("{reason} {code}"),
        },
    }
}

fn seconds(nanos: u64) -> String {
    match nanos {
        0..10_000_000_000 => format!("{:.2}s", nanos as f64 / 1e9),
        _ => format!("{}s", nanos / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_aligned_and_harmless_and_the_empty_ones_are_left_out() {
        let pod = api::PodSandbox {
            id: "abc".into(),
            metadata: Some(api::PodSandboxMetadata {
                name: "web\u{1b}[31m".into(),
                namespace: "default".into(),
                ..Default::default()
            }),
            created_at: 1,
            labels: HashMap::from([
                ("b".to_owned(), "2".to_owned()),
                ("a".to_owned(), "1".to_owned()),
                ("io.kubernetes.pod.name".to_owned(), "web".to_owned()),
            ]),
            ..Default::default()
        };
        let options = api::NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        let namespaces = Some(api::Namespace { options: Some(options) });
        let linux = Some(api::LinuxPodSandboxStatus { namespaces });
        let status = api::PodSandboxStatus { linux, ..Default::default() };
        let text = facts(&pod, Some(&status), 61_000_000_001);
        let expected = "Pod          default/web?[31m\nID           abc\nState        ready, for 61s\n\
                        Addresses    -\nRuntime      the default\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("Labels       a=1 b=2\n"), "{text}");
        assert!(text.contains("Of the node  network"), "{text}");
    }

    #[test]
    fn a_container_says_how_it_ended() {
        let exited = |reason: &str, exit_code| api::ContainerStatus {
            state: api::ContainerState::ContainerExited.into(),
            reason: reason.into(),
            exit_code,
            ..Default::default()
        };
        assert_eq!(ended_how(&exited("Completed", 0)), "exited 0");
        assert_eq!(ended_how(&exited("OOMKilled", 137)), "OOMKilled 137");
        assert_eq!(ended_how(&api::ContainerStatus::default()), "created");
    }
}
