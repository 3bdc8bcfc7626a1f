//! The client against a real registry server (Debian's docker-registry, with basic authentication), filled by skopeo.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fault::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, client};
use crate::image::digest::{Digest, Hasher};
use crate::image::reference::Reference;
use crate::image::registry::{Credentials, ErrorKind, Platform};

pub(super) const PASSWORD: &str = "hush-password";
/// bcrypt of [`PASSWORD`].
const HTPASSWD: &str = "user:$2y$04$mtV4rlOkvT12Xdr.DPgc7OyLQ41NoJAE6lgWmuhgM4ExtzIquQSEC\n";

pub(super) struct Server {
    child: Child,
    pub(super) address: String,
}

impl Server {
    /// Starts the server with its state in `directory`, by HTTPS where it has `cert.pem` and `key.pem`.
    pub(super) fn start(directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let (storage, users) = (directory.join("storage"), directory.join("htpasswd"));
        fs::write(&users, HTPASSWD).unwrap();
        let mut config = json!({
            "version": 0.1,
            "storage": { "filesystem": { "rootdirectory": storage } },
            "http": { "addr": address },
            "auth": { "htpasswd": { "realm": "test", "path": users } },
        });
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        if certificate.exists() {
            config["http"]["tls"] = json!({ "certificate": certificate, "key": key });
        }
        let file = directory.join("config.yml");
        fs::write(&file, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Debian package docker-registry is installed");
        let server = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&server.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An OCI layout in `directory` with an index of two platforms; the content of each layer is its architecture's name.
fn write_layout(directory: &Path) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |media_type: &str, bytes: &[u8]| -> Value {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let entry = |architecture: &str| {
        let layer = add(OCI_LAYER, architecture.repeat(100_000).as_bytes());
        let rootfs = json!({ "type": "layers", "diff_ids": [Digest::of(architecture.as_bytes())] });
        let config = json!({ "os": "linux", "architecture": architecture, "rootfs": rootfs });
        let config = add(OCI_CONFIG, config.to_string().as_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer] });
        let mut entry = add(OCI_MANIFEST, manifest.to_string().as_bytes());
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entry
    };
    let entries = [entry("arm64"), entry("amd64")];
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let mut top = add(OCI_INDEX, index.to_string().as_bytes());
    top["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    fs::write(directory.join("index.json"), json!({ "schemaVersion": 2, "manifests": [top] }).to_string())
        .unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn push(layout: &Path, reference: &str) {
    let pushed = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--all", "--quiet", "--dest-tls-verify=false", "--dest-creds"])
        .arg(format!("user:{PASSWORD}"))
        .arg(format!("oci:{}:v1", layout.display()))
        .arg(format!("docker://{reference}"))
        .output()
        .expect("the Debian package skopeo is installed");
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
}

#[tokio::test]
async fn an_image_of_a_real_registry_is_resolved_and_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let layout = directory.path().join("layout");
    write_layout(&layout);
    let text = format!("{}/team/app:v1", server.address);
    push(&layout, &text);

    let reference: Reference = text.parse().unwrap();
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let credentials = Credentials::Basic { username: "user".into(), password: PASSWORD.into() };
    let client = client();
    let image = client.resolve(&reference, &credentials, &platform).await.unwrap();
    assert_ne!(image.digest, image.manifest_digest);
    assert_eq!(image.diff_ids, [Digest::of(b"amd64")]);

    let layer = &image.layers[0];
    let mut blob = client.open_blob(&reference, &credentials, &layer.digest, layer.size).await.unwrap();
    let mut hasher = Hasher::default();
    while let Some(chunk) = blob.next_chunk().await.unwrap() {
        hasher.update(&chunk);
    }
    assert_eq!(hasher.finish(), layer.digest);

    let absent = format!("{}/team/app:v2", server.address).parse().unwrap();
    let error = client.resolve(&absent, &credentials, &platform).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = client.resolve(&reference, &Credentials::Anonymous, &platform).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}
