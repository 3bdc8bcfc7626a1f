//! All pods as a table, the newest first.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt};
use podd::api;

use crate::cli::client::Client;
use crate::cli::table::{SHORT_ID, age, table};

/// How many pods are asked for their addresses at a time.
const PARALLEL: usize = 8;

/// The table.
pub(super) async fn list(client: &Client) -> anyhow::Result<String> {
    let mut first = client.clone();
    let (mut pods, containers) = (first.pods().await?, first.containers().await?);
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    let rows = futures_util::stream::iter(&pods).map(|pod| {
        let (mut client, containers) = (client.clone(), &containers);
        async move {
            let status = client.pod_status(&pod.id, false).await?.and_then(|answer| answer.status);
            anyhow::Ok(row(pod, status.as_ref(), containers, podd::pod::now()))
        }
    });
    let rows: Vec<_> = rows.buffered(PARALLEL).try_collect().await?;
    let titles = ["POD ID", "NAME", "NAMESPACE", "STATE", "AGE", "IP", "CONTAINERS", "RESTARTS"];
    Ok(table(&titles, &rows))
}

fn row(
    pod: &api::PodSandbox,
    status: Option<&api::PodSandboxStatus>,
    containers: &[api::Container],
    now: i64,
) -> Vec<String> {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let counts = Counts::of(&pod.id, containers);
    vec![
        pod.id.chars().take(SHORT_ID).collect(),
        metadata.name,
        metadata.namespace,
        state(pod.state()).to_owned(),
        age(now, pod.created_at),
        addresses(status),
        format!("{}/{}", counts.running, counts.all),
        counts.restarts.to_string(),
    ]
}

/// A pod's state in words.
pub(super) fn state(state: api::PodSandboxState) -> &'static str {
    match state {
        api::PodSandboxState::SandboxReady => "ready",
        api::PodSandboxState::SandboxNotready => "not ready",
    }
}

/// All addresses of a pod; one on the host's network has none of its own.
pub(super) fn addresses(status: Option<&api::PodSandboxStatus>) -> String {
    let Some(network) = status.and_then(|status| status.network.as_ref()) else { return "-".to_owned() };
    let more = network.additional_ips.iter().map(|more| more.ip.as_str());
    let all: Vec<_> = [network.ip.as_str()].into_iter().chain(more).filter(|ip| !ip.is_empty()).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

/// The containers of one pod, each name counted once.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    running: usize,
    all: usize,
    /// How often one has taken the place of another: the sum of the last attempts.
    restarts: u64,
}

impl Counts {
    fn of(pod: &str, containers: &[api::Container]) -> Self {
        let own = || containers.iter().filter(|container| container.pod_sandbox_id == pod);
        let mut attempts: HashMap<&str, u32> = HashMap::new();
        for metadata in own().filter_map(|container| container.metadata.as_ref()) {
            let last = attempts.entry(&metadata.name).or_default();
            *last = (*last).max(metadata.attempt);
        }
        let running = own().filter(|own| own.state() == api::ContainerState::ContainerRunning);
        Self {
            running: running.count(),
            all: attempts.len(),
            restarts: attempts.values().map(|attempt| u64::from(*attempt)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(pod: &str, name: &str, attempt: u32, state: api::ContainerState) -> api::Container {
        api::Container {
            pod_sandbox_id: pod.into(),
            metadata: Some(api::ContainerMetadata { name: name.into(), attempt }),
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_name_counts_once_with_its_last_attempt() {
        use api::ContainerState::{ContainerExited, ContainerRunning};
        let containers = [
            container("p", "app", 1, ContainerExited),
            container("p", "app", 2, ContainerRunning),
            container("p", "side", 0, ContainerExited),
            container("other", "app", 9, ContainerRunning),
        ];
        assert_eq!(Counts::of("p", &containers), Counts { running: 1, all: 2, restarts: 2 });
        assert_eq!(Counts::of("none", &containers), Counts { running: 0, all: 0, restarts: 0 });
    }

    #[test]
    fn a_pod_has_all_its_addresses_or_none() {
        let network = |ip: &str, more: &[&str]| api::PodSandboxStatus {
            network: Some(api::PodSandboxNetworkStatus {
                ip: ip.into(),
                additional_ips: more.iter().map(|ip| api::PodIp { ip: (*ip).into() }).collect(),
            }),
            ..Default::default()
        };
        assert_eq!(addresses(Some(&network("10.1.0.5", &["fd00::5"]))), "10.1.0.5,fd00::5");
        assert_eq!(addresses(Some(&network("", &[]))), "-");
        assert_eq!(addresses(None), "-");
    }
}
