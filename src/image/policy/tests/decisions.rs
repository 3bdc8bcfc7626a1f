//! Decisions: what holds together, what does not, and what a refusal says.

#![allow(clippy::cloned_ref_to_slice_refs)]

use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::crypto::{Kind, Signer, payload};
use crate::image::digest::Digest;
use crate::image::policy::{Demand, Policy, Signature};
use crate::image::reference::Reference;

const IMAGE: &str = "r.io/app:v1";

fn manifest() -> Digest {
    Digest::of(b"manifest")
}

/// Decides about [`IMAGE`] under the requirements; the text of a refusal.
fn decide(requirements: &Value, signatures: &[Signature]) -> Result<(), String> {
    let document = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { "r.io": requirements } },
    });
    let policy = Policy::parse(document.to_string().as_bytes()).unwrap();
    let image: Reference = IMAGE.parse().unwrap();
    let read = |path: &Path| std::fs::read(path);
    policy.ruling(Some(&image)).decide(signatures, &read).map_err(|refusal| refusal.to_string())
}

fn by(signer: &Signer) -> Value {
    json!({ "type": "sigstoreSigned", "keyPath": signer.public() })
}

#[track_caller]
fn refused(result: Result<(), String>, words: &[&str]) {
    let text = result.expect_err("it is accepted");
    for word in words {
        assert!(text.contains(word), "{text}: without {word:?}");
    }
}

#[test]
fn one_good_signature_is_enough_and_bad_ones_beside_it_do_not_matter() {
    let (signer, other) = (Signer::new(Kind::P256), Signer::new(Kind::P256));
    let (good, foreign) = (signer.signature(&manifest(), IMAGE), other.signature(&manifest(), IMAGE));
    let requirements = json!([by(&signer)]);
    decide(&requirements, &[good.clone()]).unwrap();
    decide(&requirements, &[foreign.clone(), good]).unwrap();
    refused(
        decide(&requirements, &[foreign]),
        &["docker \"r.io\"", "\"sigstoreSigned\" (number 1 of 1)", "none of the keys has made the signature"],
    );
    refused(decide(&requirements, &[]), &["no sigstore signature"]);
}

#[test]
fn what_was_tampered_with_is_refused() {
    let signer = Signer::new(Kind::P256);
    let requirements = json!([by(&signer)]);
    let good = signer.signature(&manifest(), IMAGE);
    let mut tampered = good.clone();
    tampered.payload = good.payload.replace("v1", "v2");
    refused(decide(&requirements, &[tampered]), &["none of the keys"]);
    let mut respaced = good.clone();
    respaced.payload.push(' ');
    refused(decide(&requirements, &[respaced]), &["none of the keys"]);
    for signature in ["", "%", "AAAA", &good.signature[4..]] {
        let broken = Signature { signature: signature.to_owned(), ..good.clone() };
        refused(decide(&requirements, &[broken]), &["none of the keys"]);
    }
    let moved = Signature { of: Digest::of(b"other"), ..good };
    refused(decide(&requirements, &[moved]), &["it is of \"sha256:", "to which it is attached"]);
    let nonsense = "{}".to_owned();
    let signed = Signature { of: manifest(), signature: signer.sign(&nonsense), payload: nonsense };
    refused(decide(&requirements, &[signed]), &["not a signature of an image: missing field `critical`"]);
}

#[test]
fn the_name_has_to_be_the_one_that_is_wanted() {
    let signer = Signer::new(Kind::Ed25519);
    let cosign = signer.signature(&manifest(), "r.io/app");
    refused(
        decide(&json!([by(&signer)]), &[cosign.clone()]),
        &["it is for \"r.io/app\"", "use matchRepository"],
    );
    let mut lenient = by(&signer);
    lenient["signedIdentity"] = json!({ "type": "matchRepository" });
    decide(&json!([lenient]), &[cosign]).unwrap();
    refused(decide(&json!([lenient]), &[signer.signature(&manifest(), "r.io/other:v1")]), &["r.io/other:v1"]);
}

#[test]
fn all_requirements_have_to_hold() {
    let (vendor, reviewer) = (Signer::new(Kind::P256), Signer::new(Kind::Rsa(2048)));
    let (first, second) = (vendor.signature(&manifest(), IMAGE), reviewer.signature(&manifest(), IMAGE));
    let both = json!([by(&vendor), by(&reviewer)]);
    decide(&both, &[first.clone(), second.clone()]).unwrap();
    refused(decide(&both, &[first.clone()]), &["(number 2 of 2)"]);
    refused(decide(&both, &[second]), &["(number 1 of 2)"]);
    let accept = json!({ "type": "insecureAcceptAnything" });
    refused(decide(&json!([accept, by(&vendor)]), &[]), &["(number 2 of 2)"]);
    decide(&json!([accept, by(&vendor)]), &[first.clone()]).unwrap();
    let rejected = json!([by(&vendor), { "type": "reject" }]);
    refused(decide(&rejected, &[first]), &["\"reject\" (number 2 of 2)", "not to be used"]);
}

#[test]
fn any_key_of_a_list_will_do_but_all_must_be_usable() {
    let (one, two) = (Signer::new(Kind::P256), Signer::new(Kind::P384));
    let by_two = [two.signature(&manifest(), IMAGE)];
    let paths = |paths: &[&Path]| json!([{ "type": "sigstoreSigned", "keyPaths": paths }]);
    decide(&paths(&[&one.public(), &two.public()]), &by_two).unwrap();
    refused(decide(&paths(&[&one.public()]), &by_two), &["none of the keys"]);
    let absent = Path::new("/no/such/key.pub");
    refused(decide(&paths(&[absent, &two.public()]), &by_two), &["/no/such/key.pub does not exist"]);
    let datas = [STANDARD.encode(one.pem()), STANDARD.encode(two.pem())];
    decide(&json!([{ "type": "sigstoreSigned", "keyDatas": datas }]), &by_two).unwrap();
    decide(&json!([{ "type": "sigstoreSigned", "keyData": datas[1] }]), &by_two).unwrap();
    refused(
        decide(&json!([{ "type": "sigstoreSigned", "keyDatas": [datas[1], "LS0t"] }]), &by_two),
        &["key 2 of its data", "PEM"],
    );
}

#[test]
fn what_podd_cannot_check_refuses_also_what_is_signed() {
    let signer = Signer::new(Kind::P256);
    let good = [signer.signature(&manifest(), IMAGE)];
    let mut rekor = by(&signer);
    rekor["rekorPublicKeyPath"] = json!(signer.public());
    refused(
        decide(&json!([rekor]), &good),
        &["\"sigstoreSigned with rekorPublicKeyPath\"", "podd cannot check that"],
    );
    let gpg = json!({ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k" });
    refused(
        decide(&json!([gpg, { "type": "insecureAcceptAnything" }]), &good),
        &["\"signedBy with keyType GPGKeys\" (number 1 of 2)", "podd cannot check that"],
    );
    refused(decide(&json!([by(&signer), gpg]), &good), &["(number 2 of 2)"]);
}

#[test]
fn signatures_are_asked_for_only_where_they_can_matter() {
    let key = json!({ "type": "sigstoreSigned", "keyPath": "/k" });
    let (accept, reject) = (json!({ "type": "insecureAcceptAnything" }), json!({ "type": "reject" }));
    for (requirements, wanted) in [
        (json!([accept]), Demand::Nothing),
        (json!([reject]), Demand::Nothing),
        (json!([key, reject]), Demand::Nothing),
        (json!([accept, key]), Demand::Signatures),
    ] {
        let policy = Policy::parse(json!({ "default": requirements }).to_string().as_bytes()).unwrap();
        let ruling = policy.ruling(None);
        assert_eq!(ruling.demand(), wanted, "{requirements}");
        let read = |_: &Path| -> io::Result<Vec<u8>> { panic!("no key is needed") };
        if wanted == Demand::Nothing {
            let _ = ruling.decide(&[], &read);
        }
    }
}

#[test]
fn many_flaws_are_told_shortly() {
    let signer = Signer::new(Kind::P256);
    let names: Vec<String> = (0..9).map(|n| format!("r.io/app:other{n}")).collect();
    let signatures: Vec<_> = names.iter().map(|name| signer.signature(&manifest(), name)).collect();
    let text = decide(&json!([by(&signer)]), &signatures).unwrap_err();
    assert!(text.ends_with("; and 6 more") && text.len() < 1000, "{text}");
    let hostile = format!("r.io/app:v1\u{202e}\n{}", "x".repeat(5000));
    let text = decide(&json!([by(&signer)]), &[signer.signature(&manifest(), &hostile)]).unwrap_err();
    assert!(
        text.contains("its signature is not accepted")
            && text.len() < 600
            && !text.contains(['\n', '\u{202e}']),
        "{text}"
    );
    assert!(payload(&manifest(), IMAGE).len() < 400);
}
