//! What is a policy, and what is not.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::image::policy::{Policy, Requirement};

/// Parses a policy whose `docker` scope `r.io` has one requirement.
fn requirement(requirement: &Value) -> Result<Requirement, String> {
    let document = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { "r.io": [requirement] } },
    });
    let policy = Policy::parse(document.to_string().as_bytes()).map_err(|e| e.to_string())?;
    Ok(policy.docker["r.io"][0].clone())
}

#[test]
fn policies_of_all_shapes_are_read() {
    let accept = r#"[{"type":"insecureAcceptAnything"}]"#;
    for text in [
        format!(r#"{{"default":{accept}}}"#),
        format!(r#"{{"default":{accept},"transports":{{}}}}"#),
        format!(
            r#"{{"transports":{{"docker-daemon":{{"":{accept}}},"dir":{{"/x":{accept}}}}},"default":{accept}}}"#
        ),
        format!(r#"{{"default":{accept},"transports":{{"docker":{{"":{accept},"*.r.io":{accept}}}}}}}"#),
        r#"{"default":[{"type":"reject"},{"type":"insecureAcceptAnything"}]}"#.to_owned(),
    ] {
        Policy::parse(text.as_bytes()).unwrap();
    }
}

#[test]
fn what_is_not_a_policy_is_refused_with_the_reason() {
    let cases: [(&str, &str); 24] = [
        ("", "EOF"),
        ("[]", "invalid type"),
        (r#"[[{"type":"reject"}],{}]"#, "expected an object"),
        (r#"{"default":[["reject"]]}"#, "expected an object"),
        ("{}", "missing field `default`"),
        (r#"{"default":null}"#, "invalid type: null"),
        (r#"{"default":[]}"#, "must not be empty"),
        (r#"{"default":[{}]}"#, "missing field `type`"),
        (r#"{"default":[{"type":"frobnicate"}]}"#, "unknown variant `frobnicate`"),
        (r#"{"default":[{"type":"reject"}]} x"#, "trailing"),
        (r#"{"default":[{"type":"reject","type":"reject"}]}"#, "duplicate field `type`"),
        (r#"{"default":[{"type":"reject","more":1}]}"#, "unknown field `more`"),
        (r#"{"default":[{"type":"insecureAcceptAnything","more":1}]}"#, "unknown field `more`"),
        (r#"{"default":[{"Type":"reject"}]}"#, "missing field `type`"),
        (r#"{"default":[{"type":"reject"}],"default":[{"type":"reject"}]}"#, "duplicate field `default`"),
        (r#"{"default":[{"type":"reject"}],"more":1}"#, "unknown field `more`"),
        (r#"{"default":[{"type":"reject"}],"transports":null}"#, "invalid type: null"),
        (r#"{"default":[{"type":"reject"}],"transports":{"docker":{"r.io":[]}}}"#, "must not be empty"),
        (r#"{"default":[{"type":"reject"}],"transports":{"dir":{"":[]}}}"#, "must not be empty"),
        (r#"{"default":[{"type":"reject"}],"transports":{"docker":[]}}"#, "expected an object"),
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{},"docker":{}}}"#,
            "\"docker\" stands there twice",
        ),
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{"type":"reject"}],"a":[{"type":"reject"}]}}}"#,
            "\"a\" stands there twice",
        ),
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"a*":[{"type":"reject"}]}}}"#,
            "\"a*\" can never match",
        ),
        (r#"{"default":[{"type":"reject",}]}"#, "trailing comma"),
    ];
    for (text, reason) in cases {
        let error = Policy::parse(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let deep = format!(r#"{{"default":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert!(Policy::parse(deep.as_bytes()).is_err());
}

#[test]
fn requirements_have_the_fields_of_the_manual_and_no_others() {
    let data = "LS0t";
    let good = [
        json!({ "type": "sigstoreSigned", "keyPath": "/k" }),
        json!({ "type": "sigstoreSigned", "keyPaths": ["/k", "/l"] }),
        json!({ "type": "sigstoreSigned", "keyData": data }),
        json!({ "signedIdentity": { "type": "matchRepository" }, "keyDatas": [data], "type": "sigstoreSigned" }),
    ];
    for good in good {
        assert!(matches!(requirement(&good), Ok(Requirement::SigstoreSigned { .. })), "{good}");
    }
    let bad = [
        (json!({ "type": "sigstoreSigned" }), "exactly one of keyPath"),
        (json!({ "type": "sigstoreSigned", "keyPath": "/k", "keyData": data }), "exactly one of keyPath"),
        (json!({ "type": "sigstoreSigned", "keyPath": "" }), "not absolute"),
        (json!({ "type": "sigstoreSigned", "keyPath": "k" }), "not absolute"),
        (json!({ "type": "sigstoreSigned", "keyPath": null }), "invalid type: null"),
        (json!({ "type": "sigstoreSigned", "keyPaths": [] }), "must not be empty"),
        (json!({ "type": "sigstoreSigned", "keyDatas": [] }), "must not be empty"),
        (json!({ "type": "sigstoreSigned", "keyData": "%" }), "not base64"),
        (json!({ "type": "sigstoreSigned", "keyPath": "/k", "more": 1 }), "unknown field `more`"),
        (json!({ "type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": null }), "invalid type: null"),
        (json!({ "type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": {} }), "missing field `type`"),
        (
            json!({ "type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": { "type": "any" } }),
            "unknown variant",
        ),
        (
            json!({ "type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": { "type": "matchExact", "x": 1 } }),
            "unknown field `x`",
        ),
        (
            json!({ "type": "sigstoreSigned", "keyPath": "/k",
                "signedIdentity": { "type": "exactReference", "dockerReference": "r.io/a" } }),
            "neither a tag nor a digest",
        ),
        (
            json!({ "type": "sigstoreSigned", "keyPath": "/k",
                "signedIdentity": { "type": "remapIdentity", "prefix": "busybox", "signedPrefix": "r.io" } }),
            "not a host",
        ),
        (json!({ "type": "signedBy", "keyType": "GPGKeys" }), "exactly one of keyPath"),
        (json!({ "type": "signedBy", "keyType": "x", "keyPath": "/k" }), "unknown variant `x`"),
        (json!({ "type": "signedBy", "keyPath": "/k" }), "missing field `keyType`"),
        (json!({ "type": "signedBaseLayer" }), "missing field `baseLayerIdentity`"),
        (
            json!({ "type": "sigstoreSigned", "fulcio": { "caPath": "/c", "oidcIssuer": "i", "subjectEmail": "e" } }),
            "needs a rekorPublicKey",
        ),
        (
            json!({ "type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyPath": "/r", "rekorPublicKeyData": data }),
            "only one rekorPublicKey",
        ),
        (
            json!({ "type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyPaths": [] }),
            "list of rekorPublicKeys must not be empty",
        ),
        (json!({ "type": "sigstoreSigned", "keyPath": "", "rekorPublicKeyPath": "/r" }), "not absolute"),
    ];
    for (bad, reason) in bad {
        let error = requirement(&bad).expect_err(&bad.to_string());
        assert!(error.contains(reason), "{bad}: {error}");
    }
}

#[test]
fn what_podd_cannot_check_is_read_and_named() {
    let cases = [
        (
            json!({ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k" }),
            "signedBy with keyType GPGKeys",
        ),
        (
            json!({ "type": "signedBaseLayer", "baseLayerIdentity": { "type": "matchRepository" } }),
            "signedBaseLayer",
        ),
        (
            json!({ "type": "sigstoreSigned", "rekorPublicKeyPath": "/r",
                "fulcio": { "caPath": "/c", "oidcIssuer": "i", "subjectEmail": "e" } }),
            "sigstoreSigned with fulcio",
        ),
        (
            json!({ "type": "sigstoreSigned", "pki": { "caRootsPath": "/c", "subjectEmail": "e" } }),
            "sigstoreSigned with pki",
        ),
        (
            json!({ "type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyDatas": ["LS0t"] }),
            "sigstoreSigned with rekorPublicKeyDatas",
        ),
    ];
    for (written, name) in cases {
        assert_eq!(requirement(&written), Ok(Requirement::Unsupported(name.to_owned())));
    }
}

/// The examples of docs/signatures.md are valid.
#[test]
fn the_policies_of_the_manual_page_are_valid() {
    let page = include_str!("../../../../docs/signatures.md");
    let examples: Vec<&str> =
        page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 3, "{}", examples.len());
    for example in examples {
        Policy::parse(example.as_bytes()).unwrap_or_else(|e| panic!("{e}: {example}"));
    }
}

proptest! {
    #[test]
    fn hostile_documents_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), depth in 0usize..300) {
        let _ = Policy::parse(&bytes);
        let words = ["{", "\"default\":", "[", "{\"type\":\"reject\"}", "]", "}", ",", "\"transports\":", "null", "\"\":"];
        let text: String = bytes.iter().map(|byte| words[usize::from(*byte) % words.len()]).collect();
        let _ = Policy::parse(text.as_bytes());
        let _ = Policy::parse("[{".repeat(depth).as_bytes());
    }
}
