//! Signature policies: which images are pulled and run, with keys of openssl, a real registry and skopeo's signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use podd::api;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::common::front::{Behaviour, Front};
use crate::common::image::{Format, Pushed, digest, push_list, pushed_busybox};
use crate::common::requests::Pod;
use crate::common::tar::Entry;
use crate::common::{
    ContainerSpec, ImageBuilder, Node, PodSpec, Registry, busybox, free_port, program, registry,
};
use crate::images_archive::{podd_images_ok, skopeo};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A key pair of openssl.
struct Signer {
    directory: tempfile::TempDir,
    algorithm: &'static [&'static str],
}

const P256: &[&str] = &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const RSA: &[&str] = &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const ED25519: &[&str] = &["ED25519"];

impl Signer {
    fn new(algorithm: &'static [&'static str]) -> Self {
        let signer = Self { directory: tempfile::tempdir().unwrap(), algorithm };
        let private = signer.path("key");
        openssl(
            Command::new(program("openssl"))
                .args(["genpkey", "-out"])
                .arg(&private)
                .arg("-algorithm")
                .args(algorithm),
        );
        openssl(
            Command::new(program("openssl"))
                .args(["pkey", "-pubout", "-in"])
                .arg(&private)
                .arg("-out")
                .arg(signer.public()),
        );
        signer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn public(&self) -> PathBuf {
        self.path("key.pub")
    }

    /// A requirement that this key has signed.
    fn requirement(&self) -> Value {
        json!({ "type": "sigstoreSigned", "keyPath": self.public() })
    }

    fn sign(&self, payload: &str) -> String {
        fs::write(self.path("payload"), payload).unwrap();
        let mut command = Command::new(program("openssl"));
        match self.algorithm == ED25519 {
            true => command.args([
                "pkeyutl",
                "-sign",
                "-rawin",
                "-inkey",
                "key",
                "-in",
                "payload",
                "-out",
                "signature",
            ]),
            false => command.args(["dgst", "-sha256", "-sign", "key", "-out", "signature", "payload"]),
        };
        openssl(command.current_dir(self.directory.path()));
        STANDARD.encode(fs::read(self.path("signature")).unwrap())
    }

    /// A payload that says that the manifest was published under that name, and its signature.
    fn signature(&self, manifest: &str, name: &str) -> Attachment {
        let payload = payload(manifest, name);
        Attachment { signature: self.sign(&payload), payload }
    }

    /// Signs a pushed image under its own name, as podman does.
    async fn sign_pushed(&self, registry: &Registry, pushed: &Pushed) {
        let manifest = pushed.by_digest.split_once('@').unwrap().1;
        let attachment = self.signature(manifest, &pushed.reference);
        attach(registry, repository(&pushed.reference), &tag_of(manifest), &[attachment]).await;
    }
}

struct Attachment {
    payload: String,
    signature: String,
}

fn payload(manifest: &str, name: &str) -> String {
    json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": manifest },
            "type": "cosign container image signature",
        },
        "optional": { "creator": "podd's tests", "timestamp": 1_700_000_000 },
    })
    .to_string()
}

fn openssl(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn repository(reference: &str) -> &str {
    let (_, rest) = reference.split_once('/').unwrap();
    rest.split([':', '@']).next().unwrap()
}

/// Where the signatures of a manifest are looked for.
fn tag_of(manifest: &str) -> String {
    format!("{}.sig", manifest.replace(':', "-"))
}

/// Pushes a manifest of signatures.
async fn attach(registry: &Registry, repository: &str, tag: &str, attachments: &[Attachment]) {
    let config = b"{}".to_vec();
    let mut layers = Vec::new();
    for attachment in attachments {
        let bytes = attachment.payload.clone().into_bytes();
        layers.push(json!({
            "mediaType": SIMPLE_SIGNING,
            "size": bytes.len(),
            "digest": digest(&bytes),
            "annotations": { "dev.cosignproject.cosign/signature": attachment.signature },
        }));
        registry.put_blob(repository, bytes).await;
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "size": config.len(), "digest": digest(&config) },
        "layers": layers,
    });
    registry.put_blob(repository, config).await;
    registry.put_manifest(repository, tag, MANIFEST, serde_json::to_vec(&manifest).unwrap()).await;
}

/// An image of its own.
fn image(content: &str) -> ImageBuilder {
    busybox().layer(&[Entry::file("word", 0o644, content)])
}

/// Replaces the node's policy by one that has these requirements for one scope and accepts nothing else.
fn require(node: &Node, scope: &str, requirements: &Value) {
    let policy = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { scope: requirements } },
    });
    write_policy(&policy_file(node), &policy.to_string());
}

fn policy_file(node: &Node) -> PathBuf {
    node.names.dir().join("policy.json")
}

/// As an administrator should: whole, under another name, and renamed.
fn write_policy(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn accept_anything() -> Value {
    json!({ "default": [{ "type": "insecureAcceptAnything" }] })
}

async fn pull_for(node: &mut Node, namespace: &str, reference: &str) -> Result<String, Status> {
    let image = Some(api::ImageSpec { image: reference.to_owned(), ..Default::default() });
    let metadata = api::PodSandboxMetadata { namespace: namespace.to_owned(), ..Default::default() };
    let sandbox_config = Some(api::PodSandboxConfig { metadata: Some(metadata), ..Default::default() });
    let request = api::PullImageRequest { image, auth: None, sandbox_config };
    Ok(node.image.pull_image(request).await?.into_inner().image_ref)
}

/// A container of an image as the kubelet asks for it: by its ID, with the name that the pod's author wrote beside it.
fn container(name: &str, image: &str, written: &str) -> ContainerSpec {
    ContainerSpec::script(name, "cat /word").with(|config| {
        config.image = Some(api::ImageSpec {
            image: image.to_owned(),
            user_specified_image: written.to_owned(),
            ..Default::default()
        });
    })
}

async fn pod_in(node: &mut Node, namespace: &str) -> Pod {
    let spec = PodSpec::new(node, namespace)
        .with(|config| config.metadata.as_mut().unwrap().namespace = namespace.to_owned());
    node.run_pod(spec).await
}

/// What the kubelet recognises, with all that an operator needs.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, words: &[&str]) {
    let status = result.expect_err("it is accepted");
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    assert!(status.message().starts_with("SignatureValidationFailed: "), "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "without {word:?}: {status:?}");
    }
}

#[tokio::test]
async fn signed_images_are_pulled_and_run_and_others_refused_before_a_layer_is_fetched() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let front = Front::new(Behaviour::Busy(0)).await;
    let pod = node.run_pod(PodSpec::new(&node, "signed")).await;
    for (n, algorithm) in [P256, P384, RSA, ED25519].into_iter().enumerate() {
        let signer = Signer::new(algorithm);
        let word = format!("word{n}");
        let pushed = image(&word).push(registry, &format!("policy/kinds{n}"), "v1").await.via(&front.host);
        require(&node, &front.host, &json!([signer.requirement()]));
        let blobs = front.blobs();
        refused(
            node.pull(&pushed.reference).await,
            &[&pushed.reference, "/policy.json", &front.host, "sigstoreSigned", "no sigstore signature"],
        );
        assert!(
            front.blobs() <= blobs + 1,
            "more than its configuration was fetched of an image that is refused"
        );
        assert_eq!(node.image_status(&pushed.reference).await, None);
        signer.sign_pushed(registry, &pushed).await;
        let image = node.pull(&pushed.reference).await.unwrap();
        assert!(front.blobs() > blobs + 2);
        let spec = container(&word, &image, &pushed.reference);
        assert_eq!(node.run_to_end(&pod, spec).await, (0, word));
    }
    node.finish().await;
}

#[tokio::test]
async fn signatures_that_are_not_of_this_image_name_and_key_are_refused() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let (signer, other) = (Signer::new(P256), Signer::new(P256));
    require(&node, registry.host(), &json!([signer.requirement()]));
    let mut cases = Vec::new();
    for name in ["tampered", "foreign", "digest", "identity", "repository", "tag"] {
        let pushed = image(name).push(registry, "policy/flawed", name).await;
        let manifest = pushed.by_digest.split_once('@').unwrap().1.to_owned();
        let mut attachment = signer.signature(&manifest, &pushed.reference);
        let mut tag = tag_of(&manifest);
        let reason = match name {
            "tampered" => {
                attachment.payload = attachment.payload.replace("1700000000", "1700000001");
                "none of the keys has made the signature"
            }
            "foreign" => {
                attachment = other.signature(&manifest, &pushed.reference);
                "none of the keys has made the signature"
            }
            "digest" => {
                attachment = signer.signature(&digest(b"another"), &pushed.reference);
                "to which it is attached"
            }
            "identity" => {
                attachment = signer.signature(&manifest, &format!("{}x", pushed.reference));
                "signedIdentity does not accept"
            }
            "repository" => {
                attachment = signer.signature(&manifest, pushed.reference.rsplit_once(':').unwrap().0);
                "use matchRepository"
            }
            _ => {
                tag = tag_of(&digest(b"another"));
                "no sigstore signature"
            }
        };
        attach(registry, "policy/flawed", &tag, &[attachment]).await;
        cases.push((pushed.reference, reason));
    }
    for (reference, reason) in &cases {
        refused(node.pull(reference).await, &[reference, reason]);
    }
    let mut lenient = signer.requirement();
    lenient["signedIdentity"] = json!({ "type": "matchRepository" });
    require(&node, registry.host(), &json!([lenient]));
    node.pull(&cases[4].0).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn every_requirement_has_to_hold_and_unknown_ones_never_do() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let (vendor, reviewer) = (Signer::new(P256), Signer::new(ED25519));
    let pushed = image("both").push(registry, "policy/both", "v1").await;
    let manifest = pushed.by_digest.split_once('@').unwrap().1;
    let both = json!([vendor.requirement(), reviewer.requirement()]);
    require(&node, registry.host(), &both);
    let one = vendor.signature(manifest, &pushed.reference);
    attach(registry, "policy/both", &tag_of(manifest), &[one]).await;
    refused(node.pull(&pushed.reference).await, &["(number 2 of 2)"]);
    let two =
        [vendor.signature(manifest, &pushed.reference), reviewer.signature(manifest, &pushed.reference)];
    attach(registry, "policy/both", &tag_of(manifest), &two).await;
    node.pull(&pushed.reference).await.unwrap();
    node.pull(&pushed.by_digest).await.unwrap();

    let gpg = json!({ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/keys.gpg" });
    require(&node, registry.host(), &json!([{ "type": "insecureAcceptAnything" }, gpg]));
    refused(node.pull(&pushed.reference).await, &["signedBy with keyType GPGKeys", "podd cannot check"]);
    // Nobody listens there, and nobody is asked.
    let nowhere = format!("127.0.0.1:{}/a:v1", free_port());
    refused(node.pull(&nowhere).await, &[&nowhere, "scope \"default\"", "\"reject\""]);
    node.finish().await;
}

#[tokio::test]
async fn the_policy_of_the_moment_decides_when_a_container_is_made() {
    let mut node = Node::start().await;
    let registry = Registry::open().await;
    let signer = Signer::new(P256);
    let pushed = image("later").push(&registry, "policy/later", "v1").await;
    signer.sign_pushed(&registry, &pushed).await;
    let image = node.pull(&pushed.reference).await.unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "later")).await;
    let by_name = || container("by-name", &image, &pushed.reference);
    let running =
        node.create(&pod, by_name().with(|c| c.metadata.as_mut().unwrap().name = "first".to_owned())).await;

    require(&node, registry.host(), &json!([signer.requirement()]));
    let refusal = node.try_create(&pod, by_name()).await;
    refused(refusal, &["pull", "again", &pushed.reference, "/policy.json", "no sigstore signature"]);
    node.start_container(&running).await.unwrap();
    assert_eq!(node.pull(&pushed.reference).await.unwrap(), image);
    // From here on the signatures of the node are all that there is.
    drop(registry);
    node.restart().await;
    node.create(&pod, by_name()).await;
    node.create(&pod, container("by-id", &image, "")).await;

    // A key that is exchanged counts at once; so does a file that breaks.
    fs::copy(Signer::new(P256).public(), signer.public()).unwrap();
    let refusal = node.try_create(&pod, container("key", &image, &pushed.reference)).await;
    refused(refusal, &["none of the keys has made the signature"]);
    fs::remove_file(signer.public()).unwrap();
    let refusal = node.try_create(&pod, container("key", &image, &pushed.reference)).await;
    refused(refusal, &["key.pub does not exist"]);
    node.finish().await;
}

#[tokio::test]
async fn an_imported_image_brings_no_signatures() {
    let mut node = Node::start().await;
    let signer = Signer::new(P256);
    let name = "r.example/imported:1";
    let archive = node.names.dir().join("image.tar").display().to_string();
    skopeo(
        &format!("docker://{}", pushed_busybox().await.reference),
        &format!("oci-archive:{archive}:{name}"),
    );
    require(&node, "r.example", &json!([signer.requirement()]));
    podd_images_ok(&node, &["import", &archive]);
    let image = node.image_status(name).await.unwrap().id;
    let pod = node.run_pod(PodSpec::new(&node, "imported")).await;
    let refusal = node.try_create(&pod, container("c", &image, name)).await;
    refused(refusal, &[name, "no sigstore signature"]);
    require(&node, name, &json!([{ "type": "insecureAcceptAnything" }]));
    node.create(&pod, container("c", &image, name)).await;
    node.finish().await;
}

#[tokio::test]
async fn a_broken_policy_refuses_until_it_is_put_right() {
    let mut node = Node::start().await;
    let pushed = image("broken").push(registry::shared().await, "policy/broken", "v1").await;
    let image = node.pull(&pushed.reference).await.unwrap();
    let pod = node.run_pod(PodSpec::new(&node, "broken")).await;
    for (text, reason) in [("{", "line 1"), (r#"{"default":[]}"#, "must not be empty")] {
        write_policy(&policy_file(&node), text);
        refused(node.pull(&pushed.reference).await, &["/policy.json", reason]);
        refused(
            node.try_create(&pod, container("c", &image, &pushed.reference)).await,
            &["/policy.json", reason],
        );
    }
    node.restart().await;
    assert!(node.log().contains("/policy.json is not valid"), "the log does not say so at the start");
    refused(node.pull(&pushed.reference).await, &["/policy.json"]);
    fs::remove_file(policy_file(&node)).unwrap();
    refused(node.pull(&pushed.reference).await, &["/policy.json is missing"]);
    write_policy(&policy_file(&node), &accept_anything().to_string());
    node.pull(&pushed.reference).await.unwrap();
    let spec = container("c", &image, &pushed.reference);
    assert_eq!(node.run_to_end(&pod, spec).await, (0, "broken".to_owned()));
    node.finish().await;
}

#[tokio::test]
async fn a_namespace_has_a_policy_of_its_own() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let signer = Signer::new(P256);
    let strict = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { registry.host(): [signer.requirement()] } },
    });
    let file = node.names.dir().join("policies/strict.json");
    write_policy(&file, &strict.to_string());
    let unsigned = image("unsigned").push(registry, "policy/namespaces", "unsigned").await;
    let signed = image("signed").push(registry, "policy/namespaces", "signed").await;
    signer.sign_pushed(registry, &signed).await;
    refused(pull_for(&mut node, "strict", &unsigned.reference).await, &["/policies/strict.json"]);
    // A name that is a path leads to no file, and so to the node's policy.
    fs::write(node.names.dir().join("evil.json"), strict.to_string()).unwrap();
    let unsigned_image = pull_for(&mut node, "../evil", &unsigned.reference).await.unwrap();
    // By another namespace's pod, but with the signatures that this one's policy will ask for.
    let signed_image = pull_for(&mut node, "lax", &signed.reference).await.unwrap();

    let (lax, strict) = (pod_in(&mut node, "lax").await, pod_in(&mut node, "strict").await);
    let spec = || container("unsigned", &unsigned_image, &unsigned.reference);
    node.create(&lax, spec()).await;
    refused(node.try_create(&strict, spec()).await, &["/policies/strict.json", "again"]);
    // Another name of the same repository does not help, nor does the ID alone.
    for written in [signed.reference.as_str(), ""] {
        refused(
            node.try_create(&strict, container("x", &unsigned_image, written)).await,
            &["/policies/strict.json"],
        );
    }
    let spec = container("signed", &signed_image, &signed.reference);
    assert_eq!(node.run_to_end(&strict, spec).await, (0, "signed".to_owned()));
    fs::remove_file(file).unwrap();
    node.create(&strict, container("unsigned", &unsigned_image, &unsigned.reference)).await;
    node.finish().await;
}

#[tokio::test]
async fn of_an_index_a_signature_of_either_it_or_the_platforms_manifest_will_do() {
    let mut node = Node::start().await;
    let registry = registry::shared().await;
    let signer = Signer::new(P256);
    require(&node, registry.host(), &json!([signer.requirement()]));
    let foreign = if crate::common::image::host_architecture() == "amd64" { "arm64" } else { "amd64" };
    for (n, signed) in ["index", "manifest", "foreign"].into_iter().enumerate() {
        let repository = format!("policy/index{n}");
        let (own, other) = (image(signed), image(signed).architecture(foreign));
        let list = push_list(&[other, own], Format::Oci, registry, &repository, "v1").await;
        let entries = serde_json::from_slice::<Value>(&list).unwrap()["manifests"].clone();
        let manifest = match signed {
            "index" => digest(&list),
            "manifest" => entries[1]["digest"].as_str().unwrap().to_owned(),
            _ => entries[0]["digest"].as_str().unwrap().to_owned(),
        };
        let reference = format!("{}/{repository}:v1", registry.host());
        let attachment = signer.signature(&manifest, &reference);
        attach(registry, &repository, &tag_of(&manifest), &[attachment]).await;
        let pulled = node.pull(&reference).await;
        match signed {
            "foreign" => refused(pulled, &["no sigstore signature"]),
            _ => {
                let pod = node.run_pod(PodSpec::new(&node, signed)).await;
                let spec = container("c", &pulled.unwrap(), &reference);
                assert_eq!(node.run_to_end(&pod, spec).await, (0, signed.to_owned()));
            }
        }
    }
    node.finish().await;
}
