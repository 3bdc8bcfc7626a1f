//! Registries as the node's files describe them: mirrors, certificates, short names, auth files, and changes of all these
//! without a restart.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use podd::api;
use serde_json::json;
use tonic::{Code, Status};

use crate::common::front::{Behaviour, Front};
use crate::common::image::{Pushed, digest, pushed_busybox};
use crate::common::registry::{self, PASSWORD, USER};
use crate::common::tar::Entry;
use crate::common::{ContainerSpec, Node, PodSpec, Registry, busybox, free_port, random_tag};

/// A registry that does not exist; only its mirrors do.
const ORIGIN: &str = "registry.test";

/// A `[[registry]]` that may not be asked itself, with mirrors.
fn mirrored(mirrors: &[&str]) -> String {
    let mirrors = mirrors.iter().map(|at| format!("[[registry.mirror]]\nlocation = \"{at}\"\n"));
    format!("[[registry]]\nlocation = \"{ORIGIN}\"\nblocked = true\n{}", mirrors.collect::<String>())
}

fn put(path: impl Into<PathBuf>, text: &str) {
    let path = path.into();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

impl Node {
    fn file(&self, name: &str) -> PathBuf {
        self.names.dir().join(name)
    }

    fn registries_conf(&self, text: &str) {
        put(self.file("registries.conf"), text);
    }

    fn hosts_toml(&self, host: &str, text: &str) {
        put(self.file("hosts.d").join(host).join("hosts.toml"), text);
    }

    async fn pull_for(&mut self, namespace: &str, reference: &str) -> Result<String, Status> {
        let metadata = api::PodSandboxMetadata { namespace: namespace.to_owned(), ..Default::default() };
        let image = Some(api::ImageSpec { image: reference.to_owned(), ..Default::default() });
        let sandbox_config = Some(api::PodSandboxConfig { metadata: Some(metadata), ..Default::default() });
        let request = api::PullImageRequest { image, auth: None, sandbox_config };
        Ok(self.image.pull_image(request).await?.into_inner().image_ref)
    }

    async fn remove_image(&mut self, name: &str) {
        let spec = api::ImageSpec { image: name.to_owned(), ..Default::default() };
        self.image.remove_image(api::RemoveImageRequest { image: Some(spec) }).await.unwrap();
    }
}

/// An image of two random layers, each larger than a configuration.
async fn large_image(registry: &Registry, repository: &str) -> Pushed {
    let noise = || (0..40_000).map(|_| random_tag()).collect::<String>();
    let (one, two) = (noise(), noise());
    let image = busybox().layer(&[Entry::file("one", 0o644, one)]).layer(&[Entry::file("two", 0o644, two)]);
    image.push(registry, repository, "1").await
}

fn path_of(reference: &str) -> &str {
    reference.split_once('/').unwrap().1
}

#[tokio::test]
async fn a_mirror_that_dies_in_mid_stream_is_replaced_by_the_next() {
    let mut node = Node::start().await;
    let pushed = large_image(registry::shared().await, "test/dying").await;
    let (dying, next) = (Front::new(Behaviour::Dies).await, Front::new(Behaviour::Watches).await);
    node.registries_conf(&mirrored(&["127.0.0.1:9", &dying.host, &next.host]));
    let name = format!("{ORIGIN}/test/dying:1");
    let image = node.pull(&name).await.unwrap();
    assert!(next.ranges() > 0, "the pull began again instead of going on");
    let status = node.image_status(&name).await.unwrap();
    let by_digest = format!("{ORIGIN}/test/dying@{}", pushed.by_digest.split_once('@').unwrap().1);
    assert_eq!(
        (status.id, status.repo_tags, status.repo_digests),
        (image.clone(), vec![name], vec![by_digest])
    );
    let pod = node.run_pod(PodSpec::new(&node, "dying")).await;
    let spec =
        ContainerSpec::script("c", "cat /one /two | tr -d '\\n' | wc -c | tr -d '\\n'").with(|config| {
            config.image = Some(api::ImageSpec { image, ..Default::default() });
        });
    assert_eq!(node.run_to_end(&pod, spec).await, (0, "640000".to_owned()));
    node.finish().await;
}

#[tokio::test]
async fn every_endpoint_is_named_when_none_has_the_image() {
    let mut node = Node::start().await;
    let shared = registry::shared().await.host();
    let conf = mirrored(&["127.0.0.1:9/mirror", shared]);
    node.registries_conf(&conf);
    let refused = node.pull(&format!("{ORIGIN}/test/nowhere:1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    let file = node.file("registries.conf").display().to_string();
    let blocked = format!("registry {ORIGIN} is blocked in {file}");
    for part in
        [&format!("{ORIGIN}/test/nowhere:1"), "127.0.0.1:9/mirror", "refused", shared, "404", &blocked]
    {
        assert!(refused.message().contains(part), "{part} is not in {refused:?}");
    }
    node.registries_conf(&format!("[[registry]]\nlocation = \"{shared}\"\nblocked = true\n"));
    let refused = node.pull(&pushed_busybox().await.reference).await.unwrap_err();
    assert!(refused.message().contains(&format!("registry {shared} is blocked in {file}")), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_location_moves_a_registry_and_the_name_stays() {
    let mut node = Node::start().await;
    let pushed = busybox().push(registry::shared().await, "test/moved/app", "1").await;
    let host = registry::shared().await.host();
    node.registries_conf(&format!(
        "[[registry]]\nprefix = \"*.example.test\"\nlocation = \"{host}/test\"\n\
         [[registry]]\nprefix = \"example.test/team\"\nlocation = \"{host}/test/moved\"\n"
    ));
    let by_prefix = node.pull("example.test/team/app:1").await.unwrap();
    assert_eq!(node.pull("a.b.example.test/moved/app:1").await.unwrap(), by_prefix);
    assert_eq!(node.pull(&pushed.reference).await.unwrap(), by_prefix);
    let mut tags = node.image_status(&by_prefix).await.unwrap().repo_tags;
    tags.sort();
    assert_eq!(tags, [&pushed.reference, "a.b.example.test/moved/app:1", "example.test/team/app:1"]);
    node.finish().await;
}

/// Whether the kubelet takes it for a registry that cannot be used now.
fn is_unavailable(refused: &Status) -> bool {
    refused.code() == Code::Unknown && refused.message().starts_with("RegistryUnavailable: ")
}

#[tokio::test]
async fn certificates_are_found_by_host_and_changes_count_at_once() {
    let mut node = Node::start().await;
    let server = Registry::with_tls(true).await;
    let image = busybox().push(registry::shared().await, "test/tls", &random_tag()).await;
    let name = image.via(server.host()).reference;
    let refused = node.pull(&name).await.unwrap_err();
    assert!(
        refused.message().contains("certificate: invalid peer certificate: UnknownIssuer"),
        "{refused:?}"
    );
    let dir = node.file("certs.d").join(server.host());
    fs::create_dir_all(&dir).unwrap();
    fs::copy(server.certificate("ca.pem"), dir.join("ca.crt")).unwrap();
    let refused = node.pull(&name).await.unwrap_err();
    assert!(is_unavailable(&refused), "{refused:?}");
    assert!(refused.message().contains("does it want a client certificate?"), "{refused:?}");
    fs::copy(server.certificate("client.pem"), dir.join("client.cert")).unwrap();
    let refused = node.pull(&name).await.unwrap_err();
    // The certificates from before are in use while the new ones are not whole.
    assert!(is_unavailable(&refused), "{refused:?}");
    assert!(node.log().contains("client.cert is a client certificate without its key"), "not in the log");
    fs::copy(server.certificate("client.key"), dir.join("client.key")).unwrap();
    node.pull(&name).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn an_insecure_registry_may_have_any_certificate() {
    let mut node = Node::start().await;
    let server = Registry::with_tls(false).await;
    let image = busybox().push(registry::shared().await, "test/insecure", &random_tag()).await;
    node.registries_conf(&format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", server.host()));
    node.pull(&image.via(server.host()).reference).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn a_tree_of_containerd_is_read() {
    let mut node = Node::start().await;
    let image = busybox().push(registry::shared().await, "test/hosts", "1").await;
    let (server, front) = (Registry::with_tls(true).await, Front::new(Behaviour::Watches).await);
    let dir = node.file("hosts.d").join(ORIGIN);
    fs::create_dir_all(&dir).unwrap();
    for name in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(server.certificate(name), dir.join(name)).unwrap();
    }
    node.hosts_toml(
        ORIGIN,
        &format!(
            "server = \"https://{}\"\nca = \"ca.pem\"\nclient = [[\"client.pem\", \"client.key\"]]\n\
             [host.\"http://127.0.0.1:9\"]\n[host.\"http://{}/v2\"]\noverride_path = true\n\
             capabilities = [\"pull\"]\n",
            server.host(),
            front.host
        ),
    );
    node.pull(&format!("{ORIGIN}/test/hosts:1")).await.unwrap();
    let seen = front.seen();
    assert!(seen.is_empty(), "blobs begin where the manifest came from: {seen:?}");
    node.remove_image(&format!("{ORIGIN}/test/hosts:1")).await;
    node.pull(&format!("{ORIGIN}/{}", path_of(&image.by_digest))).await.unwrap();
    let seen = front.seen();
    assert!(
        seen[0].contains("/v2/test/hosts/manifests/sha256:") && seen[0].contains("?ns=registry.test"),
        "{seen:?}"
    );
    node.hosts_toml("_default", &format!("[host.\"https://{}\"]\nskip_verify = true\n", server.host()));
    let plain = node.pull("other.test/test/hosts:1").await.unwrap_err();
    assert!(plain.message().contains(server.host()), "a client certificate is missing: {plain:?}");
    node.finish().await;
}

#[tokio::test]
async fn short_names_mean_what_the_node_says() {
    let mut node = Node::start().await;
    let host = registry::shared().await.host();
    let name = format!("short{}", random_tag());
    let pushed = busybox().push(registry::shared().await, &name, "1").await;
    node.registries_conf(&format!(
        "unqualified-search-registries = [\"127.0.0.1:9\", \"{host}\"]\n\
         [aliases]\n\"aliased\" = \"{host}/{name}\"\n"
    ));
    let image = node.pull(&format!("{name}:1")).await.unwrap();
    assert_eq!(node.pull("aliased:1").await.unwrap(), image);
    let status = node.image_status(&format!("{name}:1")).await.unwrap();
    assert_eq!(status.repo_tags, [pushed.reference.clone()]);
    let pod = node.run_pod(PodSpec::new(&node, "short")).await;
    for short in ["aliased:1", &format!("{name}:1")] {
        let spec = ContainerSpec::script(&format!("c{}", random_tag()), "printf here").with(|config| {
            config.image = Some(api::ImageSpec { image: short.to_owned(), ..Default::default() });
        });
        assert_eq!(node.run_to_end(&pod, spec).await, (0, "here".to_owned()));
    }
    let refused = node.pull("nowhere-at-all").await.unwrap_err();
    for part in
        ["127.0.0.1:9/nowhere-at-all:latest", &format!("{host}/nowhere-at-all:latest"), "refused", "404"]
    {
        assert!(refused.message().contains(part), "{part} is not in {refused:?}");
    }
    node.registries_conf(&format!(
        "unqualified-search-registries = [\"127.0.0.1:9\", \"{host}\"]\nshort-name-mode = \"enforcing\"\n"
    ));
    let refused = node.pull(&format!("{name}:1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("write the registry's name too"), "{refused:?}");
    node.remove_image(&format!("{name}:1")).await;
    assert_eq!(node.image_status(&image).await, None);
    node.finish().await;
}

#[tokio::test]
async fn a_namespaces_auth_file_serves_mirrors_and_is_used_once() {
    let mut node = Node::start().await;
    let private = Registry::with_basic_auth().await;
    busybox().push(&private, "private/app", "1").await;
    node.registries_conf(&mirrored(&[private.host()]));
    let name = format!("{ORIGIN}/private/app:1");
    let hash = digest(format!("{ORIGIN}/private/app").as_bytes());
    let file = node.file("auth").join(format!("team-a-{}.json", hash.strip_prefix("sha256:").unwrap()));
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let login = json!({ "auths": { private.host(): { "auth": auth } } }).to_string();
    put(&file, &login);
    let refused = node.pull_for("team-b", &name).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    node.pull_for("team-a", &name).await.unwrap();
    assert!(!file.exists(), "the file is for one pull");
    let refused = node.pull_for("team-a", &name).await.unwrap_err();
    assert!(refused.message().contains("401"), "{refused:?}");
    put(node.file("auth.json"), &login);
    node.pull(&name).await.unwrap();
    assert!(!node.log().contains(PASSWORD) && !node.log().contains(&auth), "a secret is in the log");
    node.finish().await;
}

#[tokio::test]
async fn what_a_request_gives_is_not_for_a_mirror_elsewhere() {
    let mut node = Node::start().await;
    let private = Registry::with_basic_auth().await;
    let pushed = busybox().push(&private, "private/app", "1").await;
    let curious = Front::new(Behaviour::UserTokens).await;
    let (origin, mirror) = (private.host(), &curious.host);
    node.registries_conf(&format!(
        "[[registry]]\nlocation = \"{origin}\"\n[[registry.mirror]]\nlocation = \"{mirror}\"\n"
    ));
    let auth = api::AuthConfig { username: USER.into(), password: PASSWORD.into(), ..Default::default() };
    node.pull_as(&pushed.reference, Some(auth)).await.unwrap();
    let seen = curious.seen();
    let basic = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    assert!(!seen.is_empty() && seen.iter().all(|line| !line.contains(&basic)), "{seen:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_broken_file_leaves_a_running_daemon_as_it_was_and_stops_the_next() {
    let mut node = Node::start().await;
    let pushed = pushed_busybox().await;
    let name = format!("{ORIGIN}/{}", path_of(&pushed.reference));
    node.registries_conf(&mirrored(&[registry::shared().await.host()]));
    node.pull(&name).await.unwrap();
    node.registries_conf("[[registry]]\nlocation = \"https://user:hush-password@r.io\"\n");
    node.pull(&name).await.unwrap();
    node.pull(&name).await.unwrap();
    let log = node.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("stays in force")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("ERROR")
            && lines[0].contains("registries.conf")
            && lines[0].contains("without a scheme")
    );
    assert!(!log.contains("hush-password"), "a secret is in the log");
    node.terminate().await;
    let refused = node.start_second().await;
    let said =
        String::from_utf8_lossy(&refused.stdout).into_owned() + &String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("registry 1: location"), "{said}");
    assert!(said.contains(&node.file("registries.conf").display().to_string()), "{said}");
    fs::remove_file(node.file("registries.conf")).unwrap();
    node.start_again().await;
    assert!(Path::new(&node.names.socket()).exists());
    node.finish().await;
}

#[tokio::test]
async fn a_mirror_with_a_damaged_layer_is_left_by_the_next_try() {
    let mut node = Node::start().await;
    let pushed = large_image(registry::shared().await, "test/damaged").await;
    let (corrupt, next) = (Front::new(Behaviour::CorruptLayers).await, Front::new(Behaviour::Watches).await);
    node.registries_conf(&mirrored(&[&corrupt.host, &next.host]));
    let name = format!("{ORIGIN}/{}", path_of(&pushed.reference));
    let refused = node.pull(&name).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
    // One damaged layer ends a pull, so there is at most one such try for each.
    let mut tries = 0;
    while let Err(refused) = node.pull(&name).await {
        assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
        tries += 1;
        assert!(tries < pushed.layers.len(), "the damaged mirror is asked again and again");
    }
    assert!(next.blobs() > 0);
    node.finish().await;
}

/// B20: the kubelet has a reason of its own for it.
#[tokio::test]
async fn b20_a_registry_that_does_not_answer_is_told_apart() {
    let mut node = Node::start().await;
    let nowhere = format!("127.0.0.1:{}/a:v1", free_port());
    let status = node.pull(&nowhere).await.unwrap_err();
    assert!(is_unavailable(&status) && status.message().contains(&nowhere), "{status:?}");
    node.finish().await;
}
