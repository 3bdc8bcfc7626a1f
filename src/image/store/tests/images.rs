//! Names, users of layers, and what removal leaves.

use super::*;
use crate::image::extract::ArtifactWriter;
use crate::image::extract::tests::SmallDisk;

#[test]
fn an_image_survives_a_restart_and_is_found_by_every_name() {
    let root = tempfile::tempdir().unwrap();
    let layers = vec![layer("a"), layer("b")];
    let store = reopen(root.path());
    let image = pull(&store, "docker.io/library/x:1", &layers);
    assert_eq!(image.chain, chain_ids(&diff_ids(&layers)));
    drop(store);
    let store = reopen(root.path());
    assert_eq!(store.images(), [Arc::clone(&image)]);
    let id = image.id.to_string();
    let names = [
        "docker.io/library/x:1",
        &format!("repo@{id}"),
        &id,
        image.id.hex(),
        &image.id.hex()[..12],
        &id[..15],
    ];
    for name in names {
        assert_eq!(store.find(name).unwrap().as_ref(), Some(&image), "{name}");
    }
    for name in ["docker.io/library/x:2", "", "sha256:", "nothex", &"0".repeat(64)] {
        assert_eq!(store.find(name).unwrap(), None, "{name}");
    }
    assert_eq!(store.usage(), Usage { bytes: 2 * 4096, inodes: 4 });
    assert_eq!(
        (image.raw_config.clone(), image.raw_manifest.as_slice()),
        (config(&layers), b"{}".as_slice())
    );
}

#[test]
fn an_ambiguous_prefix_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    // Seventeen images: two of them share their first digit.
    for n in 0..17 {
        pull(&store, &format!("x:{n}"), &vec![layer(&n.to_string())]);
    }
    let first = |image: &Arc<Image>| image.id.hex()[..1].to_owned();
    let digits: Vec<String> = store.images().iter().map(first).collect();
    let twice = digits.iter().find(|digit| digits.iter().filter(|d| d == digit).count() > 1).unwrap();
    assert!(matches!(store.find(twice), Err(StoreError::Ambiguous { count: 2.., .. })));
}

#[test]
fn a_second_daemon_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let message = Store::open(root.path(), KEEP).err().unwrap().to_string();
    assert!(message.contains("in use by another podd"), "{message}");
    drop(store);
    reopen(root.path());
}

#[test]
fn a_tag_moves_and_the_old_image_stays() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let old = pull(&store, "x:latest", &vec![layer("old")]);
    let new = pull(&store, "x:latest", &vec![layer("new")]);
    let mut store = store;
    for restarted in [false, true] {
        if restarted {
            drop(store);
            store = reopen(root.path());
        }
        assert_eq!(store.find("x:latest").unwrap().unwrap().id, new.id);
        let old = store.find(old.id.as_str()).unwrap().unwrap();
        assert!(old.tags.is_empty());
        assert_eq!(old.repo_digests.len(), 1, "an untagged image keeps its repository digest");
        assert_eq!(store.find(old.repo_digests.first().unwrap()).unwrap().unwrap().id, old.id);
    }
}

#[test]
fn pulling_again_adds_names() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let layers = vec![layer("a")];
    pull(&store, "x:1", &layers);
    let image = pull(&store, "x:2", &layers);
    assert_eq!(image.tags.iter().collect::<Vec<_>>(), ["x:1", "x:2"]);
    assert!(store.untag("x:1").unwrap());
    assert!(!store.untag("x:1").unwrap());
    assert_eq!(store.find("x:1").unwrap(), None);
    assert!(store.untag("x:2").unwrap() && store.untag(image.repo_digests.first().unwrap()).unwrap());
    assert_eq!(store.images(), [], "nothing without a name is kept");
    assert_eq!((layers_left(&store), store.usage()), (0, Usage::default()));
}

#[test]
fn layers_go_with_their_last_user() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let one = pull(&store, "one:1", &vec![layer("base"), layer("one")]);
    let two = pull(&store, "two:1", &vec![layer("base"), layer("two")]);
    assert_eq!((layers_left(&store), store.usage().inodes), (3, 6), "a shared layer counts once");
    let lease = store.lease(&one.id).unwrap();
    assert!(store.remove(&one.id).unwrap());
    assert!(!store.remove(&one.id).unwrap(), "removing what is gone is a success");
    assert_eq!(layers_left(&store), 3, "a lease keeps them");
    drop(lease);
    assert_eq!((layers_left(&store), store.usage().inodes), (2, 4));
    assert!(store.lease(&one.id).is_none());

    let staging = store.stage().unwrap();
    assert!(staging.reuse(&two.chain[0]).is_some());
    assert!(store.remove(&two.id).unwrap());
    assert_eq!(layers_left(&store), 1, "a pull keeps what it found");
    drop(staging);
    assert_eq!((layers_left(&store), store.usage()), (0, Usage::default()));
    assert_trash_empties(root.path());
}

#[test]
fn a_container_keeps_its_layers_across_restarts() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let image = pull(&store, "x:1", &vec![layer("a"), layer("b")]);
    let container = ContainerId::generate();
    let rootfs = store.prepare_rootfs(&image, &container).unwrap();
    store.remove(&image.id).unwrap();
    drop(store);
    let store = reopen(root.path());
    assert_eq!(store.images(), []);
    assert_eq!(store.containers(), std::slice::from_ref(&container));
    assert!(rootfs.lower.iter().chain([&rootfs.upper, &rootfs.work]).all(|path| path.is_dir()));
    assert_eq!(store.rootfs(&image, &container).unwrap(), rootfs);
    store.remove_rootfs(&container).unwrap();
    store.remove_rootfs(&container).unwrap();
    assert_eq!((layers_left(&store), store.containers().len()), (0, 0));
    let message = store.prepare_rootfs(&image, &container).unwrap_err().to_string();
    assert!(message.contains("is not in the image store"), "{message}");
    assert_eq!(fs::names(&root.path().join("containers")).unwrap().len(), 0);
    assert_trash_empties(root.path());
}

#[test]
fn two_pulls_of_one_layer_both_succeed() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let layers = vec![layer("a"), layer("b")];
    let (first, second) = (store.stage().unwrap(), store.stage().unwrap());
    let (one, two) = (unpack(&store, &first, &layers), unpack(&store, &second, &layers));
    let image = store.commit_image(&first, NewImage { tag: Some("x:1".into()), ..one }).unwrap();
    assert_eq!(
        store.commit_image(&second, NewImage { tag: Some("x:2".into()), ..two }).unwrap().id,
        image.id
    );
    drop((first, second));
    assert_eq!((layers_left(&store), store.usage().inodes), (2, 4));
    store.remove(&image.id).unwrap();
    assert_eq!(layers_left(&store), 0);
    assert_trash_empties(root.path());
}

#[test]
fn concurrent_pulls_and_removals_leave_whole_images_only() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..15 {
                    let image = pull(
                        store,
                        &format!("x:{worker}"),
                        &vec![layer("base"), layer(&(round % 2).to_string())],
                    );
                    if let Some(lease) = store.lease(&image.id) {
                        let base = store.read_file(&image, "base", 100).unwrap();
                        assert_eq!(base.as_deref(), Some(b"base".as_slice()));
                        drop(lease);
                    }
                    store.remove(&image.id).unwrap();
                }
            });
        }
    });
    assert_eq!((layers_left(&store), store.usage()), (0, Usage::default()));
    assert_trash_empties(root.path());
}

#[test]
fn a_configuration_that_does_not_fit_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let staging = store.stage().unwrap();
    let new = unpack(&store, &staging, &vec![layer("a")]);
    let error = store.commit_image(&staging, NewImage { config: b"nonsense".to_vec(), ..new.clone() });
    assert!(matches!(error, Err(StoreError::Config(_))));
    let error = store.commit_image(&staging, NewImage { layers: Vec::new(), ..new.clone() });
    assert!(matches!(error, Err(StoreError::LayerCount { listed: 1, given: 0 })));
    let error = store.commit_image(&staging, NewImage { layers: vec![None], ..new });
    assert!(matches!(error, Err(StoreError::NoLayer(_))));
    drop(staging);
    assert_eq!(layers_left(&store), 0);
    assert_trash_empties(root.path());
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::new(scratch.path());
    let store = reopen(scratch.path());
    let image = pull(&store, "x:1", &vec![layer("a")]);
    let staging = store.stage().unwrap();
    let new = unpack(&store, &staging, &vec![layer("a"), layer("b")]);
    let filler = scratch.path().join("filler");
    let full = std::fs::write(&filler, vec![1; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let message = store.commit_image(&staging, new.clone()).unwrap_err().to_string();
    assert!(message.contains("no space is left"), "{message}");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!((store.images(), layers_left(&store)), (vec![image], 1));
    // With space again, the same pull goes through.
    assert_eq!(store.commit_image(&staging, new).unwrap().chain.len(), 2);
    drop(staging);
    assert_trash_empties(scratch.path());
    assert_eq!(fs::names(&scratch.path().join("staging")).unwrap(), Vec::<String>::new());
}

#[test]
fn an_image_volume_keeps_its_layers_like_the_root_filesystem() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let image = pull(&store, "x:1", &vec![layer("a")]);
    let volume = pull(&store, "y:1", &vec![layer("a"), layer("b"), layer("c")]);
    let container = ContainerId::generate();
    store.prepare_rootfs(&image, &container).unwrap();
    let lower = store.mount_source(&volume, &container).unwrap();
    assert_eq!(lower.len(), 3);
    assert!(lower[0].join("c").exists(), "the topmost layer comes first");
    store.remove(&image.id).unwrap();
    store.remove(&volume.id).unwrap();
    drop(store);
    let store = reopen(root.path());
    assert_eq!(layers_left(&store), 3, "also across a restart");
    assert!(lower.iter().all(|path| path.is_dir()));
    store.remove_rootfs(&container).unwrap();
    assert_eq!(layers_left(&store), 0);
    assert!(store.mount_source(&volume, &container).is_err());
    store.remove_rootfs(&container).unwrap();
}

#[test]
fn images_and_writable_layers_may_be_on_two_file_systems() {
    let (images, containers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_one, _two) = (SmallDisk::new(images.path()), SmallDisk::new(containers.path()));
    let places = Places { images: images.path().to_owned(), containers: containers.path().to_owned() };
    let store = Store::open(places.clone(), KEEP).unwrap();
    let image = pull(&store, "x:1", &vec![layer("a")]);
    let container = ContainerId::generate();
    let rootfs = store.prepare_rootfs(&image, &container).unwrap();
    assert!(rootfs.lower[0].starts_with(images.path()));
    assert!(rootfs.upper.starts_with(containers.path()) && rootfs.work.starts_with(containers.path()));
    assert_eq!(store.usage().inodes, 2);
    for root in [images.path(), containers.path()] {
        assert!(matches!(Store::open(root, KEEP), Err(StoreError::InUse(_))), "each is locked");
    }
    store.remove(&image.id).unwrap();
    drop(store);
    let end = Instant::now() + Duration::from_secs(10);
    let store = loop {
        match Store::open(places.clone(), KEEP) {
            Err(StoreError::InUse(_)) if Instant::now() < end => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(layers_left(&store), 1);
    store.remove_rootfs(&container).unwrap();
    assert_eq!(layers_left(&store), 0);
    assert_trash_empties(images.path());
    assert_trash_empties(containers.path());
    // The disks are unmounted next, which the thread that empties must not hinder.
    drop(store);
}

#[test]
fn an_artifact_is_an_image_by_its_manifest() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let manifest = br#"{"artifactType":"a/b"}"#.to_vec();
    let id = Digest::of(&manifest);
    let staging = store.stage().unwrap();
    let mut writer = ArtifactWriter::create(&staging.layer(0)).unwrap();
    writer.file("models/one", &b"weights"[..], &Digest::of(b"weights"), 7).unwrap();
    let new = NewImage {
        config: b"{}".to_vec(),
        manifest,
        artifact: Some("a/b".to_owned()),
        tag: Some("x:1".to_owned()),
        layers: vec![Some(writer.finish().unwrap())],
        ..NewImage::default()
    };
    let image = store.commit_image(&staging, new).unwrap();
    drop((staging, store));
    let store = reopen(root.path());
    assert_eq!(store.find("x:1").unwrap(), Some(Arc::clone(&image)));
    assert_eq!((image.id.clone(), image.chain.clone()), (id.clone(), chain_ids(&[id])));
    assert_eq!(store.read_file(&image, "models/one", 10).unwrap().as_deref(), Some(&b"weights"[..]));
    assert_eq!(store.check_layer(&image.chain[0]), []);
    assert!(store.stage().unwrap().reuse(&image.chain[0]).is_some());
    store.remove(&image.id).unwrap();
    assert_eq!(layers_left(&store), 0);
}
