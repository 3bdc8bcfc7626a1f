//! `podd pods`: the pods of a node, and for one of them all that an operator asks first, with where its start went.
//!
//! Speaks the CRI alone. The timeline of a start is in the verbose PodSandboxStatus of podd, key "timeline"; other runtimes
//! have none.

mod chart;
mod details;
mod list;
mod timeline;

use std::path::PathBuf;

use clap::Args;
use podd::api;

use super::client::Client;
use crate::Sources;

/// The arguments of `podd pods`.
#[derive(Args)]
pub(crate) struct PodsArgs {
    #[command(flatten)]
    sources: Sources,
    /// The runtime's socket; any CRI runtime's will do. The configuration's, if not given.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Show every stage of its start, however short.
    #[arg(long, requires = "pod")]
    stages: bool,
    /// Show this pod alone: an ID or the beginning of one, a name, or namespace/name.
    #[arg(value_name = "POD")]
    pod: Option<String>,
}

/// Does what `podd pods` was asked to do.
pub(crate) async fn pods(args: PodsArgs) -> anyhow::Result<()> {
    let socket = super::socket(args.socket, args.sources)?;
    let mut client = Client::connect(&socket).await?;
    let text = match args.pod {
        None => list::list(&client).await?,
        Some(wanted) => {
            let pods = client.pods().await?;
            let pod = find(&pods, &wanted)?;
            details::details(&mut client, pod, args.stages).await?
        }
    };
    print!("{text}");
    Ok(())
}

/// The pod that is meant. Of several attempts of one pod it is the last.
fn find<'a>(pods: &'a [api::PodSandbox], wanted: &str) -> anyhow::Result<&'a api::PodSandbox> {
    if let Some(pod) = pods.iter().find(|pod| pod.id == wanted) {
        return Ok(pod);
    }
    let name = |pod: &api::PodSandbox| {
        let metadata = pod.metadata.clone().unwrap_or_default();
        (metadata.namespace, metadata.name)
    };
    let named = |pod: &&api::PodSandbox| {
        let (namespace, name) = name(pod);
        name == wanted || format!("{namespace}/{name}") == wanted
    };
    let mut found: Vec<_> = pods.iter().filter(named).collect();
    if found.is_empty() {
        found = pods.iter().filter(|pod| !wanted.is_empty() && pod.id.starts_with(wanted)).collect();
    }
    let Some(last) = found.iter().max_by_key(|pod| pod.created_at) else {
        anyhow::bail!("there is no pod with the name or ID {wanted:?}; podd pods lists them");
    };
    if found.iter().any(|pod| name(pod) != name(last)) {
        let names: Vec<_> =
            found.iter().map(|pod| name(pod)).map(|(space, name)| format!("{space}/{name}")).collect();
        anyhow::bail!("{wanted:?} stands for several pods: {:?}", names.join(", "));
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str, namespace: &str, name: &str, created_at: i64) -> api::PodSandbox {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let metadata = api::PodSandboxMetadata { namespace, name, ..Default::default() };
        api::PodSandbox { id: id.into(), metadata: Some(metadata), created_at, ..Default::default() }
    }

    #[test]
    fn a_pod_is_found_by_id_prefix_and_name() {
        let pods = [
            pod("abc1", "default", "web", 1),
            pod("abd2", "default", "web", 2),
            pod("abe3", "other", "web", 3),
            pod("abf4", "other", "db", 4),
        ];
        let id = |wanted: &str| find(&pods, wanted).map(|pod| pod.id.as_str()).map_err(|e| e.to_string());
        assert_eq!(id("abc1").unwrap(), "abc1");
        assert_eq!(id("abf").unwrap(), "abf4");
        assert_eq!(id("db").unwrap(), "abf4");
        assert_eq!(id("default/web").unwrap(), "abd2", "the last attempt");
        assert!(id("web").unwrap_err().contains("default/web, default/web, other/web"));
        assert!(id("ab").unwrap_err().contains("several pods"));
        for nothing in ["", "zz", "default/nothing"] {
            assert!(id(nothing).unwrap_err().contains("no pod"), "{nothing}");
        }
    }
}
