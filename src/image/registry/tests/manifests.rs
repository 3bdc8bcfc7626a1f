//! Resolving: indexes, kinds of manifests, verification, statuses and retries.

use serde_json::{Value, json};

use super::fault::*;
use crate::image::digest::Digest;
use crate::image::registry::{Compression, Credentials, ErrorKind, Platform, RegistryError, Resolved};

async fn resolve(server: &FaultRegistry, rest: &str) -> Result<Resolved, RegistryError> {
    let reference = server.reference(rest);
    let pull = async move { client().resolve(&reference, &Credentials::Anonymous, &amd64()).await };
    tokio::spawn(pull).await.unwrap()
}

fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
}

async fn serve(catalog: Catalog) -> FaultRegistry {
    FaultRegistry::start(move |seen| catalog.answer(seen)).await
}

#[tokio::test]
async fn an_image_is_resolved_by_tag_and_by_digest() {
    let mut catalog = Catalog::default();
    let manifest = catalog.add_image(&[b"base", b"top"], "amd64");
    let descriptor = catalog.add_manifest("v1", OCI_MANIFEST, &manifest);
    let server = serve(catalog).await;
    let by_tag = resolve(&server, "app:v1").await.unwrap();
    assert_eq!(json!(by_tag.digest), descriptor["digest"]);
    assert_eq!(by_tag.digest, by_tag.manifest_digest);
    assert_eq!(json!(by_tag.config_digest), manifest["config"]["digest"]);
    assert_eq!(Digest::of(&by_tag.config), by_tag.config_digest);
    assert_eq!(by_tag.manifest, manifest.to_string());
    assert_eq!(by_tag.diff_ids, [Digest::of(b"base"), Digest::of(b"top")]);
    assert_eq!(by_tag.layers[1].digest, Digest::of(b"top"));
    assert_eq!((by_tag.layers[1].size, by_tag.layers[1].compression), (3, Compression::Gzip));
    let by_digest = resolve(&server, &format!("app@{}", by_tag.digest)).await.unwrap();
    assert_eq!(by_digest, by_tag);
}

fn entry(mut descriptor: Value, architecture: &str) -> Value {
    let os = if architecture == "unknown" { "unknown" } else { "linux" };
    descriptor["platform"] = json!({ "os": os, "architecture": architecture });
    descriptor
}

/// A catalog whose tag `v1` is an index with an attestation, arm64 and amd64.
fn catalog_with_index() -> (Catalog, Value) {
    let mut catalog = Catalog::default();
    let mut entries = Vec::new();
    for architecture in ["unknown", "arm64", "amd64"] {
        let manifest = catalog.add_image(&[architecture.as_bytes()], architecture);
        entries.push(entry(catalog.add_manifest(architecture, OCI_MANIFEST, &manifest), architecture));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let descriptor = catalog.add_manifest("v1", OCI_INDEX, &index);
    (catalog, descriptor)
}

#[tokio::test]
async fn an_index_gives_the_platforms_image_and_its_own_digest() {
    let (mut catalog, index) = catalog_with_index();
    let around = json!({ "schemaVersion": 2, "manifests": [entry(index.clone(), "amd64")] });
    let around = catalog.add_manifest("nested", OCI_INDEX, &around);
    let thrice = json!({ "schemaVersion": 2, "manifests": [around] });
    catalog.add_manifest("thrice", OCI_INDEX, &thrice);
    let server = serve(catalog).await;
    let resolved = resolve(&server, "app:v1").await.unwrap();
    assert_eq!(json!(resolved.digest), index["digest"]);
    assert_ne!(resolved.digest, resolved.manifest_digest);
    assert_eq!(resolved.diff_ids, [Digest::of(b"amd64")]);
    assert_eq!(resolve(&server, "app:nested").await.unwrap().diff_ids, resolved.diff_ids);
    let error = resolve(&server, "app:thrice").await.unwrap_err();
    assert!(error.to_string().contains("indexes inside each other"), "{error}");
    let riscv = Platform { architecture: "riscv64".into(), ..amd64() };
    let reference = server.reference("app:v1");
    let error = client().resolve(&reference, &Credentials::Anonymous, &riscv).await.unwrap_err();
    assert!(error.to_string().contains("linux/riscv64; it has"), "{error}");
}

#[tokio::test]
async fn docker_schema_2_is_taken_and_schema_1_refused() {
    let mut catalog = Catalog::default();
    let mut manifest = catalog.add_image(&[b"layer"], "amd64");
    manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    catalog.add_manifest("two", "application/vnd.docker.distribution.manifest.v2+json", &manifest);
    let old = json!({ "schemaVersion": 1, "fsLayers": [], "history": [] });
    catalog.add_manifest("one", "application/vnd.docker.distribution.manifest.v1+prettyjws", &old);
    let server = serve(catalog).await;
    assert_eq!(resolve(&server, "app:two").await.unwrap().layers.len(), 1);
    let error = resolve(&server, "app:one").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("schema 1"), "{error}");
}

#[tokio::test]
async fn bytes_that_are_not_what_their_digest_says_are_refused() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let wrong = Digest::of(b"something else");
    let server = FaultRegistry::start(move |seen| match seen.path.as_str() {
        "/v2/app/manifests/header" => {
            let seen = Seen { path: "/v2/app/manifests/v1".into(), ..seen.clone() };
            catalog.answer(&seen).header("docker-content-digest", String::from(Digest::of(b"something else")))
        }
        "/v2/app/manifests/v1" => catalog.answer(seen),
        path if path.contains("/manifests/") => Reply::ok(r#"{"manifests":[]}"#),
        _ => catalog.answer(seen).corrupted(),
    })
    .await;
    for rest in ["app:header".to_owned(), format!("app@{wrong}")] {
        let error = resolve(&server, &rest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
        assert!(error.to_string().contains(wrong.as_str()), "{error}");
    }
    let error = resolve(&server, "app:v1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    assert!(error.to_string().starts_with("fetch config"), "{error}");
}

#[tokio::test]
async fn an_endless_manifest_is_cut_off() {
    let server = FaultRegistry::start(|_| Reply::ok("[".repeat(64 * 1024)).tail(Tail::Repeats)).await;
    let error = resolve(&server, "app:v1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_fetched_again() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let server = FaultRegistry::start(move |seen| match seen.earlier {
        0 if seen.path.contains("/manifests/") => catalog.answer(seen).broken_after(10, Tail::Breaks),
        _ => catalog.answer(seen),
    })
    .await;
    resolve(&server, "app:v1").await.unwrap();
}

#[tokio::test]
async fn every_status_has_its_kind_and_the_registrys_words() {
    let server = FaultRegistry::start(|seen| {
        let status = seen.path.rsplit('/').next().unwrap().trim_start_matches('s').parse().unwrap_or(200);
        let said = json!({ "errors": [{ "code": "X", "message": "because\u{1b} of this" }] });
        Reply::status(status).body(said.to_string())
    })
    .await;
    for (status, kind, tries) in [
        (401, ErrorKind::Unauthorized, 1),
        (403, ErrorKind::Denied, 1),
        (404, ErrorKind::NotFound, 1),
        (418, ErrorKind::Invalid, 1),
        (429, ErrorKind::Unavailable, 3),
        (500, ErrorKind::Unavailable, 3),
        (503, ErrorKind::Unavailable, 3),
    ] {
        let error = resolve(&server, &format!("app:s{status}")).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(status)), "{error}");
        let text = error.to_string();
        assert!(text.contains("because of this") && text.contains(&format!("app:s{status}")), "{text}");
        let asked = server.seen().iter().filter(|seen| seen.path.ends_with(&format!("s{status}"))).count();
        assert_eq!(asked, tries, "HTTP {status}");
    }
}

#[tokio::test]
async fn a_passing_failure_is_retried_but_a_long_retry_after_is_not_waited_for() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let server = FaultRegistry::start(move |seen| match (seen.path.as_str(), seen.earlier) {
        ("/v2/app/manifests/limited", _) => Reply::status(429).header("retry-after", "3600"),
        ("/v2/app/manifests/v1", 0) => Reply::status(429).header("retry-after", "0"),
        ("/v2/app/manifests/v1", 1) => Reply::status(503),
        _ => catalog.answer(seen),
    })
    .await;
    resolve(&server, "app:v1").await.unwrap();
    let error = resolve(&server, "app:limited").await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Unavailable, Some(429)));
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/app:v1", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = client().resolve(&reference, &Credentials::Anonymous, &amd64()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
}
