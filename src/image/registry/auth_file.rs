//! The node's own credentials: containers-auth.json(5) files, and which credentials an endpoint is shown.
//!
//! Three sources, the first that has something for an endpoint decides:
//!
//! 1. what the request gave, for the host in the image's own name and for no other: a mirror elsewhere never sees it;
//! 2. the file that a credential provider left for this namespace and image, which is taken: read once and removed;
//! 3. the node's auth file.
//!
//! In a file the longest prefix of the image's name at the endpoint wins, so that each mirror can have its own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::credentials::{Credentials, CredentialsError, host_of};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::registries::{Endpoint, default_authority};
use crate::sys::fs::read_bounded;

/// The largest auth file, in bytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// What a pull may show, by endpoint.
#[derive(Clone, Default)]
pub struct PullAuth {
    given: Option<Credentials>,
    files: Vec<Arc<AuthFile>>,
}

/// A containers-auth.json(5), read.
#[derive(Default, Deserialize)]
pub struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

impl PullAuth {
    /// What the request gave for the image, and the file taken for it.
    pub fn new(given: Credentials, namespaced: Option<Arc<AuthFile>>) -> Self {
        let given = Some(given).filter(|given| *given != Credentials::Anonymous);
        Self { given, files: namespaced.into_iter().collect() }
    }

    /// The same with the node's auth file, where there is one.
    pub(super) fn with_file(&self, path: Option<&Path>) -> Result<Self, CredentialsError> {
        let mut with = self.clone();
        with.files.extend(path.map(AuthFile::read).transpose()?.flatten().map(Arc::new));
        Ok(with)
    }

    /// What an endpoint is shown when it asks.
    pub(super) fn for_endpoint(&self, endpoint: &Endpoint) -> Result<Credentials, CredentialsError> {
        if let Some(given) = self.given.as_ref().filter(|_| endpoint.home) {
            return Ok(given.clone());
        }
        // A host of hosts.toml has the image's path and another host.
        let repository = endpoint.reference.repository();
        let registry = match default_authority(endpoint.reference.registry()) == endpoint.authority {
            true => endpoint.reference.registry(),
            false => &endpoint.authority,
        };
        let name = format!("{registry}/{repository}");
        let found = self.files.iter().find_map(|file| file.find(&name));
        found.map_or(Ok(Credentials::Anonymous), AuthEntry::credentials)
    }
}

impl AuthFile {
    /// Reads a file; `None` where there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, CredentialsError> {
        let failed = |source| CredentialsError::Read { path: path.to_owned(), source };
        let text = match read_bounded(path, LARGEST_FILE) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| CredentialsError::Damaged { path: path.to_owned(), line: e.line() })
    }

    /// Takes the file that crio-credential-provider leaves for one pull: `<namespace>-<sha256 of the image's name>.json`,
    /// the name normalized and without tag and digest. It is removed, as it is for this pull alone; the provider writes
    /// another for the next. Blocks.
    pub fn take(
        directory: &Path,
        namespace: &str,
        image: &Reference,
    ) -> Result<Option<Arc<Self>>, CredentialsError> {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if namespace.is_empty() || !namespace.bytes().all(is_name) {
            return Ok(None);
        }
        let hash = Digest::of(image.name().as_bytes());
        let path = directory.join(format!("{namespace}-{}.json", hash.hex()));
        let file = Self::read(&path);
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove the auth file {}: {e}", path.display());
        }
        let file = file?;
        if file.is_some() {
            tracing::debug!(
                namespace,
                image = image.name(),
                "took the auth file that was left for this pull"
            );
        }
        Ok(file.map(Arc::new))
    }

    fn find(&self, name: &str) -> Option<&AuthEntry> {
        let mut prefix = name;
        loop {
            if let Some(entry) = self.auths.get(prefix) {
                return Some(entry);
            }
            match prefix.rsplit_once('/') {
                Some((shorter, _)) => prefix = shorter,
                None => break,
            }
        }
        // Docker's own tools write the registry as a URL.
        let registry = host_of(prefix);
        self.auths.iter().find(|(key, _)| is_legacy(key) && host_of(key) == registry).map(|(_, entry)| entry)
    }
}

impl AuthEntry {
    fn credentials(&self) -> Result<Credentials, CredentialsError> {
        match (self.identity_token.as_str(), self.auth.as_str()) {
            ("", "") => Ok(Credentials::Anonymous),
            ("", auth) => Credentials::from_auth(auth),
            (token, _) => Ok(Credentials::IdentityToken(token.to_owned())),
        }
    }
}

/// A key that names a registry in an older way: as a URL, or as one of Docker Hub's other names.
fn is_legacy(key: &str) -> bool {
    key.contains("://")
        || !key.contains('/')
        || key.ends_with("/v1/")
        || key.ends_with("/v1")
        || key.ends_with("/v2/")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;
    use crate::image::registries::{Snapshot, parse};

    fn auth_file(names: &[&str]) -> serde_json::Value {
        let entry = |user: &str| serde_json::json!({ "auth": BASE64_STANDARD.encode(format!("{user}:p")) });
        let auths: serde_json::Map<_, _> =
            names.iter().map(|name| ((*name).to_owned(), entry(&name.replace(':', "_")))).collect();
        serde_json::json!({ "auths": auths })
    }

    fn basic(name: &str) -> Credentials {
        Credentials::Basic { username: name.replace(':', "_"), password: "p".into() }
    }

    fn read(json: &serde_json::Value) -> PullAuth {
        let file = Arc::new(serde_json::from_value(json.clone()).unwrap());
        PullAuth::new(Credentials::Anonymous, Some(file))
    }

    fn endpoint(text: &str) -> Endpoint {
        Snapshot::default().plan(&text.parse().unwrap()).endpoints.remove(0)
    }

    #[test]
    fn the_longest_prefix_in_the_auth_file_wins() {
        let mut file = auth_file(&["r.io", "r.io/team", "r.io/team/app", "https://index.docker.io/v1/"]);
        file["auths"]["r.io/token"] = serde_json::json!({ "identitytoken": "t" });
        let auth = read(&file);
        let of = |text: &str| auth.for_endpoint(&endpoint(text)).unwrap();
        assert_eq!(of("r.io/team/app:v1"), basic("r.io/team/app"));
        assert_eq!(of("r.io/team/other"), basic("r.io/team"));
        assert_eq!(of("r.io/teams/other"), basic("r.io"));
        assert_eq!(of("busybox"), basic("https://index.docker.io/v1/"));
        assert_eq!(of("r.io/token/x"), Credentials::IdentityToken("t".into()));
        assert_eq!(of("s.io/team/app"), Credentials::Anonymous);
    }

    #[test]
    fn a_missing_file_is_none_and_a_damaged_one_is_no_leak() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.json");
        assert!(AuthFile::read(&path).unwrap().is_none());
        fs::write(&path, r#"{"auths": {"r.io": "hush"}}"#).unwrap();
        let error = AuthFile::read(&path).err().unwrap().to_string();
        assert!(error.contains("auth.json") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn what_was_given_for_the_image_does_not_go_to_a_mirror_elsewhere() {
        let conf = "[[registry]]\nlocation = \"r.io\"\n\
            [[registry.mirror]]\nlocation = \"r.io/copies\"\n\
            [[registry.mirror]]\nlocation = \"mirror.io/r\"\n[[registry.mirror]]\nlocation = \"other.io\"\n";
        let plan = Snapshot::of(parse(conf).unwrap()).plan(&"r.io/app:v1".parse().unwrap());
        let file = serde_json::from_value(auth_file(&["mirror.io/r/app", "r.io"])).unwrap();
        let auth = PullAuth::new(Credentials::RegistryToken("given".into()), Some(Arc::new(file)));
        let shown: Vec<_> = plan.endpoints.iter().map(|e| auth.for_endpoint(e).unwrap()).collect();
        let given = Credentials::RegistryToken("given".into());
        assert_eq!(shown, [given.clone(), basic("mirror.io/r/app"), Credentials::Anonymous, given]);
    }

    #[test]
    fn a_namespaces_file_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let image: Reference = "busybox:1.36".parse().unwrap();
        let hash = Digest::of(b"docker.io/library/busybox");
        let path = directory.path().join(format!("team-a-{}.json", hash.hex()));
        fs::write(&path, auth_file(&["docker.io"]).to_string()).unwrap();
        for hostile in ["", "../team-a", "team/a", ".."] {
            assert!(AuthFile::take(directory.path(), hostile, &image).unwrap().is_none());
        }
        let taken = AuthFile::take(directory.path(), "team-a", &image).unwrap();
        assert!(taken.is_some() && !path.exists());
        assert!(AuthFile::take(directory.path(), "team-a", &image).unwrap().is_none());
    }
}
