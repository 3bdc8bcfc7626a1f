//! Parsing of `policy.json`, strictly as containers-policy.json(5) has it: a field or type that is not known, a field
//! twice, an empty list of requirements make the whole file invalid. What is known but cannot be checked by podd
//! (GPG signatures, Fulcio, Rekor, other PKI) is valid, and becomes a requirement that refuses.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::identity::SignedIdentity;
use super::keys::KeySource;
use super::strict::{Object, Unique, present};
use super::{Policy, Requirement, scope};

/// The largest policy file, in bytes.
pub const LARGEST_POLICY: u64 = 1 << 20;

/// The transport of images in registries.
const DOCKER: &str = "docker";

/// A text that is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPolicy(String);

impl Policy {
    /// Parses the content of a policy file.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidPolicy> {
        let Object(document): Object<Document> =
            serde_json::from_slice(bytes).map_err(|e| InvalidPolicy(e.to_string()))?;
        let mut transports = document.transports.0;
        let docker = transports.remove(DOCKER).unwrap_or_default().0;
        for name in docker.keys().filter(|name| !name.is_empty()) {
            scope::check(name).map_err(InvalidPolicy)?;
        }
        let docker = docker.into_iter().map(|(name, requirements)| (name, requirements.0)).collect();
        Ok(Self { default: document.default.0, docker })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    default: Requirements,
    #[serde(default)]
    transports: Unique<Unique<Requirements>>,
}

/// At least one requirement.
#[derive(Deserialize)]
#[serde(try_from = "Vec<Object<Written>>")]
struct Requirements(Vec<Requirement>);

impl TryFrom<Vec<Object<Written>>> for Requirements {
    type Error = String;

    fn try_from(written: Vec<Object<Written>>) -> Result<Self, String> {
        if written.is_empty() {
            return Err("a list of requirements must not be empty".to_owned());
        }
        written
            .into_iter()
            .map(|Object(written)| Requirement::try_from(written))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A requirement as it is written.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Written {
    InsecureAcceptAnything {},
    Reject {},
    SignedBy(SignedBy),
    SignedBaseLayer(SignedBaseLayer),
    SigstoreSigned(Box<SigstoreSigned>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignedBy {
    key_type: KeyType,
    #[serde(default, deserialize_with = "present")]
    key_path: Option<String>,
    #[serde(default, deserialize_with = "present")]
    key_paths: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    key_data: Option<Base64>,
    #[serde(default, deserialize_with = "present")]
    #[allow(dead_code, reason = "checked, but podd verifies no such signature")]
    signed_identity: Option<WrittenIdentity>,
}

#[derive(Deserialize)]
enum KeyType {
    #[serde(rename = "GPGKeys")]
    GpgKeys,
    #[serde(rename = "signedByGPGKeys")]
    SignedByGpgKeys,
    #[serde(rename = "X509Certificates")]
    X509Certificates,
    #[serde(rename = "signedByX509CAs")]
    SignedByX509Cas,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignedBaseLayer {
    #[allow(dead_code, reason = "checked, but podd verifies no such signature")]
    base_layer_identity: WrittenIdentity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SigstoreSigned {
    #[serde(default, deserialize_with = "present")]
    key_path: Option<String>,
    #[serde(default, deserialize_with = "present")]
    key_paths: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    key_data: Option<Base64>,
    #[serde(default, deserialize_with = "present")]
    key_datas: Option<Vec<Base64>>,
    #[serde(default, deserialize_with = "present")]
    fulcio: Option<Object<Fulcio>>,
    #[serde(default, deserialize_with = "present")]
    pki: Option<Object<Pki>>,
    #[serde(default, deserialize_with = "present")]
    rekor_public_key_path: Option<String>,
    #[serde(default, deserialize_with = "present")]
    rekor_public_key_paths: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    rekor_public_key_data: Option<Base64>,
    #[serde(default, deserialize_with = "present")]
    rekor_public_key_datas: Option<Vec<Base64>>,
    #[serde(default, deserialize_with = "present")]
    signed_identity: Option<WrittenIdentity>,
}

/// `fulcio`, whose fields are checked and not used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fulcio {
    #[serde(default, deserialize_with = "present")]
    ca_path: Option<String>,
    #[serde(default, deserialize_with = "present")]
    ca_data: Option<Base64>,
    #[serde(rename = "oidcIssuer")]
    #[allow(dead_code, reason = "checked, but podd verifies no such signature")]
    oidc_issuer: String,
    #[allow(dead_code, reason = "checked, but podd verifies no such signature")]
    subject_email: String,
}

/// `pki`, whose fields are checked and not used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Pki {
    #[serde(default, deserialize_with = "present")]
    ca_roots_path: Option<String>,
    #[serde(default, deserialize_with = "present")]
    ca_roots_data: Option<Base64>,
    #[serde(default, deserialize_with = "present")]
    ca_intermediates_path: Option<String>,
    #[serde(default, deserialize_with = "present")]
    ca_intermediates_data: Option<Base64>,
    #[serde(default, deserialize_with = "present")]
    subject_hostname: Option<String>,
    #[serde(default, deserialize_with = "present")]
    subject_email: Option<String>,
}

impl TryFrom<Written> for Requirement {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::InsecureAcceptAnything {} => Ok(Self::AcceptAnything),
            Written::Reject {} => Ok(Self::Reject),
            Written::SignedBy(signed) => signed.requirement(),
            Written::SignedBaseLayer(SignedBaseLayer { base_layer_identity: _ }) => {
                Ok(Self::Unsupported("signedBaseLayer".to_owned()))
            }
            Written::SigstoreSigned(signed) => signed.requirement(),
        }
    }
}

impl SignedBy {
    fn requirement(self) -> Result<Requirement, String> {
        let given = [self.key_path.is_some(), self.key_paths.is_some(), self.key_data.is_some()];
        exactly_one("signedBy", &given, "keyPath, keyPaths and keyData")?;
        let what = match self.key_type {
            KeyType::GpgKeys => "signedBy with keyType GPGKeys",
            KeyType::SignedByGpgKeys => "signedBy with keyType signedByGPGKeys",
            KeyType::X509Certificates => "signedBy with keyType X509Certificates",
            KeyType::SignedByX509Cas => "signedBy with keyType signedByX509CAs",
        };
        Ok(Requirement::Unsupported(what.to_owned()))
    }
}

impl Fulcio {
    fn check(&self) -> Result<(), String> {
        exactly_one("fulcio", &[self.ca_path.is_some(), self.ca_data.is_some()], "caPath and caData")
    }
}

impl Pki {
    fn check(&self) -> Result<(), String> {
        let roots = [self.ca_roots_path.is_some(), self.ca_roots_data.is_some()];
        exactly_one("pki", &roots, "caRootsPath and caRootsData")?;
        if self.ca_intermediates_path.is_some() && self.ca_intermediates_data.is_some() {
            return Err("pki: may have only one of caIntermediatesPath and caIntermediatesData".to_owned());
        }
        match (&self.subject_hostname, &self.subject_email) {
            (None, None) => Err("pki: needs subjectHostname or subjectEmail".to_owned()),
            _ => Ok(()),
        }
    }
}

impl SigstoreSigned {
    fn requirement(self) -> Result<Requirement, String> {
        let given = [
            self.key_path.is_some(),
            self.key_paths.is_some(),
            self.key_data.is_some(),
            self.key_datas.is_some(),
            self.fulcio.is_some(),
            self.pki.is_some(),
        ];
        exactly_one("sigstoreSigned", &given, "keyPath, keyPaths, keyData, keyDatas, fulcio and pki")?;
        let beyond = self.beyond()?;
        let paths = self.key_path.map(|path| vec![path]).or(self.key_paths);
        let datas = self.key_data.map(|data| vec![data]).or(self.key_datas);
        let keys = match paths {
            Some(paths) => KeySource::Files(paths.into_iter().map(absolute).collect::<Result<_, _>>()?),
            None => KeySource::Inline(datas.into_iter().flatten().map(|data| data.0).collect()),
        };
        let is_empty = match &keys {
            KeySource::Files(paths) => paths.is_empty(),
            KeySource::Inline(keys) => keys.is_empty(),
        };
        let has_others = self.fulcio.is_some() || self.pki.is_some();
        if is_empty && !has_others {
            return Err("sigstoreSigned: its list of keys must not be empty".to_owned());
        }
        if let Some(what) = beyond {
            return Ok(Requirement::Unsupported(format!("sigstoreSigned with {what}")));
        }
        let identity = self.signed_identity.map_or(SignedIdentity::MatchRepoDigestOrExact, |given| given.0);
        Ok(Requirement::SigstoreSigned { keys, identity })
    }

    /// The field that asks for what podd cannot check, if any does.
    fn beyond(&self) -> Result<Option<&'static str>, String> {
        let rekor = self.rekor()?;
        self.fulcio.as_ref().map_or(Ok(()), |given| given.0.check())?;
        self.pki.as_ref().map_or(Ok(()), |given| given.0.check())?;
        match (&self.fulcio, &self.pki, rekor) {
            (Some(_), _, None) => Err("sigstoreSigned: fulcio needs a rekorPublicKey field".to_owned()),
            (_, Some(_), Some(_)) => Err("sigstoreSigned: pki cannot have a rekorPublicKey field".to_owned()),
            (Some(_), ..) => Ok(Some("fulcio")),
            (_, Some(_), _) => Ok(Some("pki")),
            (None, None, rekor) => Ok(rekor),
        }
    }

    /// The name of the field that asks for Rekor, if any does.
    fn rekor(&self) -> Result<Option<&'static str>, String> {
        let given = [
            (self.rekor_public_key_path.is_some(), "rekorPublicKeyPath"),
            (self.rekor_public_key_paths.is_some(), "rekorPublicKeyPaths"),
            (self.rekor_public_key_data.is_some(), "rekorPublicKeyData"),
            (self.rekor_public_key_datas.is_some(), "rekorPublicKeyDatas"),
        ];
        let is_empty = self.rekor_public_key_paths.as_ref().is_some_and(Vec::is_empty)
            || self.rekor_public_key_datas.as_ref().is_some_and(Vec::is_empty);
        if is_empty {
            return Err("sigstoreSigned: its list of rekorPublicKeys must not be empty".to_owned());
        }
        let mut names = given.iter().filter(|(is_given, _)| *is_given).map(|(_, name)| *name);
        match (names.next(), names.next()) {
            (Some(_), Some(_)) => {
                Err("sigstoreSigned: there may be only one rekorPublicKey field".to_owned())
            }
            (first, _) => Ok(first),
        }
    }
}

fn exactly_one(requirement: &str, given: &[bool], fields: &str) -> Result<(), String> {
    match given.iter().filter(|given| **given).count() {
        1 => Ok(()),
        _ => Err(format!("{requirement}: needs exactly one of {fields}")),
    }
}

fn absolute(path: String) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(format!("key path {path:?} is not absolute")) }
}

/// A `signedIdentity`.
struct WrittenIdentity(SignedIdentity);

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum IdentityFields {
    MatchExact {},
    MatchRepoDigestOrExact {},
    MatchRepository {},
    ExactReference { docker_reference: String },
    ExactRepository { docker_repository: String },
    RemapIdentity { prefix: String, signed_prefix: String },
}

impl<'de> Deserialize<'de> for WrittenIdentity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object(fields) = Object::deserialize(deserializer)?;
        let identity = match fields {
            IdentityFields::MatchExact {} => Ok(SignedIdentity::MatchExact),
            IdentityFields::MatchRepoDigestOrExact {} => Ok(SignedIdentity::MatchRepoDigestOrExact),
            IdentityFields::MatchRepository {} => Ok(SignedIdentity::MatchRepository),
            IdentityFields::ExactReference { docker_reference } => {
                SignedIdentity::exact_reference(&docker_reference)
            }
            IdentityFields::ExactRepository { docker_repository } => {
                SignedIdentity::exact_repository(&docker_repository)
            }
            IdentityFields::RemapIdentity { prefix, signed_prefix } => {
                SignedIdentity::remap(&prefix, &signed_prefix)
            }
        };
        identity.map(Self).map_err(D::Error::custom)
    }
}

/// Bytes as base64.
struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| D::Error::custom("key data that is not base64"))
    }
}
