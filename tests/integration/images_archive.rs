//! `podd images`: what goes in from archives that skopeo and umoci have made, is listed, and runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use podd::api;
use serde_json::Value;

use crate::common::image::pushed_busybox;
use crate::common::{ContainerSpec, Node, PodSpec, program, registry};

/// Runs a program, which must succeed.
pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {said}");
    String::from_utf8(out.stdout).unwrap()
}

/// Copies with skopeo, from a registry on loopback too.
pub fn skopeo(from: &str, to: &str) {
    let mut command = Command::new(program("skopeo"));
    run(command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", from, to]));
}

/// `podd images` with the node's configuration.
pub fn podd_images(node: &Node, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podd"));
    command.arg("images").args(args).arg("--config").arg(node.names.config_file());
    command.stdin(Stdio::null()).output().unwrap()
}

/// The same, which must succeed; gives its standard output.
pub fn podd_images_ok(node: &Node, args: &[&str]) -> String {
    let out = podd_images(node, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The images as `podd images --output json` lists them.
pub fn listed(node: &Node) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&podd_images_ok(node, &["--output", "json"])).unwrap();
    listed["images"].as_array().unwrap().clone()
}

/// Runs a container of an image that is not to be pulled, and gives what it prints.
pub async fn greet(node: &mut Node, image: &str, name: &str) -> String {
    let pod = PodSpec::new(node, name).host_network();
    let pod = node.run_pod(pod).await;
    let spec = ContainerSpec::script(name, "echo $FROM_IMAGE; id -un; stat -c %a /tmp").with(|config| {
        config.image = Some(api::ImageSpec { image: image.to_owned(), ..Default::default() });
    });
    let (code, said) = node.run_to_end(&pod, spec).await;
    assert_eq!(code, 0, "{said}");
    node.remove_pod(&pod.id).await;
    said
}

pub const GREETING: &str = "yes\nroot\n1777\n";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn zstd_of(archive: &Path) -> PathBuf {
    let to = archive.with_extension("tar.zst");
    std::fs::write(&to, zstd::bulk::compress(&std::fs::read(archive).unwrap(), 1).unwrap()).unwrap();
    to
}

fn gzipped(archive: &Path) -> PathBuf {
    run(Command::new("gzip").args(["-k", "-f"]).arg(archive));
    PathBuf::from(format!("{}.gz", text(archive)))
}

#[tokio::test]
async fn archives_of_skopeo_are_imported_and_run() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    let source = format!("docker://{}", pushed.reference);
    let dir = node.names.dir();
    let (oci, docker, layout) = (dir.join("oci.tar"), dir.join("docker.tar"), dir.join("layout"));
    skopeo(&source, &format!("oci-archive:{}:r.example/oci:1", text(&oci)));
    skopeo(&source, &format!("docker-archive:{}:r.example/docker:1", text(&docker)));
    skopeo(&source, &format!("oci:{}:r.example/layout:1", text(&layout)));
    // The daemon runs all the while.
    assert!(listed(&node).is_empty());
    let said = podd_images_ok(&node, &["import", text(&gzipped(&oci))]);
    assert!(
        said.starts_with("imported r.example/oci:1: sha256:") && said.contains("2 layers, 2 of them new"),
        "{said}"
    );
    podd_images_ok(&node, &["import", text(&docker)]);
    let said = podd_images_ok(&node, &["import", text(&layout), "--pin", "--name", "r.example/named:2"]);
    assert!(said.contains("r.example/named:2: sha256:") && said.contains("0 of them new"), "{said}");
    let images = listed(&node);
    let table = podd_images_ok(&node, &["list"]);
    for name in ["r.example/oci", "r.example/docker", "r.example/named"] {
        assert!(table.lines().any(|line| line.starts_with(name)), "{table}");
    }
    assert!(images.iter().any(|image| image["pinned"] == true), "{images:?}");
    let kept = images.iter().flat_map(|image| image["repoDigests"].as_array().unwrap());
    let digest = pushed.by_digest.split_once('@').unwrap().1;
    assert!(kept.clone().any(|name| *name == format!("r.example/oci@{digest}")), "{images:?}");
    for name in ["r.example/oci:1", "r.example/docker:1", "r.example/named:2"] {
        let status = node.image_status(name).await.unwrap();
        assert!(images.iter().any(|image| image["id"] == status.id), "{images:?}");
    }
    assert_eq!(greet(&mut node, "r.example/oci:1", "oci").await, GREETING);
    assert_eq!(greet(&mut node, "r.example/docker:1", "docker").await, GREETING);
    node.finish().await;
}

/// The documented way, where no registry has the layers.
#[tokio::test]
async fn a_broken_image_without_a_registry_is_removed_and_imported_again() {
    let mut node = Node::start().await;
    let name = format!("{}/test/nowhere:1", registry::shared().await.host());
    let archive = node.names.dir().join("docker.tar");
    let source = format!("docker://{}", pushed_busybox().await.reference);
    skopeo(&source, &format!("docker-archive:{}:{name}", text(&archive)));
    podd_images_ok(&node, &["import", text(&archive)]);
    let layers = node.names.root().join("layers");
    let passwd = run(Command::new("find").arg(&layers).args(["-path", "*/diff/etc/passwd"]));
    std::fs::remove_file(passwd.trim_end()).unwrap();
    let repair = podd_images(&node, &["check", "--repair"]);
    let said = String::from_utf8_lossy(&repair.stdout);
    assert!(!repair.status.success() && said.contains("not repaired: ") && said.contains(&name), "{said}");
    let image = Some(api::ImageSpec { image: name.clone(), ..Default::default() });
    node.image.remove_image(api::RemoveImageRequest { image }).await.unwrap();
    let said = podd_images_ok(&node, &["import", text(&archive)]);
    assert!(said.contains("2 of them new"), "{said}");
    assert!(podd_images_ok(&node, &["check"]).contains(" 0 broken"));
    node.finish().await;
}

#[tokio::test]
async fn a_layout_of_umoci_and_a_stream_are_imported() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    let dir = node.names.dir();
    let layout = dir.join("layout");
    skopeo(&format!("docker://{}", pushed.reference), &format!("oci:{}:one", text(&layout)));
    let umoci = |args: &[&str]| run(Command::new(program("umoci")).args(args));
    umoci(&[
        "config",
        "--image",
        &format!("{}:one", text(&layout)),
        "--tag",
        "two",
        "--config.env",
        "FROM_IMAGE=umoci",
    ]);
    let tar = dir.join("layout.tar");
    run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&layout).arg("."));
    let packed = zstd_of(&tar);
    node.terminate().await;
    podd_images_ok(&node, &["import", text(&layout), "--name", "r.example/umoci:two"]);
    let mut stream = Command::new(env!("CARGO_BIN_EXE_podd"));
    stream.args(["images", "import", "-", "--name", "r.example/stream:one", "--config"]);
    stream.arg(node.names.config_file()).stdin(std::fs::File::open(&packed).unwrap());
    run(&mut stream);
    let wrong = podd_images(&node, &["import", text(&tar), "--name", "r.example/none:three"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("it has one, two"), "{said}");
    node.start_again().await;
    assert_eq!(greet(&mut node, "r.example/umoci:two", "umoci").await, GREETING.replace("yes", "umoci"));
    assert_eq!(greet(&mut node, "r.example/stream:one", "stream").await, GREETING);
    node.finish().await;
}

#[tokio::test]
async fn what_is_no_archive_is_refused_in_a_sentence_and_leaves_nothing() {
    let mut node = Node::start().await;
    let bad = node.names.dir().join("bad.tar");
    std::fs::write(&bad, vec![7; 4096]).unwrap();
    node.terminate().await;
    for args in [&["import", text(&bad)][..], &["import", "/nonexistent"], &["import"]] {
        let out = podd_images(&node, args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && !said.contains("panicked"), "{said}");
    }
    node.start_again().await;
    node.finish().await;
}

#[tokio::test]
async fn an_archive_with_a_layer_that_unpacks_to_more_than_is_configured_is_refused() {
    let node = Node::start().await;
    let archive = node.names.dir().join("large.tar");
    let source = format!("docker://{}", pushed_busybox().await.reference);
    skopeo(&source, &format!("docker-archive:{}:r.example/large:1", archive.display()));
    let drop_in = node.names.dir().join("podd.toml.d/limit.toml");
    std::fs::create_dir(drop_in.parent().unwrap()).unwrap();
    std::fs::write(&drop_in, "[images]\nmax_unpacked_bytes = 1048576\n").unwrap();
    let refused = podd_images(&node, &["import", text(&archive)]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("images.max_unpacked_bytes"), "{said}");
    std::fs::remove_file(&drop_in).unwrap();
    podd_images_ok(&node, &["import", text(&archive)]);
    node.finish().await;
}
