//! The preload directory: what lies there at the start and what comes later is imported, once, and stays.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::image::pushed_busybox;
use crate::common::{Node, eventually};
use crate::images_archive::{GREETING, greet, run, skopeo, zstd_of};

/// A stopped node with an empty preload directory.
async fn node_with_preload() -> (Node, PathBuf) {
    let mut node = Node::start().await;
    node.terminate().await;
    let dir = node.names.dir().join("preload");
    let drop_ins = node.names.dir().join("podd.toml.d");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::create_dir_all(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("preload.toml"), format!("[images]\npreload_dir = {dir:?}\n")).unwrap();
    (node, dir)
}

/// An archive of busybox under a name, beside the preload directory.
async fn archive(node: &Node, name: &str) -> PathBuf {
    let path = node.names.dir().join(format!("{name}.tar"));
    let source = format!("docker://{}", pushed_busybox().await.reference);
    skopeo(&source, &format!("docker-archive:{}:r.example/{name}:1", path.display()));
    path
}

async fn preloaded(node: &Node, name: &str) {
    let reference = format!("r.example/{name}:1");
    let image = eventually(&reference, || {
        let mut client = node.image.clone();
        let image = podd::api::ImageSpec { image: reference.clone(), ..Default::default() };
        async move {
            let request = podd::api::ImageStatusRequest { image: Some(image), verbose: false };
            client.image_status(request).await.unwrap().into_inner().image
        }
    })
    .await;
    assert!(image.pinned, "{image:?}");
}

fn put(archive: &Path, dir: &Path, name: &str) {
    std::fs::copy(archive, dir.join(name)).unwrap();
}

fn count(node: &Node, word: &str) -> usize {
    node.log().matches(word).count()
}

#[tokio::test]
async fn archives_are_imported_at_the_start_and_as_they_come() {
    let (mut node, dir) = node_with_preload().await;
    let first = archive(&node, "first").await;
    put(&zstd_of(&first), &dir, "first.tar.zst");
    std::fs::write(dir.join("bad.tar"), [7; 2048]).unwrap();
    std::fs::write(dir.join("notes.txt"), "no archive").unwrap();
    node.start_again().await;
    preloaded(&node, "first").await;
    eventually("the bad one's reason", || async { (count(&node, "not a valid tar") == 1).then_some(()) })
        .await;
    // Half of it is no reason to begin.
    let second = std::fs::read(archive(&node, "second").await).unwrap();
    let mut slow = std::fs::File::create(dir.join("second.tar")).unwrap();
    slow.write_all(&second[..second.len() / 2]).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    slow.write_all(&second[second.len() / 2..]).unwrap();
    assert!(node.image_status("r.example/second:1").await.is_none());
    drop(slow);
    preloaded(&node, "second").await;
    // A layout is complete when it is moved in.
    let layout = node.names.dir().join("layout");
    let source = format!("docker-archive:{}", archive(&node, "third").await.display());
    skopeo(&source, &format!("oci:{}:r.example/third:1", layout.display()));
    std::fs::rename(&layout, dir.join("layout")).unwrap();
    preloaded(&node, "third").await;
    assert_eq!(count(&node, "is not imported"), 1, "{}", node.log());
    assert_eq!(greet(&mut node, "r.example/second:1", "preloaded").await, GREETING);
    node.finish().await;
}

#[tokio::test]
async fn what_was_imported_is_not_imported_again_until_it_changes() {
    let (mut node, dir) = node_with_preload().await;
    put(&archive(&node, "once").await, &dir, "once.tar");
    node.start_again().await;
    preloaded(&node, "once").await;
    eventually("its record", || async { node.names.root().join("preload.json").exists().then_some(()) })
        .await;
    node.restart().await;
    // A later one is done after all that was there.
    put(&archive(&node, "later").await, &dir, "later.tar");
    preloaded(&node, "later").await;
    assert_eq!(count(&node, "archive=once.tar"), 1, "{}", node.log());
    run(Command::new("touch").arg(dir.join("once.tar")));
    eventually("a second import", || async { (count(&node, "archive=once.tar") == 2).then_some(()) }).await;
    node.finish().await;
}
