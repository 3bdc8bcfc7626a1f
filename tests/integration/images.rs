//! Images: pull in every format, list, status, remove, sizes, and what a hostile registry or layer may not do.

use std::path::Path;

use podd::api;
use serde_json::json;
use tonic::Code;

use crate::common::front::{Behaviour, Front};
use crate::common::image::{Compression, Format, digest, host_architecture, push_list, pushed_busybox};
use crate::common::tar::Entry;
use crate::common::{ContainerSpec, ImageBuilder, Node, PodSpec, busybox, random_tag, registry};

#[tokio::test]
async fn a_pulled_image_is_listed_under_one_digest_everywhere() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    let image_ref = node.pull(&pushed.reference).await.unwrap();
    let status = node.image_status(&pushed.reference).await.unwrap();
    assert_eq!(status.repo_tags, [pushed.reference.clone()]);
    assert_eq!(status.repo_digests, [pushed.by_digest.clone()]);
    assert!(status.size > 500_000, "{}", status.size);
    assert_eq!(image_ref, status.id, "image_ref and ID are one digest (DESIGN 8)");
    for name in [status.id.as_str(), &pushed.by_digest] {
        assert_eq!(node.image_status(name).await.map(|image| image.id), Some(status.id.clone()), "{name}");
    }
    let listed = node.image.list_images(api::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(listed, [status]);
    node.finish().await;
}

/// B20
#[tokio::test]
async fn the_status_of_an_absent_image_is_empty_and_its_removal_succeeds() {
    let mut node = Node::start().await;
    let absent = format!("{}/test/absent:1", registry::shared().await.host());
    assert_eq!(node.image_status(&absent).await, None);
    let spec = api::ImageSpec { image: absent, ..Default::default() };
    node.image.remove_image(api::RemoveImageRequest { image: Some(spec) }).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn every_manifest_format_and_compression_gives_the_same_files() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let pod = node.run_pod(PodSpec::new(&node, "formats")).await;
    let all = [Compression::Plain, Compression::Gzip, Compression::Zstd];
    // Docker's own formats have no Zstandard.
    for (format, compressions) in [(Format::Oci, &all[..]), (Format::Docker, &all[..2])] {
        for &compression in compressions {
            let name = format!("{format:?}-{compression:?}").to_lowercase();
            let words = [Entry::file("word", 0o644, name.clone())];
            let image = busybox().layer_as(compression, &words).format(format);
            let pushed = image.push(registry, "test/formats", &name).await;
            let image = node.pull(&pushed.reference).await.unwrap();
            let spec = ContainerSpec::script(&name, "cat /word").with(|config| {
                config.image = Some(api::ImageSpec { image, ..Default::default() });
            });
            assert_eq!(node.run_to_end(&pod, spec).await, (0, name));
        }
    }
    node.finish().await;
}

#[tokio::test]
async fn a_list_is_resolved_to_the_platform_of_the_machine() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let foreign = if host_architecture() == "amd64" { "arm64" } else { "amd64" };
    let own = busybox().layer(&[Entry::file("platform", 0o644, "own")]);
    let other = busybox().layer(&[Entry::file("platform", 0o644, "other")]).architecture(foreign);
    for (format, member) in [(Format::Oci, Format::Oci), (Format::Docker, Format::Docker)] {
        let (own, other) = (own.clone().format(member), other.clone().format(member));
        let tag = format!("{format:?}").to_lowercase();
        push_list(&[other.clone(), own], format, registry, "test/list", &tag).await;
        let image = node.pull(&format!("{}/test/list:{tag}", registry.host())).await.unwrap();
        let pod = node.run_pod(PodSpec::new(&node, &tag)).await;
        let spec = ContainerSpec::script("c", "cat /platform").with(|config| {
            config.image = Some(api::ImageSpec { image, ..Default::default() });
        });
        assert_eq!(node.run_to_end(&pod, spec).await, (0, "own".to_owned()));
        push_list(&[other], format, registry, "test/list", "foreign").await;
        let refused = node.pull(&format!("{}/test/list:foreign", registry.host())).await.unwrap_err();
        assert!(refused.message().contains(host_architecture()), "{refused:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn layers_hide_replace_and_keep_what_is_below() {
    let mut node = Node::start().await;
    let below = [
        Entry::dir("a", 0o700).owned(1000, 1000),
        Entry::file("a/gone", 0o644, "x"),
        Entry::file("a/stays", 0o600, "below").owned(1000, 1000),
        Entry::dir("b", 0o755),
        Entry::file("b/hidden", 0o644, "x"),
        Entry::file("c", 0o644, "was a file"),
        Entry::file("d", 0o4755, "setuid"),
    ];
    let above = [
        Entry::whiteout("a/gone"),
        Entry::opaque("b"),
        Entry::file("b/new", 0o644, "new"),
        Entry::dir("c", 0o755),
        Entry::symlink("c/link", "../a/stays"),
        Entry::hardlink("c/hard", "b/new").with_mode(0o644),
        Entry::file("tmp/implied", 0o644, "its parent is not in this layer"),
        Entry::file("tagged", 0o644, "x").xattr("user.podd", b"kept"),
        Entry::char_device("null2", 1, 3),
    ];
    let pushed =
        busybox().layer(&below).layer(&above).push(registry::shared().await, "test/layers", "1").await;
    let image = node.pull(&pushed.reference).await.unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "layers")).await;
    let spec = ContainerSpec::waiting("c")
        .with(|config| config.image = Some(api::ImageSpec { image, ..Default::default() }));
    let id = node.run(&pod, spec).await;
    assert_eq!(node.exec_ok(&id, "ls -A /a /b /c").await, "/a:\nstays\n\n/b:\nnew\n\n/c:\nhard\nlink");
    assert_eq!(
        node.exec_ok(&id, "cat /c/link; stat -c ' %a %u' /a /a/stays").await,
        "below 700 1000\n 600 1000"
    );
    assert_eq!(node.exec_ok(&id, "stat -c '%a %h' /d /b/new /c/hard").await, "4755 1\n644 2\n644 2");
    assert_eq!(
        node.exec_ok(&id, "stat -c '%a' /tmp; stat -c '%F %t %T' /null2").await,
        "1777\ncharacter special file 1 3"
    );
    node.finish().await;
}

/// B19
#[tokio::test]
async fn removing_an_image_by_id_removes_every_tag_of_it() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let image = busybox().layer(&[Entry::file("tags", 0o644, random_tag())]);
    let (one, two) =
        (image.push(registry, "test/tags", "1").await, image.push(registry, "test/tags", "2").await);
    let id = node.pull(&one.reference).await.unwrap();
    assert_eq!(node.pull(&two.reference).await.unwrap(), id);
    let mut tags = node.image_status(&id).await.unwrap().repo_tags;
    tags.sort();
    assert_eq!(tags, [one.reference.clone(), two.reference.clone()]);
    let spec = api::ImageSpec { image: id.clone(), ..Default::default() };
    node.image.remove_image(api::RemoveImageRequest { image: Some(spec) }).await.unwrap();
    for name in [&one.reference, &two.reference, &id] {
        assert_eq!(node.image_status(name).await, None);
    }
    node.finish().await;
}

/// B19
#[tokio::test]
async fn an_image_that_loses_its_tag_keeps_its_digest() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let repository = format!("test/moving-{}", random_tag());
    let old = busybox().push(registry, &repository, "latest").await;
    let old_id = node.pull(&old.reference).await.unwrap();
    let new = busybox().layer(&[Entry::file("new", 0o644, "")]).push(registry, &repository, "latest").await;
    let new_id = node.pull(&new.reference).await.unwrap();
    assert_ne!(old_id, new_id);
    let status = node.image_status(&old_id).await.unwrap();
    assert_eq!((status.repo_tags, status.repo_digests), (vec![], vec![old.by_digest]));
    node.finish().await;
}

#[tokio::test]
async fn users_of_the_image_are_reported() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let by_uid = busybox().config(&json!({ "User": "1002:7" })).push(registry, "test/user", "uid").await;
    let by_name = busybox().config(&json!({ "User": "www-data" })).push(registry, "test/user", "name").await;
    node.pull(&by_uid.reference).await.unwrap();
    node.pull(&by_name.reference).await.unwrap();
    let status = node.image_status(&by_uid.reference).await.unwrap();
    assert_eq!((status.uid.map(|uid| uid.value), status.username.as_str()), (Some(1002), ""));
    let status = node.image_status(&by_name.reference).await.unwrap();
    assert_eq!((status.uid, status.username.as_str()), (None, "www-data"));
    node.finish().await;
}

#[tokio::test]
async fn the_image_file_system_is_where_the_images_are() {
    let mut node = Node::start().await;
    node.pull(&pushed_busybox().await.reference).await.unwrap();
    let info = node.image.image_fs_info(api::ImageFsInfoRequest {}).await.unwrap().into_inner();
    let images = &info.image_filesystems[0];
    let at = &images.fs_id.as_ref().unwrap().mountpoint;
    assert!(Path::new(at).starts_with(node.names.root()), "{at}");
    assert!(
        images.used_bytes.unwrap().value > 0 && images.inodes_used.unwrap().value > 0 && images.timestamp > 0
    );
    assert_eq!(info.container_filesystems.len(), 1);
    node.finish().await;
}

/// B20
#[tokio::test]
async fn a_failed_pull_names_registry_repository_tag_and_status() {
    let mut node = Node::start().await;
    let host = registry::shared().await.host().to_owned();
    let refused = node.pull(&format!("{host}/test/nowhere:v9")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    for part in [host.as_str(), "test/nowhere", "v9", "404"] {
        assert!(refused.message().contains(part), "{part} is not in {refused:?}");
    }
    let refused = node.pull("127.0.0.1:9/test/nobody:1").await.unwrap_err();
    assert!(refused.message().contains("127.0.0.1:9"), "{refused:?}");
    let refused = node.pull("Not A Reference").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn what_breaks_off_is_resumed_and_a_busy_registry_is_asked_again() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    let cut = Front::new(Behaviour::Cut(1)).await;
    node.pull(&pushed.via(&cut.host).reference).await.unwrap();
    assert!(cut.ranges() > 0, "the pull began again instead of going on");
    let layer = Entry::file("busy", 0o644, random_tag());
    let other = busybox().layer(&[layer]).push(registry::shared().await, "test/busy", "1").await;
    let busy = Front::new(Behaviour::Busy(2)).await;
    node.pull(&other.via(&busy.host).reference).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn damaged_and_lying_content_is_refused_and_nothing_of_it_stays() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let corrupt = Front::new(Behaviour::Corrupt).await;
    let refused = node.pull(&pushed_busybox().await.via(&corrupt.host).reference).await.unwrap_err();
    assert!(refused.message().contains("sha256:"), "{refused:?}");
    let endless = Front::new(Behaviour::Cut(usize::MAX)).await;
    node.pull(&pushed_busybox().await.via(&endless.host).reference).await.unwrap_err();
    let lying = busybox().layer_with_false_diff_id(&[Entry::file("x", 0o644, "x")]);
    let lying = lying.push(registry, "test/lying", "1").await;
    let refused = node.pull(&lying.reference).await.unwrap_err();
    assert!(refused.message().contains(&digest(b"something else")), "{refused:?}");
    let listed = node.image.list_images(api::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(listed, []);
    node.pull(&pushed_busybox().await.reference).await.expect("a good copy is taken afterwards");
    node.finish().await;
}

#[tokio::test]
async fn a_hostile_layer_cannot_leave_its_directory() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let tag = random_tag();
    let victim = format!("/tmp/podd-escaped-{tag}");
    let deep = "../".repeat(24);
    let attacks: Vec<(&str, Vec<Entry>)> = vec![
        ("dotdot", vec![Entry::file(&format!("{deep}tmp/podd-escaped-{tag}"), 0o644, "x")]),
        (
            "through-link",
            vec![Entry::symlink("out", "/tmp"), Entry::file(&format!("out/podd-escaped-{tag}"), 0o644, "x")],
        ),
        ("hard-link", vec![Entry::hardlink("stolen", &format!("{deep}etc/hostname"))]),
        ("whiteout", vec![Entry::file(&format!("{deep}etc/.wh.hostname"), 0o644, "")]),
        ("whiteout-of-parent", vec![Entry::file("a/.wh...", 0o644, "")]),
    ];
    for (name, entries) in attacks {
        let pushed = ImageBuilder::new().layer(&entries).push(registry, "test/hostile", name).await;
        // Either answer is right, an error or a file that stays inside; what counts is the host.
        let _ = node.pull(&pushed.reference).await;
        assert!(!Path::new(&victim).exists(), "{name} wrote {victim}");
        assert!(Path::new("/etc/hostname").exists(), "{name} removed a file of the host");
    }
    node.pull(&pushed_busybox().await.reference).await.expect("the daemon goes on");
    node.finish().await;
}

#[tokio::test]
async fn many_pulls_of_one_image_are_one_pull() {
    let mut node = Node::start().await;
    let layer = Entry::file("shared", 0o644, random_tag());
    let pushed = busybox().layer(&[layer]).push(registry::shared().await, "test/shared", "1").await;
    let front = Front::new(Behaviour::AnonymousTokens).await;
    let reference = pushed.via(&front.host).reference;
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, image) = (node.image.clone(), reference.clone());
            let image = Some(api::ImageSpec { image, ..Default::default() });
            tokio::spawn(async move {
                client.pull_image(api::PullImageRequest { image, ..Default::default() }).await
            })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert!(front.blobs() <= pushed.layers.len() + 1, "{} blobs were fetched", front.blobs());
    node.pull(&reference).await.unwrap();
    node.finish().await;
}
