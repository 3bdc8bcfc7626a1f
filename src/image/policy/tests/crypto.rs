//! Keys of openssl, and what is signed with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::image::digest::Digest;
use crate::image::policy::keys::Key;
use crate::image::policy::{Flaw, Signature};

/// A key pair in a directory of its own.
pub(super) struct Signer {
    directory: tempfile::TempDir,
    kind: Kind,
}

/// What openssl is to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    P256,
    P384,
    P521,
    Rsa(u32),
    Ed25519,
}

impl Kind {
    fn options(self) -> Vec<String> {
        let curve =
            |name: &str| vec!["EC".to_owned(), "-pkeyopt".to_owned(), format!("ec_paramgen_curve:{name}")];
        match self {
            Self::P256 => curve("P-256"),
            Self::P384 => curve("P-384"),
            Self::P521 => curve("P-521"),
            Self::Rsa(bits) => {
                vec!["RSA".to_owned(), "-pkeyopt".to_owned(), format!("rsa_keygen_bits:{bits}")]
            }
            Self::Ed25519 => vec!["ED25519".to_owned()],
        }
    }
}

impl Signer {
    pub(super) fn new(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = Self { directory, kind };
        openssl(
            Command::new("openssl")
                .args(["genpkey", "-out"])
                .arg(signer.private())
                .arg("-algorithm")
                .args(kind.options()),
        );
        openssl(
            Command::new("openssl")
                .args(["pkey", "-pubout", "-in"])
                .arg(signer.private())
                .arg("-out")
                .arg(signer.public()),
        );
        signer
    }

    /// The public key's file.
    pub(super) fn public(&self) -> PathBuf {
        self.directory.path().join("key.pub")
    }

    fn private(&self) -> PathBuf {
        self.directory.path().join("key")
    }

    /// The public key's text.
    pub(super) fn pem(&self) -> Vec<u8> {
        fs::read(self.public()).unwrap()
    }

    /// A signature of bytes as cosign makes it, as base64.
    pub(super) fn sign(&self, message: &str) -> String {
        self.sign_with(message, &["-sha256"])
    }

    fn sign_with(&self, message: &str, options: &[&str]) -> String {
        let (message_file, signature) = (self.directory.path().join("m"), self.directory.path().join("s"));
        fs::write(&message_file, message).unwrap();
        let mut command = Command::new("openssl");
        match self.kind {
            Kind::Ed25519 => {
                command.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(self.private()).arg("-in")
            }
            _ => command.arg("dgst").args(options).arg("-sign").arg(self.private()),
        };
        command.args((self.kind != Kind::Ed25519).then_some("-out"));
        match self.kind {
            Kind::Ed25519 => command.arg(&message_file).arg("-out").arg(&signature),
            _ => command.arg(&signature).arg(&message_file),
        };
        openssl(&mut command);
        STANDARD.encode(fs::read(signature).unwrap())
    }

    /// The signature that says that the manifest of this digest was published under this name.
    pub(super) fn signature(&self, of: &Digest, name: &str) -> Signature {
        let payload = payload(of, name);
        Signature { of: of.clone(), signature: self.sign(&payload), payload }
    }
}

pub(super) fn payload(of: &Digest, name: &str) -> String {
    json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": of },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

fn openssl(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().expect("the Debian package openssl is installed");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn verifies(key: &Key, message: &str, signature: &str) -> bool {
    key.verifies(message.as_bytes(), &STANDARD.decode(signature).unwrap())
}

#[test]
fn signatures_by_every_supported_kind_of_key_hold_and_no_others() {
    for kind in [Kind::P256, Kind::P384, Kind::Rsa(2048), Kind::Rsa(3072), Kind::Ed25519] {
        let (signer, other) = (Signer::new(kind), Signer::new(kind));
        let key = Key::from_pem(&signer.pem()).unwrap();
        let signature = signer.sign("message");
        assert!(verifies(&key, "message", &signature), "{kind:?}");
        assert!(!verifies(&key, "massage", &signature), "{kind:?}");
        assert!(!verifies(&key, "message", &other.sign("message")), "{kind:?}");
        assert!(!verifies(&key, "message", ""), "{kind:?}");
        let other_key = Key::from_pem(&other.pem()).unwrap();
        assert!(!verifies(&other_key, "message", &signature), "{kind:?}");
    }
}

#[test]
fn other_hashes_and_paddings_than_those_of_the_peers_do_not_hold() {
    let ecdsa = Signer::new(Kind::P384);
    let key = Key::from_pem(&ecdsa.pem()).unwrap();
    assert!(!verifies(&key, "message", &ecdsa.sign_with("message", &["-sha384"])));
    let rsa = Signer::new(Kind::Rsa(2048));
    let key = Key::from_pem(&rsa.pem()).unwrap();
    for options in [&["-sha512"][..], &["-sha256", "-sigopt", "rsa_padding_mode:pss"]] {
        assert!(!verifies(&key, "message", &rsa.sign_with("message", options)), "{options:?}");
    }
}

#[test]
fn keys_are_read_in_the_forms_in_which_tools_write_them() {
    let rsa = Signer::new(Kind::Rsa(2048));
    let old = rsa.directory.path().join("old");
    openssl(
        Command::new("openssl")
            .args(["rsa", "-RSAPublicKey_out", "-in"])
            .arg(rsa.private())
            .arg("-out")
            .arg(&old),
    );
    let old = fs::read(old).unwrap();
    assert!(old.starts_with(b"-----BEGIN RSA PUBLIC KEY"));
    assert!(verifies(&Key::from_pem(&old).unwrap(), "m", &rsa.sign("m")));
    let commented = [b"a comment\r\n".as_slice(), &rsa.pem()].concat();
    assert!(Key::from_pem(&commented).is_ok());
    for kind in [Kind::P521, Kind::Rsa(1024)] {
        let error = Key::from_pem(&Signer::new(kind).pem()).err().unwrap().to_string();
        assert!(error.contains("not supported"), "{kind:?}: {error}");
    }
    let private = fs::read(Path::new(&rsa.private())).unwrap();
    assert!(Key::from_pem(&private).is_err());
}

/// What podman and skopeo make: the payload, key and signature of the library that they share (containers/image 5.36.2).
#[test]
fn a_signature_that_podmans_library_made_holds() {
    let pem = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGyauqs/m6kYOHb2XjAN+M8s3jvr5
aGUgESYvFRuyQwZxvYE8wCZeksgrHhkdUncy9Y5R30RF+HrOXpK5zHfVRg==
-----END PUBLIC KEY-----
";
    let signature = Signature {
        of: "sha256:8cd3d1bdc4eb4ad2932f08ef8790caac53bc2991513cc507c8c8bc83dee8f1c5".parse().unwrap(),
        payload: r#"{"critical":{"identity":{"docker-reference":"127.0.0.1:27119/policy/oracle:signed"},"image":{"docker-manifest-digest":"sha256:8cd3d1bdc4eb4ad2932f08ef8790caac53bc2991513cc507c8c8bc83dee8f1c5"},"type":"cosign container image signature"},"optional":{"creator":"containers/image 5.36.2","timestamp":1795194766}}"#
            .to_owned(),
        signature: "MEYCIQCQ2MZbS76Ido63ygKR419oO5fAYT/HelBAJ+Wwr+ZOrwIhAPPq44/o3n600tcgWIQ9B5bUZfBJs1hqUCjkTPP0gcda"
            .to_owned(),
    };
    let keys = [Key::from_pem(pem.as_bytes()).unwrap()];
    let name = "127.0.0.1:27119/policy/oracle:signed";
    assert_eq!(signature.verify(&keys, |signed| signed == name), Ok(()));
    assert_eq!(signature.verify(&keys, |_| false), Err(Flaw::Identity(name.to_owned())));
}
