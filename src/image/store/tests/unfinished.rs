//! Layers of pulls that did not end are used by the next one, until they are too old.

use super::*;
use crate::image::store::unfinished::{EXTRACTED, KEPT};

fn kept(root: &Path) -> usize {
    fs::names(&root.join(KEPT)).unwrap().len()
}

/// Unpacks a layer as a pull does.
fn finish(staging: &Staging, index: usize, tar: &[u8]) -> Extracted {
    let diff_id = Digest::of(tar);
    let expected =
        LayerExpectation { digest: diff_id.clone(), size: tar.len() as u64, diff_id: diff_id.clone() };
    let to = staging.layer(index);
    let extracted = extract_layer(tar, Compression::None, &expected, &to, &Limits::default()).unwrap();
    staging.finished(index, &diff_id, &extracted);
    extracted
}

/// Layers whose directories are implied, so that they look different above different layers.
fn implying() -> (Vec<u8>, Vec<u8>) {
    (Tar::new().directory("tmp", 0o1777).finish(), Tar::new().file("tmp/x", "x").finish())
}

#[test]
fn what_an_aborted_pull_has_finished_is_taken_over_unsettled() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let (base, top) = implying();
    let staging = store.stage().unwrap();
    let extracted = finish(&staging, 3, &top);
    std::fs::create_dir_all(staging.layer(4).join(FILES)).unwrap();
    drop(staging);
    assert_eq!(kept(root.path()), 1, "the finished layer, and not the other");

    let next = store.stage().unwrap();
    assert_eq!(next.take_over(&Digest::of(b"another"), 1), None);
    assert_eq!(next.take_over(&Digest::of(&top), 1), Some(extracted.clone()));
    assert_eq!(next.take_over(&Digest::of(&top), 2), None, "it has one taker");
    assert_eq!(kept(root.path()), 0);
    let layers = vec![base, top];
    let new = NewImage {
        config: config(&layers),
        layers: vec![Some(finish(&next, 0, &layers[0])), Some(extracted)],
        ..NewImage::default()
    };
    let image = store.commit_image(&next, new).unwrap();
    drop(next);
    assert_eq!(kept(root.path()), 0, "nothing is kept of a pull that came to its end");
    let tmp = store.inner.files(&image.chain[1]).join("tmp");
    let mode = std::os::unix::fs::MetadataExt::mode(&tmp.metadata().unwrap());
    assert_eq!(mode & 0o7777, 0o1777, "settled against the layers of its own image");
    assert_eq!(layers_left(&store), 2);
}

#[test]
fn a_settled_layer_is_not_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let (base, top) = implying();
    let staging = store.stage().unwrap();
    let layers = vec![base, top];
    let new = NewImage {
        config: config(&layers),
        layers: vec![Some(finish(&staging, 0, &layers[0])), Some(finish(&staging, 1, &layers[1]))],
        ..NewImage::default()
    };
    std::fs::create_dir(image::path(root.path(), &Digest::of(&new.config)).with_extension("json.tmp"))
        .unwrap();
    store.commit_image(&staging, new).unwrap_err();
    drop(staging);
    assert_eq!((kept(root.path()), layers_left(&store)), (0, 0));
}

#[test]
fn they_survive_a_killed_daemon_and_a_killed_guest_but_no_reboot() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let tool = Store::join(root.path()).unwrap();
    let (of_owner, of_guest) = (store.stage().unwrap(), tool.stage().unwrap());
    finish(&of_owner, 0, &layer("a"));
    finish(&of_guest, 0, &layer("b"));
    drop(of_guest);
    assert_eq!(kept(root.path()), 1, "a guest keeps, too");
    // As kill -9 leaves it.
    let path = of_owner.layer(0);
    let remains = root.path().join("staging/0");
    std::fs::create_dir(&remains).unwrap();
    std::fs::rename(&path, remains.join("0")).unwrap();
    drop((of_owner, tool, store));
    let store = reopen(root.path());
    assert_eq!((kept(root.path()), fs::names(&root.path().join("staging")).unwrap().len()), (2, 0));
    let staging = store.stage().unwrap();
    assert!(staging.take_over(&Digest::of(&layer("a")), 0).is_some());
    // As if of an earlier boot.
    let record = root.path().join(KEPT).join(Digest::of(&layer("b")).hex()).join(EXTRACTED);
    let text = std::fs::read_to_string(&record).unwrap();
    let boot = store.inner.boot_id.clone();
    let boot = serde_json::to_value(boot).unwrap();
    std::fs::write(&record, text.replace(boot.as_str().unwrap(), "another boot")).unwrap();
    assert_eq!(staging.take_over(&Digest::of(&layer("b")), 1), None);
    assert!(!staging.layer(1).exists(), "there is room for the layer that is fetched instead");
    assert_eq!(kept(root.path()), 0);
}

#[test]
fn they_go_when_they_are_too_old_or_the_disk_is_full() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let staging = store.stage().unwrap();
    finish(&staging, 0, &layer("a"));
    drop(staging);
    let next = store.inner.expire_kept(KEEP).unwrap();
    assert!(next <= KEEP + Duration::from_secs(1) && next > KEEP - Duration::from_secs(60), "{next:?}");
    assert_eq!(kept(root.path()), 1);
    store.discard_unfinished();
    assert_eq!((kept(root.path()), store.inner.expire_kept(KEEP)), (0, None));
    let staging = store.stage().unwrap();
    finish(&staging, 0, &layer("a"));
    staging.keep_nothing();
    drop(staging);
    assert_eq!(kept(root.path()), 0);
    drop(store);
    // The daemon's own clock: one sleep, for as long as something is kept.
    let store = loop {
        match Store::open(root.path(), Duration::from_millis(100)) {
            Err(StoreError::InUse(_)) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    let staging = store.stage().unwrap();
    finish(&staging, 0, &layer("a"));
    drop(staging);
    let end = Instant::now() + Duration::from_secs(10);
    while kept(root.path()) > 0 {
        assert!(Instant::now() < end, "it is kept for ever");
        std::thread::yield_now();
    }
    assert_trash_empties(root.path());
}
