//! `podd images adopt`: stores that a real containerd and a real skopeo have filled, taken over and run.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use podd::api;

use crate::common::image::{ImageBuilder, digest, pushed_busybox};
use crate::common::tar::Entry;
use crate::common::{Node, busybox, eventually, program, random_tag, registry};
use crate::images_archive::{GREETING, greet, listed, podd_images, podd_images_ok, run, skopeo};

/// A containerd with directories of its own; it serves nothing but ctr.
struct Containerd {
    dir: PathBuf,
    child: Child,
}

impl Containerd {
    async fn start(dir: &Path) -> Self {
        let dir = dir.join("containerd");
        std::fs::create_dir_all(&dir).unwrap();
        let at = dir.display();
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{at}/sock\"\n[ttrpc]\naddress = \"{at}/ttrpc\"\n"
        );
        std::fs::write(dir.join("config.toml"), config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = Command::new(program("containerd"))
            .arg("--config")
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { dir, child };
        eventually("an answer of containerd", || async {
            containerd.ctr(&["version"]).output().unwrap().status.success().then_some(())
        })
        .await;
        containerd
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("ctr"));
        command.arg("--address").arg(self.dir.join("sock")).args(["--namespace", "k8s.io"]).args(args);
        command
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// A compressed layer's or document's file.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.root().join("io.containerd.content.v1.content/blobs/sha256").join(hex)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An image with everything that a layer can have that is not plain.
pub async fn odd_image() -> String {
    let base = [
        Entry::dir("d", 0o700).owned(3, 4),
        Entry::file("d/gone", 0o600, "gone"),
        Entry::file("d/kept", 0o4755, "kept").owned(5, 6),
        Entry::dir("o", 0o755),
        Entry::file("o/hidden", 0o644, "hidden"),
        Entry::file("cap", 0o755, "x").xattr("user.test", b"value"),
        Entry::char_device("null", 1, 3),
    ];
    let top = [
        Entry::dir("d", 0o711).owned(7, 8),
        Entry::whiteout("d/gone"),
        Entry::dir("o", 0o755),
        Entry::opaque("o"),
        Entry::file("o/new", 0o755, vec![7; 100_000]),
        Entry::hardlink("o/twin", "o/new"),
        Entry::symlink("link", "d/kept"),
    ];
    let image = busybox().layer(&base).layer(&top);
    image.push(registry::shared().await, "test/odd", &random_tag()).await.reference
}

/// All that a layer's directory says, but for what file systems choose themselves.
fn facts(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut facts, mut hashes) = (BTreeMap::new(), BTreeMap::new());
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = path.symlink_metadata().unwrap();
        let kind = stat.file_type();
        // No archive lists the root, so its time is that of its making.
        let time = if path == root { 0 } else { stat.mtime() };
        let mut fact = format!("{:o} {}:{} {time}", stat.mode(), stat.uid(), stat.gid());
        if kind.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_file() {
            // Links to one file are hashed once, and links from the other store do not count.
            let content = hashes.entry(stat.ino()).or_insert_with(|| digest(&std::fs::read(&path).unwrap()));
            fact += &format!(" {content}");
        } else if kind.is_symlink() {
            fact += std::fs::read_link(&path).unwrap().to_str().unwrap();
        } else if kind.is_char_device() {
            fact += &format!(" {}", stat.rdev());
            if stat.rdev() == 0 {
                // A whiteout is nothing but its being there.
                fact = "whiteout".to_owned();
            }
        }
        if !kind.is_symlink() {
            let mut names = [0; 4096];
            let length = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
            for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
                let mut value = [0; 4096];
                let length = rustix::fs::getxattr(&path, name, &mut value[..]).unwrap();
                fact += &format!(" {}={:?}", String::from_utf8_lossy(name), &value[..length]);
            }
        }
        facts.insert(path.strip_prefix(root).unwrap().to_owned(), fact);
    }
    facts
}

/// skopeo leaves it mounted on itself, as CRI-O does while it runs.
fn unmount(storage: &Path) {
    rustix::mount::unmount(storage.join("overlay"), rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// The layers of a node by chain ID.
pub fn layers(node: &Node) -> BTreeMap<String, BTreeMap<PathBuf, String>> {
    let entries = std::fs::read_dir(node.names.root().join("layers")).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), facts(&entry.path().join("diff"))))
        .collect()
}

/// Says in what they differ: whole layers are too much to read.
fn assert_same(
    own: &BTreeMap<String, BTreeMap<PathBuf, String>>,
    pulled: &BTreeMap<String, BTreeMap<PathBuf, String>>,
) {
    for (chain, facts) in pulled {
        let own = own.get(chain).unwrap_or_else(|| panic!("layer {chain} is missing"));
        for path in facts.keys().chain(own.keys()) {
            assert_eq!(own.get(path), facts.get(path), "{} of layer {chain}", path.display());
        }
    }
}

/// What the same image gives when it is pulled.
async fn pulled_layers(reference: &str) -> BTreeMap<String, BTreeMap<PathBuf, String>> {
    let mut node = Node::start().await;
    node.pull(reference).await.unwrap();
    let layers = layers(&node);
    node.finish().await;
    layers
}

#[tokio::test]
async fn the_images_of_containerd_are_taken_over_while_it_runs() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    let odd = odd_image().await;
    let dir = node.names.dir();
    let containerd = Containerd::start(&dir).await;
    for (source, name) in [(&pushed.reference, "r.example/busybox:1"), (&odd, "r.example/odd:1")] {
        let archive = dir.join("import.tar");
        skopeo(&format!("docker://{source}"), &format!("oci-archive:{}:{name}", text(&archive)));
        run(&mut containerd.ctr(&["images", "import", "--snapshotter", "overlayfs", text(&archive)]));
        std::fs::remove_file(archive).unwrap();
    }
    run(&mut containerd.ctr(&["images", "label", "r.example/busybox:1", "io.cri-containerd.pinned=pinned"]));
    node.terminate().await;
    let root = containerd.root();
    let adopt = ["adopt", "--from", "containerd", "--root", text(&root)];
    let planned = podd_images_ok(&node, &[&adopt[..], &["--dry-run"]].concat());
    assert!(
        planned.lines().any(|line| line.starts_with("r.example/odd:1") && line.contains("unpack")),
        "{planned}"
    );
    assert!(listed(&node).is_empty());
    // A layer whose blob was discarded comes from its snapshot.
    for layer in &pushed.layers {
        std::fs::rename(containerd.blob(layer), dir.join("aside")).unwrap();
    }
    let said = podd_images_ok(&node, &[&adopt[..], &["r.example/busybox:1"]].concat());
    assert!(said.contains("hardlink") || said.contains("reflink"), "{said}");
    podd_images_ok(&node, &adopt);
    let again = podd_images_ok(&node, &adopt);
    assert!(again.lines().skip(1).all(|line| line.contains("shared")), "{again}");
    let images = listed(&node);
    let busybox = images.iter().find(|image| image["repoTags"][0] == "r.example/busybox:1").unwrap();
    assert_eq!(busybox["pinned"], true);
    let digest = pushed.by_digest.split_once('@').unwrap().1;
    assert_eq!(busybox["repoDigests"][0], format!("r.example/busybox@{digest}"));
    assert_same(&layers(&node), &pulled_layers(&odd).await);
    drop(containerd);
    node.start_again().await;
    assert_eq!(greet(&mut node, "r.example/busybox:1", "adopted").await, GREETING);
    node.finish().await;
}

#[tokio::test]
async fn the_images_of_containers_storage_are_taken_over_in_every_mode() {
    let mut node = Node::start().await;
    let odd = odd_image().await;
    let pulled = pulled_layers(&odd).await;
    let storage = node.names.dir().join("storage");
    let target = format!("[overlay@{}+{}]", text(&storage), text(&node.names.dir().join("storage-run")));
    skopeo(&format!("docker://{odd}"), &format!("containers-storage:{target}r.example/odd:1"));
    node.terminate().await;
    let adopt = ["adopt", "--root", text(&storage)];
    for (more, how) in [
        (&["--mode", "copy"][..], "unpack"),
        (&["--mode", "hardlink", "--verify"], "hardlink"),
        (&["--pin"], "link"),
    ] {
        let said = podd_images_ok(&node, &[&adopt[..], more].concat());
        assert!(said.lines().any(|line| line.starts_with("r.example/odd:1") && line.contains(how)), "{said}");
        assert_same(&layers(&node), &pulled);
        let [image] = &listed(&node)[..] else { panic!("not one image") };
        assert_eq!(image["repoTags"][0], "r.example/odd:1");
        assert!(image["repoDigests"][0].as_str().unwrap().starts_with("r.example/odd@sha256:"));
        node.start_again().await;
        assert_eq!(greet(&mut node, "r.example/odd:1", "adopted").await, GREETING);
        let image =
            Some(api::ImageSpec { image: image["id"].as_str().unwrap().to_owned(), ..Default::default() });
        node.image.remove_image(api::RemoveImageRequest { image }).await.unwrap();
        node.terminate().await;
    }
    let reflink = podd_images(&node, &[&adopt[..], &["--mode", "reflink"]].concat());
    let said = String::from_utf8_lossy(&reflink.stderr).into_owned();
    assert!(reflink.status.success() || said.contains("reflink"), "{said}");
    unmount(&storage);
    node.start_again().await;
    node.finish().await;
}

#[tokio::test]
async fn one_damaged_image_does_not_stop_the_others() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    let other = ImageBuilder::new().layer(&[Entry::file("x", 0o644, random_tag())]);
    let other = other.push(registry::shared().await, "test/other", &random_tag()).await;
    let storage = node.names.dir().join("storage");
    let target = format!("[overlay@{}+{}]", text(&storage), text(&node.names.dir().join("storage-run")));
    skopeo(
        &format!("docker://{}", pushed.reference),
        &format!("containers-storage:{target}r.example/busybox:1"),
    );
    skopeo(
        &format!("docker://{}", other.reference),
        &format!("containers-storage:{target}r.example/other:1"),
    );
    let changed = run(Command::new("grep").args(["-rl", "--include=x", ""]).arg(storage.join("overlay")));
    std::fs::write(changed.lines().find(|path| path.ends_with("/diff/x")).unwrap(), "changed").unwrap();
    node.terminate().await;
    let out = podd_images(&node, &["adopt", "--from", "crio", "--root", text(&storage), "--verify"]);
    let (said, table) = (String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
    assert!(!out.status.success() && said.contains("r.example/other:1: layer sha256:"), "{said}");
    assert!(
        said.contains("1 of 2 images were not taken") && table.contains("r.example/busybox:1"),
        "{said}{table}"
    );
    unmount(&storage);
    let nothing = podd_images(&node, &["adopt", "--root", "/proc"]);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("no image store"), "{nothing:?}");
    node.start_again().await;
    node.finish().await;
}
