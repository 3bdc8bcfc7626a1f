//! Blobs: resumption, limits, and redirects to storage.

use std::time::Instant;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::fault::*;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::registry::{Credentials, ErrorKind, RegistryError};

fn content() -> Bytes {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into()
}

/// Fetches in a task of its own, as a pull does.
async fn fetch(reference: &Reference, digest: &Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
    let (reference, digest) = (reference.clone(), digest.clone());
    tokio::spawn(async move { read_all(&reference, &digest, size).await }).await.unwrap()
}

async fn read_all(reference: &Reference, digest: &Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
    let mut blob = client().open_blob(reference, &Credentials::Anonymous, digest, size).await?;
    let mut all = Vec::new();
    while let Some(chunk) = blob.next_chunk().await? {
        all.extend_from_slice(&chunk);
    }
    assert_eq!(blob.next_chunk().await?, None);
    Ok(all)
}

fn catalog() -> (Catalog, Digest, u64) {
    let mut catalog = Catalog::default();
    catalog.add_blob(OCI_LAYER, &content());
    (catalog, Digest::of(&content()), content().len() as u64)
}

#[tokio::test]
async fn a_blob_comes_whole_as_chunks_and_as_a_reader() {
    let (catalog, digest, size) = catalog();
    let server = FaultRegistry::start(move |seen| catalog.answer(seen)).await;
    let reference = server.reference("app:v1");
    assert_eq!(fetch(&reference, &digest, size).await.unwrap(), content());
    let blob = client().open_blob(&reference, &Credentials::Anonymous, &digest, size).await.unwrap();
    let mut all = Vec::new();
    std::pin::pin!(blob.into_reader()).read_to_end(&mut all).await.unwrap();
    assert_eq!(all, content());
}

#[tokio::test]
async fn a_broken_or_stalled_body_is_resumed_where_it_ended() {
    let (catalog, digest, size) = catalog();
    let server = FaultRegistry::start(move |seen| match seen.earlier {
        0 => catalog.answer(seen).broken_after(1000, Tail::Breaks),
        1 => catalog.answer(seen).broken_after(5000, Tail::Stalls),
        2 => Reply::status(503),
        _ => catalog.answer(seen),
    })
    .await;
    assert_eq!(fetch(&server.reference("app:v1"), &digest, size).await.unwrap(), content());
    let ranges: Vec<_> = server.seen().into_iter().map(|seen| seen.range).collect();
    let resumed = |from: u32| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, resumed(1000), resumed(6000), resumed(6000)]);
}

#[tokio::test]
async fn a_server_without_ranges_repeats_what_is_skipped() {
    let (catalog, digest, size) = catalog();
    let server = FaultRegistry::start(move |seen| {
        let whole = catalog.answer(&Seen { range: None, ..seen.clone() });
        if seen.earlier == 0 { whole.broken_after(70_000, Tail::Breaks) } else { whole }
    })
    .await;
    assert_eq!(fetch(&server.reference("app:v1"), &digest, size).await.unwrap(), content());
}

#[tokio::test]
async fn a_server_that_resumes_elsewhere_is_not_believed() {
    let (catalog, digest, size) = catalog();
    let server = FaultRegistry::start(move |seen| match seen.earlier {
        0 => catalog.answer(seen).broken_after(1000, Tail::Breaks),
        _ => Reply::status(206).header("content-range", "bytes 0-9/800000").body("0123456789"),
    })
    .await;
    let error = fetch(&server.reference("app:v1"), &digest, size).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn a_body_that_always_breaks_is_given_up() {
    let (catalog, digest, size) = catalog();
    let server = FaultRegistry::start(move |seen| catalog.answer(seen).broken_after(10, Tail::Breaks)).await;
    let error = fetch(&server.reference("app:v1"), &digest, size).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("fetch blob {digest} of ")), "{error}");
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn more_bytes_than_the_manifest_says_are_refused() {
    let (catalog, digest, size) = catalog();
    let server = FaultRegistry::start(move |seen| match seen.path.contains("/app/") {
        true => catalog.answer(seen),
        false => Reply::ok("endless").tail(Tail::Repeats),
    })
    .await;
    let error = fetch(&server.reference("app:v1"), &digest, size - 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    let error = fetch(&server.reference("app:v1"), &digest, size + 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = fetch(&server.reference("endless:v1"), &digest, size).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

#[tokio::test]
async fn a_redirect_to_storage_loses_the_credentials_and_its_signature_is_not_shown() {
    let (catalog, digest, size) = catalog();
    let storage = FaultRegistry::start(move |seen| match seen.query.as_str() {
        "sig=s3cret" => catalog.answer(seen),
        _ => Reply::status(403).body("SignatureDoesNotMatch"),
    })
    .await;
    let (host, target) = (storage.address, digest.clone());
    let server = FaultRegistry::start(move |seen| {
        let signature = if seen.path.starts_with("/v2/app/") { "s3cret" } else { "wr0ng" };
        match &seen.authorization {
            None => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
            Some(_) => Reply::status(307)
                .header("location", format!("http://{host}/v2/app/blobs/{target}?sig={signature}")),
        }
    })
    .await;
    let credentials = Credentials::Basic { username: "user".into(), password: "hush".into() };
    let client = client();
    let mut blob = client.open_blob(&server.reference("app:v1"), &credentials, &digest, size).await.unwrap();
    assert!(blob.next_chunk().await.unwrap().is_some());
    let error = client.open_blob(&server.reference("bad:v1"), &credentials, &digest, size).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!format!("{error} {error:?}").contains("wr0ng"), "{error:?}");
    assert!(server.seen().iter().any(|seen| seen.authorization.is_some()));
    assert!(storage.seen().len() == 2 && storage.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_rate_limit_in_mid_blob_is_respected() {
    let (catalog, digest, size) = catalog();
    let server = FaultRegistry::start(move |seen| match seen.earlier {
        0 => catalog.answer(seen).broken_after(1000, Tail::Breaks),
        _ => Reply::status(429).header("retry-after", "600"),
    })
    .await;
    let error = fetch(&server.reference("app:v1"), &digest, size).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Unavailable, Some(429)));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let server = FaultRegistry::start(|seen| Reply::status(302).header("location", &seen.path)).await;
    let started = Instant::now();
    let error = fetch(&server.reference("app:v1"), &Digest::of(b""), 0).await.unwrap_err();
    assert!(error.to_string().contains("redirects more than 10 times"), "{error}");
    assert_eq!(server.seen().len(), 11);
    assert!(started.elapsed().as_secs() < 5);
}
