//! Pulls under way and their sums, as `podd images` and `crictl info` show them.

use podd::api;
use serde_json::{Value, json};

use crate::common::front::{Behaviour, Front};
use crate::common::tar::Entry;
use crate::common::{ImageBuilder, Node, eventually, random_tag, registry};
use crate::images_archive::podd_images_ok;

/// What `crictl info` shows; it takes a list for a text.
async fn info(node: &Node) -> Value {
    let mut info: Value = serde_json::from_str(&node.crictl_ok(&["info"]).await).unwrap();
    info["pulls"] = serde_json::from_str(info["pulls"].as_str().unwrap()).unwrap();
    info
}

fn listed(node: &Node) -> Value {
    serde_json::from_str(&podd_images_ok(node, &["--output", "json"])).unwrap()
}

/// The size of a blob, as the registry says.
async fn size(front: &Front, repository: &str, digest: &str) -> u64 {
    let url = format!("http://{}/v2/{repository}/blobs/{digest}", front.host);
    let answer = registry::client().head(url).send().await.unwrap();
    answer.headers()["content-length"].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_pull_under_way_is_seen_and_afterwards_counted() {
    let mut node = Node::start().await;
    let noise: String = (0..40_000).map(|_| random_tag()).collect();
    let image = ImageBuilder::new().layer(&[Entry::file("noise", 0o644, noise)]);
    let pushed = image.push(registry::shared().await, "test/progress", &random_tag()).await;
    let front = Front::new(Behaviour::Holds).await;
    let name = pushed.via(&front.host).reference;
    let layer = size(&front, "test/progress", &pushed.layers[0]).await;
    let before = info(&node).await;
    assert_eq!(before["pulls"], json!([]));
    assert_eq!(before["pullTotals"], json!({ "succeeded": 0, "failed": 0, "bytes": 0 }));

    let (mut client, image) = (node.image.clone(), name.clone());
    let image = Some(api::ImageSpec { image, ..Default::default() });
    let request = api::PullImageRequest { image, ..Default::default() };
    let pull = tokio::spawn(async move { client.pull_image(request).await });
    let seen = eventually("half of the layer", || async {
        let seen = info(&node).await["pulls"].take();
        (seen[0]["bytes"] == layer / 2).then_some(seen)
    })
    .await;
    assert_eq!((&seen[0]["image"], seen.as_array().unwrap().len()), (&json!(name), 1));
    assert_eq!(seen[0]["stage"], "unpacking");
    assert_eq!(seen[0]["layers"], json!({ "done": 0, "total": 1 }));
    assert_eq!(seen[0]["total_bytes"], layer);
    let own = listed(&node);
    assert_eq!(own["images"], json!([]));
    for key in ["image", "began", "stage", "layers", "bytes", "total_bytes"] {
        assert_eq!(own["pulls"][0][key], seen[0][key], "{key}");
    }
    let table = podd_images_ok(&node, &[]);
    let row = table.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{table}"));
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[1..4], ["unpacking", "0/1", if layer % 2 == 0 { "50%" } else { "49%" }], "{table}");

    front.release();
    pull.await.unwrap().unwrap();
    let after = info(&node).await;
    assert_eq!(after["pulls"], json!([]));
    assert_eq!(after["pullTotals"], json!({ "succeeded": 1, "failed": 0, "bytes": layer }));
    assert_eq!(listed(&node)["pulls"], json!([]));
    node.pull(&format!("{}/test/nothing:1", front.host)).await.unwrap_err();
    assert_eq!(info(&node).await["pullTotals"]["failed"], 1);
    node.finish().await;
}
