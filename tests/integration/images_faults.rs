//! Disks that are full or break, and a daemon that is killed, in the middle of a pull: the pull fails and says why, nothing
//! of it is left or half visible, and the next one works.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use podd::api;
use podd::image::extract::Extracted;
use podd::image::store::{NewImage, Store};
use serde_json::json;
use tonic::{Code, Status};

use crate::common::image::{Compression, Pushed, digest};
use crate::common::leftovers::walk;
use crate::common::tar::Entry;
use crate::common::{ImageBuilder, Node, PATIENCE, eventually, program, random_tag, registry};

/// Runs a program that must succeed.
fn run(name: &str, arguments: &[&str]) {
    let output = Command::new(program(name)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tmpfs of a few kilobytes.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(kilobytes: u64) -> Self {
        let directory = tempfile::Builder::new().prefix("podd-disk-").tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        run("mount", &["-t", "tmpfs", "-o", &size, "podd-disk", directory.path().to_str().unwrap()]);
        Self(directory)
    }

    fn resize(&self, kilobytes: u64) {
        let options = format!("remount,size={kilobytes}k");
        run("mount", &["-o", &options, self.path().to_str().unwrap()]);
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new(program("umount")).arg("--lazy").arg(self.path()).status();
    }
}

/// An ext4 on a loop device whose file lies on a tmpfs. That may have less room than the disk promises, as with thin
/// provisioning: then writing fails (EIO) after write(2) has succeeded.
struct ThinDisk {
    backing: Tmpfs,
    at: tempfile::TempDir,
}

impl ThinDisk {
    /// A disk of 64 MiB which keeps its promise so far.
    fn new(feature: &str) -> Self {
        let at = tempfile::Builder::new().prefix("podd-disk-").tempdir().unwrap();
        let disk = Self { backing: Tmpfs::new(1 << 20), at };
        fs::File::create(disk.image()).unwrap().set_len(64 << 20).unwrap();
        let image = disk.image();
        run("mkfs.ext4", &["-q", "-F", "-N", "512", "-O", feature, image.to_str().unwrap()]);
        // The zeros among its metadata are holes until they are written.
        let start = fs::read(&image).unwrap();
        fs::OpenOptions::new().write(true).open(&image).unwrap().write_all(&start[..12 << 20]).unwrap();
        disk.mount();
        disk
    }

    /// From now on it has room for so many more megabytes.
    fn thin_out(&self, megabytes: u64) {
        rustix::fs::syncfs(fs::File::open(self.path()).unwrap()).unwrap();
        let used = fs::metadata(self.image()).unwrap().blocks() / 2;
        self.backing.resize(used + (megabytes << 10));
    }

    fn image(&self) -> PathBuf {
        self.backing.path().join("image")
    }

    fn path(&self) -> &Path {
        self.at.path()
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", self.image().to_str().unwrap(), self.path().to_str().unwrap()]);
    }

    /// Gives it the room that it promised, and mounts it anew, as after a reboot.
    fn repair(&self) {
        self.backing.resize(1 << 20);
        self.mount_again();
    }

    /// A container of another test that has just begun holds copies of all mounts, and with them this disk as it was.
    fn wait_until_it_is_let_go(&self) {
        let began = Instant::now();
        let holders =
            || Command::new(program("losetup")).arg("--associated").arg(self.image()).output().unwrap();
        while !holders().stdout.is_empty() {
            assert!(began.elapsed() < PATIENCE, "the disk is in use after it was unmounted");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn mount_again(&self) {
        run("umount", &[self.path().to_str().unwrap()]);
        self.wait_until_it_is_let_go();
        let check = Command::new(program("e2fsck")).args(["-fy"]).arg(self.image()).output().unwrap();
        assert!(check.status.code().unwrap() < 4, "{}", String::from_utf8_lossy(&check.stdout));
        self.mount();
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        let _ = Command::new(program("umount")).arg("--lazy").arg(self.path()).status();
    }
}

/// Bytes that no compression makes smaller.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

/// An image of layers with one file each, `f0`, `f1` ..., of so many bytes.
async fn pushed(name: &str, layers: u64, length: usize) -> Pushed {
    let image = (0..layers).fold(ImageBuilder::new(), |image, n| {
        image.layer_as(Compression::Plain, &[Entry::file(&format!("f{n}"), 0o644, noise(n, length))])
    });
    image.push(registry::shared().await, &format!("test/{name}"), &random_tag()).await
}

/// The layers in the store, by the files in them, hold what they should.
fn assert_whole(root: &Path, layers: u64, length: usize) {
    for n in 0..layers {
        let name = format!("diff/f{n}");
        let found: Vec<_> =
            walk(&root.join("layers")).into_iter().filter(|path| path.ends_with(&name)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(fs::read(&found[0]).unwrap() == noise(n, length), "{} is damaged", found[0].display());
    }
}

async fn images(node: &mut Node) -> Vec<api::Image> {
    node.image.list_images(api::ListImagesRequest::default()).await.unwrap().into_inner().images
}

/// Nothing of a pull is to be seen, and soon nothing of it takes space.
async fn assert_nothing_left(node: &mut Node) {
    assert_eq!(images(node).await, []);
    let root = node.names.root();
    assert_eq!(walk(&root.join("images")), Vec::<PathBuf>::new());
    // Layers without an image are taken away in the background.
    eventually("an empty image store", || async {
        let emptied = |directory: &str| walk(&root.join(directory)).is_empty();
        ["layers", "staging", "trash"].into_iter().all(emptied).then_some(())
    })
    .await;
}

fn assert_no_space(refused: &Status, disk: &Path) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("no space is left"), "{refused:?}");
    assert!(refused.message().contains("podd-test-"), "{} is not named: {refused:?}", disk.display());
}

#[tokio::test]
async fn a_disk_that_fills_up_in_a_layer_is_named_and_left_as_it_was() {
    let disk = Tmpfs::new(6 << 10);
    let mut node = Node::start_rooted_at(disk.path()).await;
    let image = pushed("full", 3, 4 << 20).await;
    let refused = node.pull(&image.reference).await.unwrap_err();
    assert_no_space(&refused, disk.path());
    assert_nothing_left(&mut node).await;
    assert_eq!(walk(&node.names.root().join("kept")), Vec::<PathBuf>::new(), "a full disk keeps nothing");
    disk.resize(64 << 10);
    node.pull(&image.reference).await.unwrap();
    assert_whole(&node.names.root(), 3, 4 << 20);
    node.finish().await;
}

/// The layers are in place when it turns out that the record has no room.
#[tokio::test]
async fn a_disk_too_full_for_the_record_has_no_image() {
    let disk = Tmpfs::new(2 << 10);
    let mut node = Node::start_rooted_at(disk.path()).await;
    let label = json!({ "Labels": { "long": "x".repeat(3 << 20) } });
    let image = ImageBuilder::new().layer(&[Entry::file("f", 0o644, "x")]).config(&label);
    let image = image.push(registry::shared().await, "test/full-record", "1").await;
    let refused = node.pull(&image.reference).await.unwrap_err();
    assert_no_space(&refused, disk.path());
    assert_nothing_left(&mut node).await;
    disk.resize(64 << 10);
    node.pull(&image.reference).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn what_a_disk_loses_after_it_was_written_fails_the_pull() {
    let disk = ThinDisk::new("has_journal");
    let mut node = Node::start_rooted_at(disk.path()).await;
    disk.thin_out(6);
    let image = pushed("thin", 3, 8 << 20).await;
    let refused = node.pull(&image.reference).await.unwrap_err();
    assert!([Code::Internal, Code::ResourceExhausted].contains(&refused.code()), "{refused:?}");
    // What the kernel calls it depends on which write failed first: of content, of the journal, or the next after that.
    let words = ["Input/output error", "Read-only file system", "no space is left"];
    assert!(words.iter().any(|words| refused.message().contains(words)), "{refused:?}");
    assert_eq!(images(&mut node).await, []);
    // Whatever was kept of it must not become an image without another look at the disk.
    node.pull(&image.reference).await.expect_err("what the disk has lost was reported as pulled");
    node.kill9();
    disk.repair();
    node.start_again().await;
    assert_nothing_left(&mut node).await;
    node.pull(&image.reference).await.unwrap();
    node.kill9();
    disk.mount_again();
    node.start_again().await;
    assert_eq!(images(&mut node).await.len(), 1);
    assert_whole(&node.names.root(), 3, 8 << 20);
    node.finish().await;
}

/// The kernel tells each open file once of what was lost. One that is opened when somebody else has been told hears nothing.
#[test]
fn a_loss_that_somebody_else_was_told_of_fails_the_commit() {
    let disk = ThinDisk::new("^has_journal");
    let store = Store::open(disk.path(), Duration::ZERO).unwrap();
    let staging = store.stage().unwrap();
    let files = staging.layer(0).join("diff");
    fs::create_dir_all(&files).unwrap();
    let mut file = fs::File::create(files.join("big")).unwrap();
    disk.thin_out(2);
    file.write_all(&noise(1, 24 << 20)).unwrap();
    let somebody = fs::File::open(disk.path()).unwrap();
    rustix::fs::syncfs(&somebody).expect_err("the disk has lost nothing");
    // What is written from now on stays, so that no other error gives it away.
    disk.backing.resize(1 << 20);
    let config = json!({ "rootfs": { "diff_ids": [digest(b"layer")] } }).to_string().into_bytes();
    let extracted = Extracted { bytes: 24 << 20, inodes: 2, implied_directories: Vec::new() };
    let tag = Some("r.io/a:b".to_owned());
    let new = NewImage { config, tag, layers: vec![Some(extracted)], ..NewImage::default() };
    store.commit_image(&staging, new).expect_err("what the disk has lost was committed");
    assert!(store.images().is_empty());
}

/// The next pull would take over what the kernel has reported as lost, to this pull alone.
#[tokio::test]
async fn layers_that_the_disk_has_lost_are_not_kept_for_the_next_pull() {
    let disk = ThinDisk::new("^has_journal");
    let mut node = Node::start_rooted_at(disk.path()).await;
    disk.thin_out(2);
    // So small that nothing is flushed before the pull fails for its false layer.
    let image = ImageBuilder::new()
        .layer_as(Compression::Plain, &[Entry::file("f0", 0o644, noise(0, 6 << 20))])
        .layer_with_false_diff_id(&[Entry::file("f1", 0o644, noise(1, 8 << 20))]);
    let image = image.push(registry::shared().await, "test/lost", "1").await;
    let refused = node.pull(&image.reference).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
    let kept = walk(&node.names.root().join("kept"));
    assert_eq!(kept, Vec::<PathBuf>::new());
    assert_eq!(images(&mut node).await, []);
    disk.backing.resize(1 << 20);
    node.finish().await;
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_of_a_pull_goes_on_with_a_whole_store() {
    const ROUNDS: u32 = 6;
    let mut node = Node::start().await;
    let image = pushed("killed", 4, 2 << 20).await;
    let began = Instant::now();
    pull_and_remove(&mut node, &image).await;
    let whole = began.elapsed();
    for round in 0..ROUNDS {
        let (mut client, spec) =
            (node.image.clone(), api::ImageSpec { image: image.reference.clone(), ..Default::default() });
        let request = api::PullImageRequest { image: Some(spec), ..Default::default() };
        let pull = tokio::spawn(async move { client.pull_image(request).await });
        // The moment is the test's input, not something that is waited for.
        tokio::time::sleep(whole * round / ROUNDS + Duration::from_millis(1)).await;
        node.kill9();
        let _ = pull.await.unwrap();
        node.start_again().await;
        let root = node.names.root();
        assert_eq!(walk(&root.join("staging")), Vec::<PathBuf>::new(), "round {round}");
        match images(&mut node).await.as_slice() {
            [] => assert_eq!(walk(&root.join("layers")), Vec::<PathBuf>::new(), "round {round}"),
            _ => assert_whole(&root, 4, 2 << 20),
        }
        pull_and_remove(&mut node, &image).await;
    }
    node.finish().await;
}

async fn pull_and_remove(node: &mut Node, image: &Pushed) {
    node.pull(&image.reference).await.unwrap();
    assert_whole(&node.names.root(), 4, 2 << 20);
    let spec = api::ImageSpec { image: image.reference.clone(), ..Default::default() };
    node.image.remove_image(api::RemoveImageRequest { image: Some(spec) }).await.unwrap();
}
