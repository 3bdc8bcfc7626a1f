//! Attached signatures: found, bounded, and told from what else is attached.

use serde_json::{Value, json};

use super::fault::*;
use crate::image::digest::Digest;
use crate::image::policy::{LARGEST_PAYLOAD, LARGEST_SIGNATURE, Signature};
use crate::image::registry::{ErrorKind, PullAuth, RegistryError};

const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

fn signed() -> Digest {
    Digest::of(b"a manifest")
}

fn layer(catalog: &mut Catalog, media_type: &str, payload: &[u8], signature: &str) -> Value {
    let mut layer = catalog.add_blob(media_type, payload);
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
    layer
}

fn attach(catalog: &mut Catalog, layers: &[Value]) {
    let tag = format!("sha256-{}.sig", signed().hex());
    catalog.add_manifest(&tag, OCI_MANIFEST, &json!({ "schemaVersion": 2, "layers": layers }));
}

async fn fetch(catalog: Catalog) -> Result<Vec<Signature>, RegistryError> {
    found_at(&FaultRegistry::start(move |seen| catalog.answer(seen)).await).await
}

async fn found_at(server: &FaultRegistry) -> Result<Vec<Signature>, RegistryError> {
    let source = client().source(&server.reference("app:v1"), &PullAuth::default()).await.unwrap();
    source.signatures(&signed()).await
}

#[tokio::test]
async fn each_signature_is_found_and_nothing_where_there_is_none() {
    assert_eq!(fetch(Catalog::default()).await.unwrap(), []);
    let mut catalog = Catalog::default();
    let layers = [
        layer(&mut catalog, SIMPLE_SIGNING, b"one", "AAAA"),
        layer(&mut catalog, SIMPLE_SIGNING, b"two", "BBBB"),
    ];
    attach(&mut catalog, &layers);
    let signature = |payload: &str, signature: &str| Signature {
        of: signed(),
        payload: payload.to_owned(),
        signature: signature.to_owned(),
    };
    assert_eq!(fetch(catalog).await.unwrap(), [signature("one", "AAAA"), signature("two", "BBBB")]);
}

#[tokio::test]
async fn what_can_be_no_signature_is_passed_over() {
    let mut catalog = Catalog::default();
    let mut unsigned = catalog.add_blob(SIMPLE_SIGNING, b"without annotation");
    let layers = [
        layer(&mut catalog, "application/vnd.dsse.envelope.v1+json", b"attestation", "AAAA"),
        layer(&mut catalog, SIMPLE_SIGNING, &vec![b' '; LARGEST_PAYLOAD + 1], "AAAA"),
        layer(&mut catalog, SIMPLE_SIGNING, b"long", &"A".repeat(LARGEST_SIGNATURE + 1)),
        layer(&mut catalog, SIMPLE_SIGNING, b"\xff\xfe", "AAAA"),
        unsigned.take(),
    ];
    attach(&mut catalog, &layers);
    assert_eq!(fetch(catalog).await.unwrap(), []);
}

#[tokio::test]
async fn lies_and_floods_are_refused() {
    let mut flood = Catalog::default();
    let layers: Vec<Value> = (0u8..33).map(|n| layer(&mut flood, SIMPLE_SIGNING, &[n], "AAAA")).collect();
    attach(&mut flood, &layers);
    assert_eq!(fetch(flood).await.unwrap_err().kind(), ErrorKind::TooLarge);

    let mut understated = Catalog::default();
    let mut lie = layer(&mut understated, SIMPLE_SIGNING, &vec![b' '; LARGEST_PAYLOAD + 1], "AAAA");
    lie["size"] = json!(7);
    attach(&mut understated, &[lie]);
    assert_eq!(fetch(understated).await.unwrap_err().kind(), ErrorKind::TooLarge);

    let mut nonsense = Catalog::default();
    attach(&mut nonsense, &[json!({ "mediaType": SIMPLE_SIGNING, "digest": "../..", "size": 1 })]);
    assert_eq!(fetch(nonsense).await.unwrap_err().kind(), ErrorKind::Invalid);

    let mut catalog = Catalog::default();
    let one = layer(&mut catalog, SIMPLE_SIGNING, b"one", "AAAA");
    attach(&mut catalog, &[one]);
    let server = FaultRegistry::start(move |seen| match seen.path.contains("/blobs/") {
        true => catalog.answer(seen).corrupted(),
        false => catalog.answer(seen),
    })
    .await;
    assert_eq!(found_at(&server).await.unwrap_err().kind(), ErrorKind::DigestMismatch);
    let forbidden = FaultRegistry::start(|_| Reply::status(403)).await;
    assert_eq!(found_at(&forbidden).await.unwrap_err().kind(), ErrorKind::Denied);
}
