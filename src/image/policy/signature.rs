//! A sigstore signature as cosign, skopeo and podman attach it to an image, and its verification by keys.
//!
//! What is signed is a small JSON document, the payload: the digest of a manifest and the name under which it was
//! published. The signature is checked first; nothing of a payload is read that nobody has signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::Key;
use super::strict::Object;
use crate::image::digest::{Digest, excerpt};

/// The largest payload, in bytes; usual ones have 300.
pub const LARGEST_PAYLOAD: usize = 16 * 1024;
/// The largest signature as base64, in bytes; one by RSA with 8192 bits has 1,368.
pub const LARGEST_SIGNATURE: usize = 4 * 1024;

const PAYLOAD_TYPE: &str = "cosign container image signature";

/// A signature, with nothing of it verified but to what it was attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The manifest, or the index that leads to it, by whose digest the signature was found.
    pub of: Digest,
    /// The signed document.
    pub payload: String,
    /// The signature of its bytes, as base64.
    pub signature: String,
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It was not made by any of the keys, or not of this payload.
    #[error("none of the keys has made the signature")]
    Key,
    /// The payload is signed, but not a payload.
    #[error("the signed document is not a signature of an image: {0}")]
    Payload(String),
    /// It is good for another manifest.
    #[error("it is of {signed:?} and not of {attached}, to which it is attached")]
    Digest {
        /// What is signed.
        signed: String,
        /// What it was attached to.
        attached: Digest,
    },
    /// It is good for another name.
    #[error(
        "it is for {0:?}, which signedIdentity does not accept (cosign names only the repository: use matchRepository)"
    )]
    Identity(String),
}

impl Signature {
    /// Whether one of the keys has signed that the manifest has a name that is accepted.
    pub(super) fn verify(&self, keys: &[Key], accepts: impl Fn(&str) -> bool) -> Result<(), Flaw> {
        let signature = STANDARD.decode(&self.signature).map_err(|_| Flaw::Key)?;
        if !keys.iter().any(|key| key.verifies(self.payload.as_bytes(), &signature)) {
            return Err(Flaw::Key);
        }
        let payload = Payload::parse(&self.payload).map_err(Flaw::Payload)?;
        let Object(critical) = payload.critical;
        let signed = &critical.image.0.digest;
        if signed != self.of.as_str() {
            return Err(Flaw::Digest { signed: excerpt(signed), attached: self.of.clone() });
        }
        let name = &critical.identity.0.reference;
        if accepts(name) { Ok(()) } else { Err(Flaw::Identity(excerpt(name))) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Object<Critical>,
    optional: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: Object<Identity>,
    image: Object<SignedImage>,
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Payload {
    /// Strictly: what is not known might change the meaning of the rest.
    fn parse(text: &str) -> Result<Self, String> {
        let Object(payload): Object<Self> =
            serde_json::from_str(text).map_err(|e| excerpt(&e.to_string()))?;
        if payload.critical.0.r#type != PAYLOAD_TYPE {
            return Err(format!("its type is {:?}", excerpt(&payload.critical.0.r#type)));
        }
        if !payload.optional.is_null() && !payload.optional.is_object() {
            return Err("\"optional\" is neither an object nor null".to_owned());
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn payload() -> Value {
        json!({
            "critical": {
                "identity": { "docker-reference": "r.io/a" },
                "image": { "docker-manifest-digest": Digest::of(b"m") },
                "type": PAYLOAD_TYPE,
            },
            "optional": null,
        })
    }

    #[test]
    fn payloads_of_the_tools_are_read() {
        assert!(Payload::parse(&payload().to_string()).is_ok());
        let mut podman = payload();
        podman["optional"] = json!({ "creator": "containers/image 5.24.1", "timestamp": 1_700_000_000 });
        assert!(Payload::parse(&podman.to_string()).is_ok());
    }

    #[test]
    fn what_is_not_known_missing_or_twice_is_refused() {
        let mut changed: Vec<String> = Vec::new();
        for change in [
            |p: &mut Value| p["more"] = json!(1),
            |p: &mut Value| p["critical"]["more"] = json!(1),
            |p: &mut Value| p["critical"]["image"]["more"] = json!(1),
            |p: &mut Value| p["critical"]["identity"]["more"] = json!(1),
            |p: &mut Value| p["critical"]["type"] = json!("atomic container signature"),
            |p: &mut Value| p["critical"]["type"] = Value::Null,
            |p: &mut Value| p["optional"] = json!([]),
            |p: &mut Value| p["critical"]["identity"] = json!(["r.io/a"]),
            |p: &mut Value| *p = json!([p["critical"], null]),
            |p: &mut Value| drop(p.as_object_mut().unwrap().remove("optional")),
            |p: &mut Value| drop(p["critical"].as_object_mut().unwrap().remove("identity")),
        ] {
            let mut document = payload();
            change(&mut document);
            changed.push(document.to_string());
        }
        let good = payload().to_string();
        changed.push(good.replace("\"optional\":null", "\"optional\":null,\"optional\":null"));
        changed.push(format!("{good} {{}}"));
        changed.push(String::new());
        for text in changed {
            assert!(Payload::parse(&text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn hostile_signatures_never_panic(payload in ".{0,60}", signature in "[A-Za-z0-9+/=]{0,40}") {
            let signature = Signature { of: Digest::of(b"m"), payload: payload.clone(), signature };
            prop_assert_eq!(signature.verify(&[], |_| true), Err(Flaw::Key));
            let _ = Payload::parse(&payload);
        }
    }
}
