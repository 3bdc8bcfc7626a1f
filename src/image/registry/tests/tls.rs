//! HTTPS with real certificates: trusted ones work, others are an error and no reason to speak plainly.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::fault::client;
use super::real::Server;
use super::{passes, second_process};
use crate::image::registries::Trust;
use crate::image::registry::clients::ClientPool;
use crate::image::registry::{Credentials, ErrorKind, Platform, RegistryError};

/// Tells the second process which registry to ask.
const ADDRESS: &str = "PODD_TEST_REGISTRY";

fn openssl(directory: &Path, command: &str) {
    let run = Command::new("openssl").args(command.split(' ')).current_dir(directory).output();
    let run = run.expect("the Debian package openssl is installed");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// Makes an authority `ca.pem`, and of it `cert.pem` with `key.pem` for 127.0.0.1 and [`super::proxy::BEHIND`].
pub(super) fn write_certificates(directory: &Path) {
    let names = format!("subjectAltName=IP:127.0.0.1,DNS:{}", super::proxy::BEHIND);
    fs::write(directory.join("extensions"), names).unwrap();
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        directory,
        &format!("req -x509 {new_key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"),
    );
    openssl(directory, &format!("req -new {new_key} -subj /CN=registry -keyout key.pem -out request.pem"));
    let signed = "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2";
    openssl(directory, &format!("{signed} -extfile extensions -out cert.pem"));
}

#[test]
fn clients_are_found_by_the_content_of_the_certificates() {
    let root = tempfile::tempdir().unwrap();
    write_certificates(root.path());
    let directory = root.path().join("r.io");
    let trust =
        Trust { directory: Some(directory.clone()), ca: Vec::new(), client: Vec::new(), verify: true };
    let pool = ClientPool::new("podd", Duration::from_secs(1)).unwrap();
    let error = |authority: &str| pool.get(authority, &trust).err().map(|e| e.to_string());
    assert_eq!((error("r.io"), pool.count()), (None, 0), "no directory, the common client");
    fs::create_dir(&directory).unwrap();
    fs::copy(root.path().join("ca.pem"), directory.join("ca.crt")).unwrap();
    assert_eq!((error("r.io"), pool.count()), (None, 1));
    fs::copy(root.path().join("cert.pem"), directory.join("us.cert")).unwrap();
    assert!(error("new.io").unwrap().contains("us.cert is a client certificate without its key"));
    assert_eq!(error("r.io"), None, "it keeps those that it had");
    fs::copy(root.path().join("key.pem"), directory.join("us.key")).unwrap();
    for authority in ["r.io", "new.io", "r.io"] {
        assert_eq!((error(authority), pool.count()), (None, 2));
    }
    fs::write(directory.join("us.key"), "-----BEGIN PRIVATE KEY-----\nhush\n").unwrap();
    let text = error("third.io").unwrap();
    assert!(text.contains("us.key has no private key in PEM form") && !text.contains("hush"), "{text}");
    fs::copy(root.path().join("ca.key"), directory.join("us.key")).unwrap();
    assert!(error("third.io").unwrap().contains("us.cert cannot be used"), "the key of another certificate");
    fs::remove_file(directory.join("us.cert")).unwrap();
    assert!(error("third.io").unwrap().contains("us.key"), "a key alone");
    fs::remove_file(directory.join("us.key")).unwrap();
    assert_eq!((error("third.io"), pool.count()), (None, 2));
    fs::write(directory.join("ca.crt"), "nothing").unwrap();
    assert!(error("fourth.io").unwrap().contains("ca.crt has no certificate in PEM form"));
}

async fn ask(address: &str) -> RegistryError {
    let reference = format!("{address}/app:absent").parse().unwrap();
    let credentials = Credentials::Basic { username: "user".into(), password: super::real::PASSWORD.into() };
    client().resolve(&reference, &credentials, &Platform::host()).await.unwrap_err()
}

#[tokio::test]
async fn a_certificate_counts_only_where_its_authority_is_known() {
    let directory = tempfile::tempdir().unwrap();
    write_certificates(directory.path());
    let server = Server::start(directory.path());
    let error = ask(&server.address).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("certificate: invalid peer certificate: UnknownIssuer"), "{error}");
    // The system's authorities are read from the environment, so a process of its own knows another one.
    let mut trusting = second_process("tls::a_trusted_registry_is_asked");
    trusting.env("SSL_CERT_FILE", directory.path().join("ca.pem")).env(ADDRESS, &server.address);
    passes(trusting).await;
}

#[tokio::test]
#[ignore = "runs as the second process of the test above"]
async fn a_trusted_registry_is_asked() {
    let error = ask(&std::env::var(ADDRESS).unwrap()).await;
    assert_eq!((error.kind(), error.status()), (ErrorKind::NotFound, Some(404)), "{error}");
}
