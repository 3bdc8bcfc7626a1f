//! The store on a real disk, with real overlays, and stopped at every point. These tests need root.

mod check;
mod crash;
mod images;
mod overlay;
mod shared;
mod unfinished;

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::image::extract::tests::archive::Tar;
use crate::image::extract::{Compression, Extracted, LayerExpectation, Limits, extract_layer};

/// How long unfinished layers are kept.
const KEEP: Duration = Duration::from_secs(3600);

/// An image's layers as archives, lowest first.
pub(super) type Layers = Vec<Vec<u8>>;

fn diff_ids(layers: &Layers) -> Vec<Digest> {
    layers.iter().map(|tar| Digest::of(tar)).collect()
}

fn config(layers: &Layers) -> Vec<u8> {
    let ids: Vec<String> = diff_ids(layers).iter().map(Digest::to_string).collect();
    serde_json::to_vec(&serde_json::json!({"rootfs": {"type": "layers", "diff_ids": ids}})).unwrap()
}

/// Unpacks what is not here yet.
fn unpack(store: &Store, staging: &Staging, layers: &Layers) -> NewImage {
    let mut new =
        NewImage { config: config(layers), manifest: b"{}".to_vec(), size: 7, ..NewImage::default() };
    for (index, (tar, chain)) in layers.iter().zip(chain_ids(&diff_ids(layers))).enumerate() {
        let digest = Digest::of(tar);
        let expected = LayerExpectation { digest: digest.clone(), size: tar.len() as u64, diff_id: digest };
        new.layers.push(match staging.reuse(&chain) {
            Some(info) => {
                assert_eq!(store.layer(&chain), Some(info));
                None
            }
            None => {
                let to = staging.layer(index);
                Some(extract_layer(&tar[..], Compression::None, &expected, &to, &Limits::default()).unwrap())
            }
        });
    }
    new
}

fn pull(store: &Store, tag: &str, layers: &Layers) -> Arc<Image> {
    let staging = store.stage().unwrap();
    let mut new = unpack(store, &staging, layers);
    new.tag = Some(tag.to_owned());
    new.repo_digest = Some(format!("repo@{}", Digest::of(&new.config)));
    store.commit_image(&staging, new).unwrap()
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, name).finish()
}

/// Those that are left when the owner has collected.
fn layers_left(store: &Store) -> usize {
    store.inner.collect().unwrap();
    layers_on_disk(&store.inner.root)
}

fn layers_on_disk(root: &Path) -> usize {
    fs::names(&root.join("layers")).unwrap().len()
}

/// Waits until the trash is empty.
fn assert_trash_empties(root: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while !fs::names(&root.join("trash")).unwrap().is_empty() {
        assert!(Instant::now() < end, "the trash is not emptied");
        std::thread::yield_now();
    }
}

/// Opens the store. A process that another test is just starting may still hold a copy of the lock, until its exec.
fn reopen(root: &Path) -> Store {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(root, KEEP) {
            Err(StoreError::InUse(_)) if Instant::now() < end => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}
