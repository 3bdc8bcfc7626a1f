//! Several endpoints of one image: their order, when the next one is asked, and what is said when all fail.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::fault::*;
use crate::image::digest::Digest;
use crate::image::registries::{Registries, parse};
use crate::image::registry::{
    ClientConfig, Credentials, ErrorKind, Platform, PullAuth, RegistryClient, Resolved, Source, Timeouts,
};

fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
}

/// `origin.test/app`, which is served by the given addresses and never by itself.
fn mirrored(mirrors: &[String]) -> RegistryClient {
    client_with(&conf(mirrors, true))
}

fn conf(mirrors: &[String], blocked: bool) -> String {
    let mirrors = mirrors.iter().map(|at| format!("[[registry.mirror]]\nlocation = \"{at}\"\n"));
    format!("[[registry]]\nlocation = \"origin.test\"\nblocked = {blocked}\n{}", mirrors.collect::<String>())
}

async fn source(client: &RegistryClient, text: &str) -> Source {
    client.source(&text.parse().unwrap(), &PullAuth::default()).await.unwrap()
}

async fn resolve(client: &RegistryClient, text: &str) -> Result<Resolved, String> {
    source(client, text).await.resolve(&amd64(), &|_| None).await.map_err(|e| e.to_string())
}

fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

async fn server(catalog: &Catalog) -> FaultRegistry {
    let catalog = catalog.clone();
    FaultRegistry::start(move |seen| catalog.answer(seen)).await
}

#[tokio::test]
async fn the_first_mirror_that_has_the_image_serves_it() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let empty = server(&Catalog::default()).await;
    let broken = FaultRegistry::start(|_| Reply::status(500)).await;
    let (good, spare) = (server(&catalog).await, server(&catalog).await);
    let mirrors = [nobody(), empty.address.to_string(), broken.address.to_string()];
    let mirrors = [&mirrors[..], &[good.address.to_string(), spare.address.to_string()]].concat();
    let client = mirrored(&mirrors);
    let source = source(&client, "origin.test/app:v1").await;
    let resolved = source.resolve(&amd64(), &|_| None).await.unwrap();
    let layer = &resolved.layers[0];
    let mut blob = source.open_blob(&layer.digest, layer.size).await.unwrap();
    assert_eq!(blob.next_chunk().await.unwrap().unwrap().as_ref(), b"layer");
    assert_eq!((empty.seen().len(), broken.seen().len()), (1, 1), "each once, and not for blobs");
    assert_eq!((good.seen().len(), spare.seen().len()), (3, 0));
}

#[tokio::test]
async fn a_mirror_that_lies_about_a_digest_is_passed_over() {
    let mut catalog = Catalog::default();
    let manifest = catalog.add_image(&[b"layer"], "amd64");
    let descriptor = catalog.add_manifest("v1", OCI_MANIFEST, &manifest);
    let good = catalog.clone();
    let other = Catalog::with_image(&[b"another layer"]);
    let liar = FaultRegistry::start(move |_| {
        let seen = Seen { path: "/v2/app/manifests/v1".into(), ..Seen::default() };
        other.answer(&seen)
    })
    .await;
    let good = server(&good).await;
    let client = mirrored(&[liar.address.to_string(), good.address.to_string()]);
    let digest = descriptor["digest"].as_str().unwrap();
    let resolved = resolve(&client, &format!("origin.test/app@{digest}")).await.unwrap();
    assert_eq!(resolved.digest.as_str(), digest);
    assert_eq!(liar.seen().len(), 1);
}

#[tokio::test]
async fn an_error_names_every_endpoint_and_why() {
    let empty = server(&Catalog::default()).await;
    let closed = nobody();
    let client = mirrored(&[closed.clone(), empty.address.to_string()]);
    let error = resolve(&client, "origin.test/app:v1").await.unwrap_err();
    let expected = [
        "resolve manifest origin.test/app:v1 at ",
        &empty.address.to_string(),
        "not found (HTTP 404): manifest unknown",
        &closed,
        "refused",
        "registry origin.test is blocked in registries.conf",
    ];
    for part in expected {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert!(error.len() < 1000, "{error}");
    let error =
        client_with(&conf(&[], true)).source(&"origin.test/a".parse().unwrap(), &PullAuth::default()).await;
    let error = error.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("registry origin.test is blocked in "), "{error}");
}

#[tokio::test]
async fn a_blob_goes_on_at_the_next_mirror_as_one_stream() {
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let mut catalog = Catalog::default();
    catalog.add_blob(OCI_LAYER, &content);
    let (first, second) = (catalog.clone(), catalog.clone());
    // It breaks off, and from then on it is gone.
    let dying = FaultRegistry::start(move |seen| match seen.earlier {
        0 => first.answer(seen).broken_after(100_000, Tail::Breaks),
        _ => Reply::status(404),
    })
    .await;
    let stalling =
        FaultRegistry::start(move |seen| second.answer(seen).broken_after(50_000, Tail::Stalls)).await;
    // It does not know ranges.
    let whole = FaultRegistry::start(move |seen| catalog.answer(&Seen { range: None, ..seen.clone() })).await;
    let mirrors = [&dying, &stalling, &whole].map(|server| server.address.to_string());
    let client = mirrored(&mirrors);
    let digest = Digest::of(&content);
    let source = source(&client, "origin.test/app:v1").await;
    let mut blob = source.open_blob(&digest, content.len() as u64).await.unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = blob.next_chunk().await.unwrap() {
        all.extend_from_slice(&chunk);
    }
    assert!(all == content, "the stream differs");
    let ranges =
        |server: &FaultRegistry| server.seen().into_iter().map(|seen| seen.range).collect::<Vec<_>>();
    let from = |offset: u32| Some(format!("bytes={offset}-"));
    assert_eq!(ranges(&dying), [None, from(100_000)]);
    assert_eq!(ranges(&stalling), [from(100_000)]);
    assert_eq!(ranges(&whole), [from(150_000)]);
}

#[tokio::test]
async fn what_cannot_be_reached_is_not_asked_for_each_layer() {
    let layers: Vec<Vec<u8>> = (0..8u8).map(|n| vec![n; 10]).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let good = server(&Catalog::with_image(&layers)).await;
    // Accepts connections and says nothing, so that each request would take its whole time limit.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let registries = conf(&[silent.local_addr().unwrap().to_string(), good.address.to_string()], true);
    let registries = Arc::new(Registries::fixed(parse(&registries).unwrap()));
    let header = Duration::from_millis(500);
    let config = ClientConfig { timeouts: Timeouts { header, ..config().timeouts }, registries, ..config() };
    let client = RegistryClient::new(config).unwrap();
    for _ in 0..3 {
        let source = source(&client, "origin.test/app:v1").await;
        let resolved = source.resolve(&amd64(), &|_| None).await.unwrap();
        for layer in &resolved.layers {
            source.open_blob(&layer.digest, layer.size).await.unwrap();
        }
    }
    silent.set_nonblocking(true).unwrap();
    let connections = std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!(connections, 2, "HTTPS and plain HTTP once, for three pulls of eight layers");
}

#[tokio::test]
async fn a_mirror_that_recovers_is_asked_again_with_patience() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let busy = FaultRegistry::start(move |seen| match seen.earlier {
        0 => Reply::status(503),
        1 => Reply::status(429).header("retry-after", "0"),
        _ => catalog.answer(seen),
    })
    .await;
    let empty = server(&Catalog::default()).await;
    let client = mirrored(&[busy.address.to_string(), empty.address.to_string()]);
    resolve(&client, "origin.test/app:v1").await.unwrap();
    assert_eq!(empty.seen().len(), 1, "what has said no is not asked again");
}

#[tokio::test]
async fn a_definite_answer_of_the_registry_itself_ends_the_search() {
    let origin = server(&Catalog::default()).await;
    let broken = FaultRegistry::start(|_| Reply::status(503)).await;
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        origin.address, broken.address
    );
    let error = resolve(&client_with(&conf), &format!("{}/app:v1", origin.address)).await.unwrap_err();
    assert!(error.contains(&format!("{}/app:v1: not found (HTTP 404)", origin.address)), "{error}");
    assert!(error.contains("HTTP 503"), "{error}");
    assert_eq!(broken.seen().len(), 1);
}

#[tokio::test]
async fn a_trickle_counts_as_a_stall() {
    let mut catalog = Catalog::default();
    catalog.add_blob(OCI_LAYER, &[7; 4096]);
    let digest = Digest::of(&[7; 4096]);
    let slow = FaultRegistry::start(|_| {
        Reply::ok(vec![7; 1]).header("content-length", "4096").tail(Tail::Trickles(Duration::from_millis(20)))
    })
    .await;
    let good = server(&catalog).await;
    let client = mirrored(&[slow.address.to_string(), good.address.to_string()]);
    let source = source(&client, "origin.test/app:v1").await;
    let mut blob = source.open_blob(&digest, 4096).await.unwrap();
    let began = std::time::Instant::now();
    let mut count = 0;
    while let Some(chunk) = blob.next_chunk().await.unwrap() {
        assert!(chunk.iter().all(|byte| *byte == 7));
        count += chunk.len();
    }
    assert_eq!(count, 4096);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((slow.seen().len(), good.seen().len()), (1, 1));
}

#[tokio::test]
async fn credentials_stay_with_the_host_that_they_are_for() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let curious =
        FaultRegistry::start(|_| Reply::status(401).header("www-authenticate", "Basic realm=\"m\"")).await;
    let origin = FaultRegistry::start(move |seen| match &seen.authorization {
        None => Reply::status(401).header("www-authenticate", "Basic realm=\"o\""),
        Some(_) => catalog.answer(seen),
    })
    .await;
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        origin.address, curious.address
    );
    let credentials = Credentials::Basic { username: "user".into(), password: "hush".into() };
    client_with(&conf).resolve(&origin.reference("app:v1"), &credentials, &amd64()).await.unwrap();
    let shown: Vec<_> = curious.seen().into_iter().filter_map(|seen| seen.authorization).collect();
    assert_eq!(shown, Vec::<String>::new());
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let server = FaultRegistry::start(|seen| Reply::status(307).header("location", seen.path.clone())).await;
    let error =
        client().resolve(&server.reference("app:v1"), &Credentials::Anonymous, &amd64()).await.unwrap_err();
    assert!(error.to_string().contains("redirects more than 10 times"), "{error}");
    assert_eq!(server.seen().len(), 11);
}

#[tokio::test]
async fn absurd_manifests_are_refused() {
    let mut catalog = Catalog::default();
    let mut many = catalog.add_image(&[b"layer"], "amd64");
    many["layers"] = json!(vec![many["layers"][0].clone(); 501]);
    catalog.add_manifest("many", OCI_MANIFEST, &many);
    let mut huge = catalog.add_image(&[b"layer"], "amd64");
    huge["annotations"] = json!({ "x": "y".repeat(5 << 20) });
    catalog.add_manifest("huge", OCI_MANIFEST, &huge);
    let mut config = catalog.add_image(&[b"layer"], "amd64");
    config["config"]["size"] = json!(u64::MAX);
    catalog.add_manifest("config", OCI_MANIFEST, &config);
    let server = server(&catalog).await;
    for (tag, kind) in
        [("many", ErrorKind::Invalid), ("huge", ErrorKind::TooLarge), ("config", ErrorKind::TooLarge)]
    {
        let reference = server.reference(&format!("app:{tag}"));
        let error = client().resolve(&reference, &Credentials::Anonymous, &amd64()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn a_damaged_blob_is_taken_from_another_mirror_the_next_time() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let copy = catalog.clone();
    let corrupt =
        FaultRegistry::start(move |seen| match seen.path.ends_with(Digest::of(b"layer").as_str()) {
            true => copy.answer(seen).corrupted(),
            false => copy.answer(seen),
        })
        .await;
    let good = server(&catalog).await;
    let client = mirrored(&[corrupt.address.to_string(), good.address.to_string()]);
    let layer = Digest::of(b"layer");
    let mut fetched = Vec::new();
    for _ in 0..2 {
        let source = source(&client, "origin.test/app:v1").await;
        source.resolve(&amd64(), &|_| None).await.unwrap();
        let bytes = source.open_blob(&layer, 5).await.unwrap().next_chunk().await.unwrap().unwrap();
        if Digest::of(&bytes) != layer {
            source.distrust(&layer);
        }
        fetched.push(bytes);
    }
    assert!(fetched[0] != "layer" && fetched[1] == "layer", "{fetched:?}");
    // With nobody else it is asked again.
    let alone = mirrored(&[corrupt.address.to_string()]);
    let source = source(&alone, "origin.test/app:v1").await;
    for _ in 0..2 {
        source.open_blob(&layer, 5).await.unwrap();
        source.distrust(&layer);
    }
}
