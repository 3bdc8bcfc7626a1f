//! Who podd is to a registry: the kubelet's `AuthConfig`, or an entry of a file (`auth_file.rs`).
//!
//! Secrets stay inside [`Credentials`]: `Debug` shows the kind alone, and errors repeat nothing of a bad value.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use sha2::{Digest, Sha256};

use crate::api;
use crate::image::reference::Reference;

/// What a pull shows to the registry when it is asked.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    Anonymous,
    /// A user name and a password.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token, for the registry's token service.
    IdentityToken(String),
    /// A bearer token, for the registry itself.
    RegistryToken(String),
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// `auth` is not base64 of `user:password`.
    #[error("the auth field of the credentials is not base64 of user:password")]
    Auth,
    /// A user name without password or the reverse.
    #[error("the credentials have a password but no user name")]
    NoUsername,
    /// The auth file cannot be read.
    #[error("read auth file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The auth file is not what containers-auth.json(5) describes. The cause is left out: it could quote a secret.
    #[error("auth file {} is not a valid containers-auth.json (line {line})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the mistake is.
        line: usize,
    },
}

impl Credentials {
    /// The credentials in a CRI `AuthConfig` for a pull of `reference`.
    ///
    /// Those whose `server_address` is another registry's are not for this pull: it is anonymous then.
    pub fn from_cri(auth: &api::AuthConfig, reference: &Reference) -> Result<Self, CredentialsError> {
        if !auth.server_address.is_empty() && host_of(&auth.server_address) != host_of(reference.registry()) {
            return Ok(Self::Anonymous);
        }
        if !auth.identity_token.is_empty() {
            return Ok(Self::IdentityToken(auth.identity_token.clone()));
        }
        if !auth.registry_token.is_empty() {
            return Ok(Self::RegistryToken(auth.registry_token.clone()));
        }
        match (auth.username.as_str(), auth.password.as_str(), auth.auth.as_str()) {
            ("", "", "") => Ok(Self::Anonymous),
            ("", "", encoded) => Self::from_auth(encoded),
            ("", _, _) => Err(CredentialsError::NoUsername),
            (username, password, _) => Ok(Self::basic(username, password)),
        }
    }

    pub(super) fn from_auth(encoded: &str) -> Result<Self, CredentialsError> {
        let decoded = BASE64_STANDARD.decode(encoded.trim()).map_err(|_| CredentialsError::Auth)?;
        let text = String::from_utf8(decoded).map_err(|_| CredentialsError::Auth)?;
        let (username, password) = text.split_once(':').ok_or(CredentialsError::Auth)?;
        Ok(Self::basic(username, password.trim_matches('\0')))
    }

    fn basic(username: &str, password: &str) -> Self {
        Self::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    /// The `Authorization` header of a user name and password.
    pub(super) fn basic_header(username: &str, password: &str) -> Option<HeaderValue> {
        sensitive(&format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
    }

    /// What tells two credentials apart without being them, to key a cache of tokens.
    pub(super) fn identity(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update(text.len().to_le_bytes());
            hash.update(text);
        };
        match self {
            Self::Anonymous => field("anonymous"),
            Self::Basic { username, password } => {
                [username, password].into_iter().for_each(|text| field(text))
            }
            Self::IdentityToken(token) => ["identity", token].into_iter().for_each(&mut field),
            Self::RegistryToken(token) => ["registry", "", token].into_iter().for_each(&mut field),
        }
        hash.finalize().into()
    }

    /// Whatever must not be repeated, even when the registry says it itself.
    pub(super) fn secrets(&self) -> Vec<String> {
        match self {
            Self::Anonymous => Vec::new(),
            Self::Basic { username, password } => {
                vec![password.clone(), BASE64_STANDARD.encode(format!("{username}:{password}"))]
            }
            Self::IdentityToken(token) | Self::RegistryToken(token) => vec![token.clone()],
        }
    }
}

/// A header value that the HTTP library does not show either.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
            Self::RegistryToken(_) => "RegistryToken(..)",
        })
    }
}

/// The host (with port) of an address that may be a URL, by the name that references use.
pub(super) fn host_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let host = if address.starts_with("http://") {
        host.strip_suffix(":80").map(str::to_owned).unwrap_or(host)
    } else {
        host.strip_suffix(":443").map(str::to_owned).unwrap_or(host)
    };
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io".to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::basic(username, password)
    }

    #[test]
    fn every_form_of_the_cri_is_understood() {
        let app = reference("r.io/app");
        let of = |auth: api::AuthConfig| Credentials::from_cri(&auth, &app);
        let empty = api::AuthConfig::default;
        assert_eq!(of(empty()).unwrap(), Credentials::Anonymous);
        let plain = api::AuthConfig { username: "u".into(), password: "p:w".into(), ..empty() };
        assert_eq!(of(plain.clone()).unwrap(), basic("u", "p:w"));
        let encoded = api::AuthConfig { auth: BASE64_STANDARD.encode("u:p:w"), ..empty() };
        assert_eq!(of(encoded).unwrap(), basic("u", "p:w"));
        let identity = api::AuthConfig { identity_token: "t".into(), ..plain.clone() };
        assert_eq!(of(identity).unwrap(), Credentials::IdentityToken("t".into()));
        let token = api::AuthConfig { registry_token: "t".into(), ..empty() };
        assert_eq!(of(token).unwrap(), Credentials::RegistryToken("t".into()));
        let elsewhere = api::AuthConfig { server_address: "https://other.io/v2/".into(), ..plain.clone() };
        assert_eq!(of(elsewhere).unwrap(), Credentials::Anonymous);
        let here = api::AuthConfig { server_address: "https://R.io:443/v2/".into(), ..plain };
        assert_eq!(of(here).unwrap(), basic("u", "p:w"));
        for auth in ["%%%secret", &BASE64_STANDARD.encode("secret")] {
            let error = of(api::AuthConfig { auth: auth.to_owned(), ..empty() }).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        for credentials in [basic("u", "hush"), Credentials::IdentityToken("hush".into())] {
            assert!(!format!("{credentials:?}").contains("hush"));
        }
    }

    #[test]
    fn identities_differ_where_credentials_do() {
        let all = [
            Credentials::Anonymous,
            basic("a", "bc"),
            basic("ab", "c"),
            basic("identity", "t"),
            Credentials::RegistryToken("t".into()),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a.identity() != b.identity()), "{a:?} {i}");
        }
    }
}
