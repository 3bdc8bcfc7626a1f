//! The image store beside tools: `podd images check` and its repair with a daemon running, and layers of pulls that fail.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use podd::api;
use tokio::process::Command;

use crate::common::front::{Behaviour, Front};
use crate::common::tar::Entry;
use crate::common::{ContainerSpec, ImageBuilder, Node, PodSpec, busybox, eventually, random_tag, registry};

/// Runs `podd images check` as an operator would.
async fn check(node: &Node, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(&node.names.binary);
    command.args(["images", "--config"]).arg(node.names.config_file()).arg("check").args(arguments);
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(matches!(status.code(), Some(0 | 1)), "{text}");
    (status.success(), text)
}

/// The file of that name in whichever layer has it.
fn in_layers(node: &Node, file: &str) -> PathBuf {
    let layers = fs::read_dir(node.names.root().join("layers")).unwrap();
    let mut paths = layers.map(|layer| layer.unwrap().path().join("diff").join(file));
    paths.find(|path| path.exists()).unwrap()
}

fn retired(node: &Node) -> usize {
    fs::read_dir(node.names.root().join("retired")).unwrap().count()
}

#[tokio::test]
async fn a_broken_layer_is_found_and_replaced_under_a_running_container() {
    let mut node = Node::start().await;
    let image =
        busybox().layer(&[Entry::file("word", 0o644, "whole"), Entry::file("tmp/implied", 0o644, "x")]);
    let pushed = image.push(registry::shared().await, "test/check", &random_tag()).await;
    let id = node.pull(&pushed.reference).await.unwrap();
    let (clean, text) = check(&node, &[]).await;
    assert!(clean && text.contains("3 layers checked, 0 broken"), "{text}");
    let pod = node.run_pod(PodSpec::new(&node, "check")).await;
    let spec = ContainerSpec::waiting("c")
        .with(|config| config.image = Some(api::ImageSpec { image: id.clone(), ..Default::default() }));
    let container = node.run(&pod, spec).await;

    fs::write(in_layers(&node, "word"), "BROKEN").unwrap();
    let (clean, text) = check(&node, &[&pushed.reference]).await;
    assert!(!clean && text.contains("\"/word\": has 6 bytes instead of 5"), "{text}");
    let (clean, text) = check(&node, &["--repair"]).await;
    assert!(clean && text.contains("replaced; containers that run on the broken files keep them"), "{text}");
    assert_eq!(fs::read_to_string(in_layers(&node, "word")).unwrap(), "whole");
    let (clean, text) = check(&node, &[]).await;
    assert!(clean, "{text}");
    assert_eq!((retired(&node), node.exec_ok(&container, "cat /word").await), (1, "BROKEN".to_owned()));
    let fresh = ContainerSpec::script("d", "cat /word; stat -c %a /tmp")
        .with(|config| config.image = Some(api::ImageSpec { image: id, ..Default::default() }));
    assert_eq!(node.run_to_end(&pod, fresh).await, (0, "whole1777\n".to_owned()));
    node.remove_pod(&pod.id).await;
    eventually("the retired layer is deleted", || async { (retired(&node) == 0).then_some(()) }).await;
    node.finish().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_set_aside_without_a_restart() {
    let mut node = Node::start().await;
    let pushed = busybox().push(registry::shared().await, "test/record", &random_tag()).await;
    let id = node.pull(&pushed.reference).await.unwrap();
    let record = node.names.root().join(format!("images/{}.json", id.trim_start_matches("sha256:")));
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"config\": \"", "\"config\": \"AAAA")).unwrap();
    let (clean, text) = check(&node, &["--repair"]).await;
    assert!(clean && text.contains("set aside as") && text.contains(&pushed.reference), "{text}");
    assert_eq!(node.image_status(&pushed.reference).await, None, "the daemon has noticed");
    node.pull(&pushed.reference).await.unwrap();
    assert!(check(&node, &[]).await.0);
    fs::remove_file(record.with_extension("json.damaged")).unwrap();
    node.finish().await;
}

#[tokio::test]
async fn a_check_needs_no_daemon() {
    let mut node = Node::start().await;
    let pushed = busybox().push(registry::shared().await, "test/offline", &random_tag()).await;
    node.pull(&pushed.reference).await.unwrap();
    node.kill9();
    fs::remove_file(in_layers(&node, "etc/passwd")).unwrap();
    let (clean, text) = check(&node, &[]).await;
    assert!(!clean && text.contains("\"/etc/passwd\": is missing"), "{text}");
    let (clean, text) = check(&node, &["--repair"]).await;
    assert!(clean && text.contains(": replaced"), "{text}");
    assert!(check(&node, &[]).await.0);
    node.start_again().await;
    assert!(node.image_status(&pushed.reference).await.is_some());
    node.finish().await;
}

/// What a pull has finished before it fails, or before its daemon is killed, is not fetched again.
#[tokio::test]
async fn finished_layers_of_a_failed_pull_are_used_by_the_next() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let tag = random_tag();
    let own = |name: &str| Entry::file(name, 0o644, format!("{name} {tag}"));
    let good = ImageBuilder::new().layer(&[own("a")]).layer(&[own("b")]);
    // The last to be done, since it is large; what is not done when it fails is done by the next attempt.
    let large = [Entry::file("c", 0o644, vec![7; 32 << 20])];
    let bad = good.clone().layer_with_false_diff_id(&large).push(registry, "test/kept", "bad").await;
    let good = good.layer(&[own("d")]).push(registry, "test/kept", "good").await;
    let kept = |node: &Node| fs::read_dir(node.names.root().join("kept")).unwrap().count();
    for _ in 0..10 {
        node.pull(&bad.reference).await.unwrap_err();
        if kept(&node) == 2 {
            break;
        }
    }
    assert_eq!(kept(&node), 2);
    node.restart().await;
    assert_eq!(kept(&node), 2, "they survive a killed daemon");
    let front = Front::new(Behaviour::AnonymousTokens).await;
    node.pull(&good.via(&front.host).reference).await.unwrap();
    // The configuration and the one layer that is new.
    assert_eq!((front.blobs(), kept(&node)), (2, 0));
    assert!(check(&node, &[]).await.0);
    node.finish().await;
}
