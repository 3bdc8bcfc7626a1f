//! Images as volumes (KEP-4639): what a container sees of them, what is refused, and how long they are kept.

use std::fs;
use std::time::Duration;

use podd::api;
use serde_json::json;
use tonic::{Code, Status};

use crate::common::image::{ImageBuilder, pushed_busybox};
use crate::common::requests::Pod;
use crate::common::tar::Entry;
use crate::common::{ContainerSpec, Node, PodSpec, random_tag, registry};
use crate::images_store::push_artifact;

/// A model in three layers: of what the lowest has, one file is changed, one hidden, and one directory replaced.
fn model() -> ImageBuilder {
    ImageBuilder::new()
        .layer(&[
            Entry::dir("weights", 0o755),
            Entry::file("weights/one", 0o644, "old"),
            Entry::file("weights/gone", 0o644, "gone"),
            Entry::dir("replaced", 0o755),
            Entry::file("replaced/below", 0o644, ""),
            Entry::file("run.sh", 0o755, "#!/bin/sh\necho ran\n"),
        ])
        .layer(&[
            Entry::whiteout("weights/gone"),
            Entry::dir("replaced", 0o755),
            Entry::opaque("replaced"),
            Entry::file("replaced/above", 0o644, ""),
        ])
        .layer(&[
            Entry::file("weights/one", 0o644, "new"),
            Entry::symlink("inside", "/weights"),
            Entry::symlink("outside", "../../../../etc"),
            Entry::symlink("dangling", "nowhere"),
        ])
}

struct Volume {
    id: String,
    reference: String,
}

async fn pulled(node: &mut Node, image: &ImageBuilder) -> Volume {
    let pushed = image.push(registry::shared().await, "test/model", &random_tag()).await;
    Volume { id: node.pull(&pushed.reference).await.unwrap(), reference: pushed.reference }
}

impl Volume {
    /// As the kubelet asks for it.
    fn at(&self, container_path: &str, sub_path: &str) -> api::Mount {
        let image = api::ImageSpec {
            image: self.id.clone(),
            user_specified_image: self.reference.clone(),
            ..Default::default()
        };
        api::Mount {
            container_path: container_path.to_owned(),
            image: Some(image),
            image_sub_path: sub_path.to_owned(),
            readonly: true,
            ..Default::default()
        }
    }
}

fn waiting(name: &str, mounts: Vec<api::Mount>) -> ContainerSpec {
    ContainerSpec::waiting(name).with(|config| config.mounts = mounts)
}

async fn refusal(node: &mut Node, pod: &Pod, mount: api::Mount) -> Status {
    node.try_create(pod, waiting("refused", vec![mount])).await.unwrap_err()
}

#[tokio::test]
async fn b27_an_image_is_seen_as_its_layers_make_it_and_its_programs_run_but_nothing_is_written() {
    let mut node = Node::start().await;
    let model = pulled(&mut node, &model()).await;
    let flat = ImageBuilder::new().layer(&[Entry::file("only", 0o644, "one layer")]);
    let flat = pulled(&mut node, &flat).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod").privileged()).await;
    let mounts = vec![model.at("/model", ""), flat.at("/flat/deep/er", ""), model.at("/again", "")];
    let spec = waiting("c", mounts).secured(|context| context.privileged = true);
    let id = node.run(&pod, spec).await;
    let seen =
        "cat /model/weights/one /flat/deep/er/only /again/weights/one; ls /model/weights /model/replaced";
    assert_eq!(
        node.exec_ok(&id, seen).await,
        "newone layernew/model/replaced:\nabove\n\n/model/weights:\none"
    );
    for attempt in [
        "echo x > /model/weights/one",
        "touch /model/new",
        "mount -o remount,rw /model && touch /model/new",
        "mount -o remount,rw,bind /model && touch /model/new",
    ] {
        assert_ne!(node.exec(&id, attempt, 10).await.unwrap().code, 0, "{attempt}");
    }
    assert_eq!(node.exec_ok(&id, "/model/run.sh").await, "ran");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = node.names.run_dir().display().to_string();
    assert!(!table.lines().any(|line| line.contains(&own) && line.contains("volumes")), "{table}");
    let status = node.container_status(&id).await.unwrap();
    let image = status.mounts[1].image.clone().unwrap();
    assert_eq!(
        (image.image, image.image_ref, image.user_specified_image),
        (flat.id.clone(), flat.id, flat.reference)
    );
    node.finish().await;
}

#[tokio::test]
async fn b27_a_sub_path_stays_in_the_image_whatever_links_it_takes() {
    let mut node = Node::start().await;
    let with_etc = model().layer(&[Entry::dir("etc", 0o755), Entry::file("etc/of-image", 0o644, "")]);
    let model = pulled(&mut node, &with_etc).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let mounts = vec![
        model.at("/directory", "weights"),
        model.at("/linked", "inside/."),
        model.at("/up", "outside"),
        model.at("/file", "inside/one"),
    ];
    let id = node.run(&pod, waiting("c", mounts)).await;
    let seen = "ls /directory /linked /up; cat /file";
    assert_eq!(
        node.exec_ok(&id, seen).await,
        "/directory:\none\n\n/linked:\none\n\n/up:\nof-image\nnew",
        "a link to /etc is the image's own /etc"
    );
    for (sub_path, why) in [
        ("nothing", "\"nothing\" is not in the image"),
        ("weights/gone", "\"weights/gone\" is not in the image"),
        ("dangling", "\"dangling\" is not in the image"),
        ("weights/one/below", "is not in the image"),
        ("../etc", "is not a relative path"),
        ("/etc", "is not a relative path"),
    ] {
        let refused = refusal(&mut node, &pod, model.at("/x", sub_path)).await;
        let field = "ImageVolumeMountFailed: config.mounts[0].image_sub_path: ";
        assert!(refused.message().starts_with(field), "{refused:?}");
        assert!(refused.message().contains(why), "{refused:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn b27_an_image_volume_that_is_writable_shared_or_absent_is_refused() {
    let mut node = Node::start().await;
    let model = pulled(&mut node, &model()).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let changed = |change: fn(&mut api::Mount)| {
        let mut mount = model.at("/x", "");
        change(&mut mount);
        mount
    };
    for (mount, field) in [
        (changed(|mount| mount.readonly = false), "readonly"),
        (changed(|mount| mount.propagation = 1), "propagation"),
        (changed(|mount| mount.propagation = 2), "propagation"),
        (changed(|mount| mount.host_path = "/etc".to_owned()), "host_path"),
        (
            changed(|mount| mount.image.as_mut().unwrap().image = "127.0.0.1:9/test/absent:1".to_owned()),
            "image.image",
        ),
    ] {
        let refused = refusal(&mut node, &pod, mount).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        let expected = format!("ImageVolumeMountFailed: config.mounts[0].{field}: ");
        assert!(refused.message().starts_with(&expected), "{refused:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn an_image_that_the_pods_policy_rejects_is_no_volume_either() {
    let mut node = Node::start().await;
    let model = pulled(&mut node, &model()).await;
    let repository = model.reference.rsplit_once(':').unwrap().0;
    let policy = json!({
        "default": [{ "type": "insecureAcceptAnything" }],
        "transports": { "docker": { repository: [{ "type": "reject" }] } },
    });
    fs::create_dir(node.names.dir().join("policies")).unwrap();
    fs::write(node.names.dir().join("policies/tests.json"), policy.to_string()).unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    node.create(&pod, ContainerSpec::waiting("plain")).await;
    let refused = refusal(&mut node, &pod, model.at("/model", "")).await;
    assert_eq!(refused.code(), Code::Unknown);
    assert!(refused.message().starts_with("SignatureValidationFailed: "), "{refused:?}");
    assert!(refused.message().contains("/policies/tests.json"), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn an_artifact_is_a_volume_like_any_other() {
    let mut node = Node::start().await;
    let reference = push_artifact(&random_tag(), "models/one.bin", b"weights").await;
    let artifact = Volume { id: node.pull(&reference).await.unwrap(), reference };
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let mounts = vec![artifact.at("/a", ""), artifact.at("/one", "models/one.bin")];
    let id = node.run(&pod, waiting("c", mounts)).await;
    assert_eq!(node.exec_ok(&id, "cat /a/models/one.bin /one").await, "weightsweights");
    node.finish().await;
}

#[tokio::test]
async fn an_image_volume_outlives_the_removal_of_its_image_and_the_daemon() {
    let mut node = Node::start().await;
    let own = random_tag();
    let body = ImageBuilder::new().layer(&[Entry::file("own", 0o644, own.as_bytes())]);
    let volume = pulled(&mut node, &body).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let running = node.run(&pod, waiting("running", vec![volume.at("/v", "")])).await;
    let created = node.create(&pod, waiting("created", vec![volume.at("/v", "")])).await;
    let image = Some(api::ImageSpec { image: volume.id.clone(), ..Default::default() });
    node.image.remove_image(api::RemoveImageRequest { image }).await.unwrap();
    assert!(node.image_status(&volume.reference).await.is_none());
    let before = node.container_status(&running).await.unwrap();
    node.restart().await;
    assert_eq!(node.container_status(&running).await.unwrap(), before);
    node.start_container(&created).await.unwrap();
    for id in [&running, &created] {
        assert_eq!(node.exec_ok(id, "cat /v/own").await, own);
    }
    for id in [&running, &created] {
        node.stop_container(id, 1).await.unwrap();
        node.remove_container(id).await.unwrap();
    }
    crate::common::eventually("the layers of the removed image are gone", || async {
        let layers = crate::common::leftovers::walk(&node.names.root().join("layers"));
        (!layers.iter().any(|path| path.ends_with("own"))).then_some(())
    })
    .await;
    node.finish().await;
}

/// What is left of a create that was cut off is undone at the start, or is a whole container; the end of the test finds the rest.
#[tokio::test]
async fn a_daemon_that_is_killed_while_it_mounts_an_image_leaves_nothing_behind() {
    let mut node = Node::start().await;
    let model = pulled(&mut node, &model()).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    node.create(&pod, waiting("warm", vec![model.at("/model", "")])).await;
    for millis in [1, 3, 6, 10, 15, 25] {
        let spec = waiting(&format!("after-{millis}"), vec![model.at("/model", "weights")]);
        let create = node.try_create(&pod, spec);
        let _ = tokio::time::timeout(Duration::from_millis(millis), create).await;
        node.restart().await;
    }
    let image = Some(api::ImageSpec { image: model.id.clone(), ..Default::default() });
    node.image.remove_image(api::RemoveImageRequest { image }).await.unwrap();
    for container in node
        .runtime
        .list_containers(api::ListContainersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .containers
    {
        node.start_container(&container.id).await.unwrap();
        assert!(node.exec_ok(&container.id, "ls -R /model").await.contains("one"), "{container:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn an_image_of_many_layers_and_the_containers_own_image_are_volumes_too() {
    let mut node = Node::start().await;
    let many = (0..60).fold(ImageBuilder::new(), |image, n| {
        image.layer(&[Entry::file(&format!("file-{n}"), 0o644, n.to_string())])
    });
    let many = pulled(&mut node, &many).await;
    let reference = pushed_busybox().await.reference.clone();
    let own = Volume { id: node.pull(&reference).await.unwrap(), reference };
    let nothing = pulled(&mut node, &ImageBuilder::new()).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let mounts = vec![many.at("/many", ""), own.at("/own", ""), nothing.at("/nothing", "")];
    let id = node.run(&pod, waiting("c", mounts)).await;
    let seen = "ls /many | wc -l; cat /own/etc/passwd | head -1; ls -A /nothing | wc -l";
    assert_eq!(node.exec_ok(&id, seen).await, "60\nroot:x:0:0:root:/root:/bin/sh\n0");
    node.finish().await;
}
