//! The image store beside tools: `podd images check` and its repair with a daemon running, and layers of pulls that fail.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use podd::api;
use tokio::process::Command;

use crate::common::front::{Behaviour, Front};
use crate::common::image::digest;
use crate::common::tar::Entry;
use crate::common::{ContainerSpec, ImageBuilder, Node, PodSpec, busybox, eventually, random_tag, registry};
use crate::images_archive::listed;

/// Runs `podd images check` as an operator would.
async fn check(node: &Node, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(&node.names.binary);
    command.args(["images", "--config"]).arg(node.names.config_file()).arg("check").args(arguments);
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(matches!(status.code(), Some(0 | 1)), "{text}");
    let guests = fs::read_dir(node.names.root().join("guests")).unwrap();
    assert_eq!(guests.count(), 0, "it leaves nothing behind");
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

/// Pushes a manifest that is no image's, with a file of that title.
pub async fn push_artifact(tag: &str, title: &str, body: &[u8]) -> String {
    let (registry, repository) = (registry::shared().await, "test/artifact");
    registry.put_blob(repository, b"{}".to_vec()).await;
    registry.put_blob(repository, body.to_vec()).await;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.podd.test",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": digest(b"{}") },
        "layers": [{
            "mediaType": "text/plain", "size": body.len(), "digest": digest(body),
            "annotations": { "org.opencontainers.image.title": title },
        }],
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    registry.put_manifest(repository, tag, "application/vnd.oci.image.manifest.v1+json", manifest).await;
    format!("{}/{repository}:{tag}", registry.host())
}

#[tokio::test]
async fn an_artifact_is_kept_as_files_checked_and_never_run() {
    let mut node = Node::start().await;
    let tag = random_tag();
    let reference = push_artifact(&tag, "models/one.bin", tag.as_bytes()).await;
    let id = node.pull(&reference).await.unwrap();
    let file = in_layers(&node, "models/one.bin");
    assert_eq!(fs::read_to_string(&file).unwrap(), tag);
    assert_eq!(node.pull(&reference).await.unwrap(), id);
    node.restart().await;
    let status = node.image_status(&reference).await.unwrap();
    assert_eq!((status.id.as_str(), status.size), (id.as_str(), tag.len() as u64 + 2));
    assert!(status.repo_digests[0].ends_with(&id), "its ID is its manifest's digest");
    let pod = node.run_pod(PodSpec::new(&node, "artifact")).await;
    let spec = ContainerSpec::waiting("c")
        .with(|config| config.image = Some(api::ImageSpec { image: id, ..Default::default() }));
    let refused = node.try_create(&pod, spec).await.unwrap_err();
    assert!(refused.message().contains("artifact (\"application/vnd.podd.test\")"), "{refused:?}");
    assert!(check(&node, &[]).await.0);
    fs::remove_file(&file).unwrap();
    let (clean, text) = check(&node, &["--repair", &reference]).await;
    assert!(clean && text.contains(": replaced"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), tag);
    let hostile = push_artifact(&random_tag(), "../../escaped", b"x").await;
    let refused = node.pull(&hostile).await.unwrap_err();
    assert!(refused.message().contains("must not contain"), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn pinned_images_say_so_and_image_fs_info_names_both_places() {
    let mut node = Node::start().await;
    let drop_ins = node.names.dir().join("podd.toml.d");
    let images = node.names.dir().join("images");
    fs::create_dir(&drop_ins).unwrap();
    let settings = format!("[images]\nroot = {images:?}\npinned = [\"*test/pinned*\"]\n");
    fs::write(drop_ins.join("store.toml"), settings).unwrap();
    node.restart().await;
    let registry = registry::shared().await;
    let pinned = busybox().push(registry, "test/pinned", "1").await.reference;
    let other = busybox().layer(&[Entry::file("x", 0o644, "x")]).push(registry, "test/other", "1").await;
    for (reference, is_pinned) in [(&pinned, true), (&other.reference, false)] {
        node.pull(reference).await.unwrap();
        assert_eq!(node.image_status(reference).await.unwrap().pinned, is_pinned, "{reference}");
        let images = listed(&node);
        let listed = images.iter().find(|image| image["repoTags"][0] == *reference).unwrap();
        assert_eq!(listed["pinned"], is_pinned, "{reference}");
    }
    let info = node.image.image_fs_info(api::ImageFsInfoRequest::default()).await.unwrap().into_inner();
    let mountpoint = |usage: &api::FilesystemUsage| usage.fs_id.clone().unwrap().mountpoint;
    assert_eq!(mountpoint(&info.image_filesystems[0]), images.display().to_string());
    assert_eq!(mountpoint(&info.container_filesystems[0]), node.names.root().display().to_string());
    assert!(info.image_filesystems[0].inodes_used.unwrap().value > 100);
    assert!(images.join("layers").read_dir().unwrap().count() == 3);
    let pod = node.run_pod(PodSpec::new(&node, "split")).await;
    let run = node.run_to_end(&pod, ContainerSpec::script("c", "echo split > /f; cat /f")).await;
    assert_eq!(run, (0, "split\n".to_owned()));
    node.remove_pod(&pod.id).await;
    let spec = api::ImageSpec { image: pinned.clone(), ..Default::default() };
    node.image.remove_image(api::RemoveImageRequest { image: Some(spec) }).await.unwrap();
    assert_eq!(node.image_status(&pinned).await, None, "who asks for it may remove it");
    node.finish().await;
}
