//! What writable layers take of the disk where no quota counts, and the limits that cannot be had there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use podd::api;
use tonic::Code;

use crate::common::{ContainerSpec, Node, PodSpec, eventually, oci_runtime, program};

/// The annotation that limits a writable layer.
pub(crate) const MAX_SIZE: &str = "writable-layer-size.podd.io";

/// Settings with images on a file system of their own, as far as podd is told, so that ImageFsInfo tells of the layers alone.
pub(crate) fn split(images: &Path) -> String {
    format!("[images]\nroot = {images:?}\n")
}

/// Settings by which the annotation is heard.
pub(crate) fn hearing() -> String {
    format!("[runtimes.{}]\nallowed_annotations = [\"{MAX_SIZE}\"]\n", oci_runtime())
}

/// The same container with the annotation.
pub(crate) fn limited(spec: ContainerSpec, size: &str) -> ContainerSpec {
    spec.with(|config| drop(config.annotations.insert(MAX_SIZE.to_owned(), size.to_owned())))
}

/// What all layers take by ImageFsInfo: bytes and inodes.
pub(crate) async fn told(node: &Node) -> (u64, u64) {
    let mut client = node.image.clone();
    let info = client.image_fs_info(api::ImageFsInfoRequest {}).await.unwrap().into_inner();
    let layers = &info.container_filesystems[0];
    (layers.used_bytes.unwrap().value, layers.inodes_used.unwrap().value)
}

/// The layer of a container on disk.
pub(crate) fn layer(node: &Node, id: &str) -> PathBuf {
    node.names.root().join("containers").join(id)
}

/// The same by du(1).
pub(crate) fn du(layer: &Path) -> (u64, u64) {
    let of = |option: &str| -> u64 {
        let output = Command::new(program("du"))
            .args(["-s", "-c", option])
            .args([layer.join("upper"), layer.join("work")])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().last().unwrap().split('\t').next().unwrap().parse().unwrap()
    };
    (of("--block-size=1"), of("--inodes"))
}

/// Waits until as much is told as is there, and gives it.
pub(crate) async fn told_as_it_is(node: &Node, id: &str) -> (u64, u64) {
    let layer = layer(node, id);
    eventually("what du finds", || async {
        let (told, found) = (told(node).await, du(&layer));
        (told == found).then_some(told)
    })
    .await
}

/// Writes 3 MiB under two names, and a gigabyte of nothing.
pub(crate) const WRITE: &str = "mkdir -p /data/below && dd if=/dev/urandom of=/data/file bs=1M count=3 2>/dev/null && \
     ln /data/file /data/below/again && truncate -s 1G /data/hole && rm /etc/group && sync";

/// What a container has written by [`WRITE`].
pub(crate) fn is_written(before: (u64, u64), after: (u64, u64)) {
    let bytes = after.0 - before.0;
    assert!((3 << 20..4 << 20).contains(&bytes), "{bytes} more bytes");
    // Two directories, two files, one whiteout. An overlay keeps one whiteout more in reserve.
    assert!((5..=6).contains(&(after.1 - before.1)), "{before:?} {after:?}");
}

#[tokio::test]
async fn what_a_container_writes_is_told_after_the_next_walk_and_after_a_restart() {
    let images = tempfile::Builder::new().prefix("podd-test-").tempdir().unwrap();
    let settings = split(images.path()) + "[disk]\nprojects = 0\nwalk_interval_seconds = 1\n";
    let mut node = Node::start_configured(&settings).await;
    assert_eq!(told(&node).await, (0, 0));
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let before = told_as_it_is(&node, &id).await;
    assert!(before.1 >= 2, "{before:?}");
    node.exec_ok(&id, WRITE).await;
    let after = told_as_it_is(&node, &id).await;
    is_written(before, after);
    node.restart().await;
    assert_eq!(told_as_it_is(&node, &id).await, after);
    node.exec_ok(&id, "rm -r /data && sync").await;
    let less = told_as_it_is(&node, &id).await;
    assert!(less.0 < before.0 + (1 << 20), "{less:?}");
    let other = node.run(&pod, ContainerSpec::script("d", "echo last words > /words")).await;
    node.wait_for_exit(&other).await;
    let (layers, ended) = ([&id, &other].map(|id| layer(&node, id)), du(&layer(&node, &other)));
    eventually("the sum of both", || async {
        let found = layers.iter().map(|layer| du(layer)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        (told(&node).await == found).then_some(())
    })
    .await;
    assert!(ended.1 > 2);
    node.remove_pod(&pod.id).await;
    assert_eq!(told(&node).await, (0, 0));
    node.finish().await;
}

/// A daemon that nobody asks does not even have the thread.
#[tokio::test]
async fn layers_that_nobody_asks_about_are_left_alone() {
    let mut node = Node::start_configured("[disk]\nprojects = 0\nwalk_interval_seconds = 1\n").await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    node.exec_ok(&id, WRITE).await;
    // On one file system with the images the sum is theirs, as the kubelet wants it.
    assert!(told(&node).await.0 > 0);
    assert!(!walks(&node), "somebody walks");
    node.finish().await;
}

/// Whether the daemon has the thread that walks over layers.
pub(crate) fn walks(node: &Node) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", node.daemon_pid())).unwrap();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    threads.map(|thread| name(thread.unwrap())).any(|name| name.trim_end() == "podd-disk")
}

#[tokio::test]
async fn a_limit_that_cannot_be_had_or_is_none_is_refused_by_name() {
    let disk = tempfile::Builder::new().prefix("podd-disk-").tempdir().unwrap();
    let mounted = Command::new(program("mount"))
        .args(["-t", "tmpfs", "-o", "size=256m", "podd-disk"])
        .arg(disk.path())
        .status();
    assert!(mounted.unwrap().success());
    let mut node = Node::start_binary_on(env!("CARGO_BIN_EXE_podd").into(), disk.path(), &hearing()).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let refusals = [
        ("1Gi", "prjquota"),
        ("1Gi", "leave the annotation out"),
        ("much", "\"much\" is not a size such as"),
        ("-1", "\"-1\" is not a size"),
        ("", "\"\" is not a size"),
        ("0", "\"0\" is less than"),
        ("1023Ki", "is less than"),
    ];
    for (size, why) in refusals {
        let refused = node.try_create(&pod, limited(ContainerSpec::waiting("c"), size)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        let message = refused.message();
        assert!(message.contains(MAX_SIZE) && message.contains(why), "{size:?}: {message}");
    }
    assert_eq!(fs::read_dir(node.names.root().join("containers")).unwrap().count(), 0);
    node.run(&pod, ContainerSpec::waiting("c")).await;
    node.finish().await;
    assert!(Command::new(program("umount")).arg(disk.path()).status().unwrap().success());
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "deaf")).await;
    node.run(&pod, limited(ContainerSpec::waiting("c"), "much")).await;
    node.finish().await;
}
