//! The pulls under way, as the daemon tells them: in the verbose information of RuntimeService.Status, key "pulls".

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use podd::api::StatusRequest;
use podd::api::runtime_service_client::RuntimeServiceClient;
use serde::{Deserialize, Serialize};
use tonic::transport::Endpoint;

use super::table::{bytes, table};

/// A daemon that lives answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

const KEY: &str = "pulls";

/// A pull under way. What this daemon does not tell, because it is older or newer, is left out.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Pull {
    image: String,
    began: serde_json::Value,
    stage: String,
    layers: Layers,
    bytes: u64,
    total_bytes: u64,
    bytes_per_second: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Layers {
    done: u64,
    total: u64,
}

/// What the daemon at `socket` is pulling; nothing where there is no daemon.
pub(super) async fn under_way(socket: &Path) -> anyhow::Result<Vec<Pull>> {
    if !socket.exists() {
        return Ok(Vec::new());
    }
    let asked = || format!("asking the daemon at {} for its pulls", socket.display());
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).with_context(asked)?;
    // A socket that nobody listens on is what a daemon that ended left.
    let Ok(channel) = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE).connect().await else {
        return Ok(Vec::new());
    };
    let request = StatusRequest { verbose: true };
    let status = RuntimeServiceClient::new(channel).status(request).await.with_context(asked)?.into_inner();
    let Some(pulls) = status.info.get(KEY) else { return Ok(Vec::new()) };
    serde_json::from_str(pulls).with_context(|| format!("reading what the daemon says of its {KEY}"))
}

/// The pulls as a table.
pub(super) fn pull_table(pulls: &[Pull]) -> String {
    let rows: Vec<_> = pulls.iter().map(row).collect();
    table(&["PULLING", "STAGE", "LAYERS", "DONE", "SPEED"], &rows)
}

fn row(pull: &Pull) -> Vec<String> {
    let done = match pull.total_bytes {
        0 => String::new(),
        total => format!("{}%", u128::from(pull.bytes.min(total)) * 100 / u128::from(total)),
    };
    let layers = format!("{}/{}", pull.layers.done, pull.layers.total);
    vec![pull.image.clone(), pull.stage.clone(), layers, done, format!("{}/s", bytes(pull.bytes_per_second))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_tells_becomes_a_row() {
        let told = r#"[{"image":"r.io/a:1","began":"2026-01-01T00:00:00Z","stage":"unpacking","layers":{"done":3,"total":8},
            "bytes":450,"total_bytes":1000,"bytes_per_second":210000000,"new":1},{"image":"b"}]"#;
        let pulls: Vec<Pull> = serde_json::from_str(told).unwrap();
        let shown = pull_table(&pulls);
        let words: Vec<_> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["r.io/a:1", "unpacking", "3/8", "45%", "210MB/s"]);
        assert_eq!(row(&pulls[1])[3], "");
    }
}
