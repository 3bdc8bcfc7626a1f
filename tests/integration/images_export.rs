//! `podd images export`: archives that podd, skopeo, umoci and GNU tar take, with the same files in them.

use std::path::Path;
use std::process::Command;

use crate::common::image::pushed_busybox;
use crate::common::{Node, program, random_tag, registry};
use crate::images_adopt::{layers, odd_image};
use crate::images_archive::{GREETING, greet, listed, podd_images, podd_images_ok, run, skopeo};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The files of all layers, whatever these are called.
fn trees(node: &Node) -> Vec<Vec<(String, String)>> {
    let layers = layers(node).into_values();
    let mut trees: Vec<Vec<(String, String)>> = layers
        .map(|layer| layer.into_iter().map(|(path, fact)| (text(&path).to_owned(), fact)).collect())
        .collect();
    trees.sort();
    trees
}

fn assert_same_trees(one: &Node, other: &Node) {
    let (one, other) = (trees(one), trees(other));
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().flatten().zip(other.iter().flatten()) {
        assert_eq!(one, other);
    }
}

#[tokio::test]
async fn what_is_exported_and_imported_has_the_same_files() {
    let mut node = Node::start().await;
    let odd = odd_image().await;
    node.pull(&odd).await.unwrap();
    let original = listed(&node)[0]["id"].as_str().unwrap().to_owned();
    for format in ["oci-archive", "docker-archive"] {
        let (archive, again) = (node.names.dir().join("export.tar"), node.names.dir().join("again.tar"));
        let said = podd_images_ok(&node, &["export", &odd, "--format", format, "--output", text(&archive)]);
        assert!(said.contains(&original) && said.contains("in the archive sha256:"), "{said}");
        podd_images_ok(&node, &["export", &original, "--format", format, "--output", text(&again)]);
        assert_eq!(std::fs::read(&archive).unwrap(), std::fs::read(&again).unwrap(), "it is deterministic");
        run(Command::new("tar").arg("-tvf").arg(&archive));
        let mut other = Node::start().await;
        podd_images_ok(&other, &["import", text(&archive)]);
        let image = other.image_status(&odd).await.unwrap();
        assert!(said.contains(&image.id), "{said} {image:?}");
        assert_same_trees(&node, &other);
        assert_eq!(greet(&mut other, &odd, "imported").await, GREETING);
        // What was exported once keeps its ID from then on.
        let said = podd_images_ok(&other, &["export", &odd, "--format", format, "--output", text(&again)]);
        assert!(said.contains(&image.id) && !said.contains("in the archive"), "{said}");
        other.finish().await;
    }
    node.finish().await;
}

#[tokio::test]
async fn skopeo_and_umoci_take_what_is_exported() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    node.pull(&pushed.reference).await.unwrap();
    let dir = node.names.dir();
    let host = registry::shared().await.host();
    for format in ["oci-archive", "docker-archive"] {
        let archive = dir.join(format!("{format}.tar"));
        podd_images_ok(&node, &["export", &pushed.reference, "--format", format, "--output", text(&archive)]);
        let name = format!("{host}/test/exported:{}", random_tag());
        let mut copy = Command::new(program("skopeo"));
        copy.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        run(copy.arg(format!("{format}:{}", text(&archive))).arg(format!("docker://{name}")));
        node.pull(&name).await.unwrap();
        assert_eq!(greet(&mut node, &name, "exported").await, GREETING);
    }
    let layout = dir.join("layout");
    skopeo(
        &format!("oci-archive:{}", text(&dir.join("oci-archive.tar"))),
        &format!("oci:{}:x", text(&layout)),
    );
    let mut unpack = Command::new(program("umoci"));
    run(unpack.args(["raw", "unpack", "--image", &format!("{}:x", text(&layout))]).arg(dir.join("unpacked")));
    assert!(std::fs::read_to_string(dir.join("unpacked/etc/passwd")).unwrap().contains("tester"));
    let exported = dir.join("exported");
    let to_layout = ["export", &pushed.reference, "--format", "oci", "--output", text(&exported)];
    podd_images_ok(&node, &to_layout);
    run(Command::new(program("skopeo")).args(["inspect", "--raw", &format!("oci:{}", text(&exported))]));
    assert!(!podd_images(&node, &to_layout).status.success(), "it is not empty");
    let missing = podd_images(&node, &["export", "no/such:1", "--output", text(&dir.join("missing.tar"))]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no image no/such:1"), "{missing:?}");
    assert!(!dir.join("missing.tar").exists() && !dir.join("missing.tar.partial").exists());
    let mut stream = Command::new(env!("CARGO_BIN_EXE_podd"));
    stream
        .args(["images", "export", &pushed.reference, "--output", "-", "--config"])
        .arg(node.names.config_file());
    let streamed = stream.output().unwrap();
    assert_eq!(streamed.stdout, std::fs::read(dir.join("oci-archive.tar")).unwrap());
    node.finish().await;
}
