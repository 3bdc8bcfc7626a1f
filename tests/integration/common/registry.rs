//! Debian's docker-registry on a free loopback port, with a storage directory of its own, and pushing to it.
//!
//! A keeper shell owns the server: it ends the server and removes the directory when its standard input closes, which
//! also happens when the test process is killed. So a registry can live in a static, shared by all tests.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use tokio::sync::OnceCell;

use super::image::digest;
use super::{PATIENCE, free_port, program, random_tag};

/// The user of a registry with basic authentication.
pub const USER: &str = "puller";
/// That user's password; it must never be seen in an error or in a log.
pub const PASSWORD: &str = "open-sesame-7731";

/// A running docker-registry.
#[derive(Debug)]
pub struct Registry {
    host: String,
    dir: PathBuf,
    kind: Kind,
    keeper: Child,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    BasicAuth,
    /// HTTPS, with the content of the shared registry.
    Tls {
        /// Whether clients need a certificate.
        mutual: bool,
    },
}

static SHARED: OnceCell<Registry> = OnceCell::const_new();

/// The registry without authentication that all tests share; it ends with the test process.
pub async fn shared() -> &'static Registry {
    SHARED.get_or_init(Registry::open).await
}

const KEEPER: &str = r#"
"$1" serve "$2/config.yml" >"$2/log" 2>&1 </dev/null &
server=$!
cat >/dev/null
kill "$server"
wait "$server"
rm -rf "$2"
"#;

impl Registry {
    /// Starts a registry that anyone may use.
    pub async fn open() -> Self {
        Self::start(Kind::Open).await
    }

    /// Starts a registry that wants [`USER`] and [`PASSWORD`] by basic authentication.
    pub async fn with_basic_auth() -> Self {
        Self::start(Kind::BasicAuth).await
    }

    /// Starts a registry that serves the content of the shared one by HTTPS, with an authority that nobody knows;
    /// [`Self::certificate`] has that, and what clients need where it is `mutual`.
    pub async fn with_tls(mutual: bool) -> Self {
        shared().await;
        Self::start(Kind::Tls { mutual }).await
    }

    /// A file of a registry with TLS: `ca.pem`, `client.pem` or `client.key`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Its `host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    async fn start(kind: Kind) -> Self {
        let dir = std::env::temp_dir().join(format!("podd-test-registry-{}", random_tag()));
        std::fs::create_dir_all(&dir).unwrap();
        let host = format!("127.0.0.1:{}", free_port());
        let shared_dir = SHARED.get().map(|shared| shared.dir.clone());
        let storage = shared_dir.filter(|_| matches!(kind, Kind::Tls { .. })).unwrap_or_else(|| dir.clone());
        std::fs::write(dir.join("config.yml"), config(&dir, &storage, &host, kind)).unwrap();
        let keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(program("docker-registry"))
            .arg(&dir)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { host, dir, kind, keeper };
        registry.wait_until_it_answers().await;
        registry
    }

    async fn wait_until_it_answers(&self) {
        let client = client();
        let start = std::time::Instant::now();
        loop {
            let answers = match self.kind {
                Kind::Tls { .. } => std::net::TcpStream::connect(&self.host).is_ok(),
                Kind::Open | Kind::BasicAuth => {
                    let answer = self.request(&client, Method::GET, "").send().await;
                    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
                }
            };
            if answers {
                return;
            }
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(
                start.elapsed() < PATIENCE,
                "docker-registry at {} does not answer:\n{}",
                self.host,
                log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn request(&self, client: &Client, method: Method, path: &str) -> RequestBuilder {
        let request = client.request(method, format!("http://{}/v2/{path}", self.host));
        if self.kind == Kind::BasicAuth { request.basic_auth(USER, Some(PASSWORD)) } else { request }
    }

    /// Uploads a blob, unless the repository has it.
    pub async fn put_blob(&self, repository: &str, bytes: Vec<u8>) {
        let (client, name) = (client(), digest(&bytes));
        let known =
            self.request(&client, Method::HEAD, &format!("{repository}/blobs/{name}")).send().await.unwrap();
        if known.status().is_success() {
            return;
        }
        let opened = self
            .request(&client, Method::POST, &format!("{repository}/blobs/uploads/"))
            .send()
            .await
            .unwrap();
        let opened = expect(opened, StatusCode::ACCEPTED).await;
        let mut location = opened.headers()["location"].to_str().unwrap().to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        write!(location, "{separator}digest={name}").unwrap();
        let path = location.split_once("/v2/").unwrap().1;
        let done = self.request(&client, Method::PUT, path).body(bytes).send().await.unwrap();
        expect(done, StatusCode::CREATED).await;
    }

    /// Uploads a manifest under a tag or its digest.
    pub async fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: Vec<u8>) {
        let path = format!("{repository}/manifests/{reference}");
        let request = self.request(&client(), Method::PUT, &path).header("content-type", media_type);
        expect(request.body(bytes).send().await.unwrap(), StatusCode::CREATED).await;
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A new HTTP client: one cannot be shared by tests, each of which has a tokio runtime of its own.
pub fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

async fn expect(response: Response, wanted: StatusCode) -> Response {
    let status = response.status();
    if status == wanted {
        return response;
    }
    panic!("{} answered {status}: {}", response.url().clone(), response.text().await.unwrap_or_default());
}

fn config(dir: &Path, storage: &Path, host: &str, kind: Kind) -> String {
    let (dir_text, storage) = (dir.display(), storage.display());
    let mut text = format!(
        "version: 0.1\nlog: {{ level: warn }}\nstorage:\n  filesystem: {{ rootdirectory: {storage}/storage }}\n\
         http:\n  addr: \"{host}\"\n  secret: of-no-importance\n"
    );
    match kind {
        Kind::Open => {}
        Kind::BasicAuth => {
            let entry = Command::new(program("htpasswd")).args(["-Bbn", USER, PASSWORD]).output().unwrap();
            std::fs::write(dir.join("htpasswd"), entry.stdout).unwrap();
            writeln!(text, "auth:\n  htpasswd: {{ realm: tests, path: {dir_text}/htpasswd }}").unwrap();
        }
        Kind::Tls { mutual } => {
            write_certificates(dir);
            writeln!(text, "  tls:\n    certificate: {dir_text}/server.pem\n    key: {dir_text}/server.key")
                .unwrap();
            if mutual {
                writeln!(text, "    clientcas: [\"{dir_text}/ca.pem\"]").unwrap();
            }
        }
    }
    text
}

/// An authority, and of it a certificate for a server on 127.0.0.1 and one for a client.
fn write_certificates(dir: &Path) {
    let openssl = |command: &str| {
        let run =
            Command::new(program("openssl")).args(command.split(' ')).current_dir(dir).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {new_key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    for (name, extensions) in
        [("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")]
    {
        std::fs::write(dir.join("extensions"), extensions).unwrap();
        openssl(&format!("req -new {new_key} -subj /CN={name} -keyout {name}.key -out request.pem"));
        openssl(&format!(
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
        ));
    }
}

#[tokio::test]
async fn a_pushed_image_is_served_again() {
    let pushed = super::busybox().push(shared().await, "harness/busybox", "again").await;
    let (host, rest) = pushed.reference.split_once('/').unwrap();
    let (repository, tag) = rest.split_once(':').unwrap();
    let answer = client().get(format!("http://{host}/v2/{repository}/manifests/{tag}"));
    let answer = answer.header("accept", "application/vnd.oci.image.manifest.v1+json").send().await.unwrap();
    assert_eq!(digest(&answer.bytes().await.unwrap()), pushed.by_digest.split_once('@').unwrap().1);
}

#[tokio::test]
async fn basic_authentication_is_demanded() {
    let registry = Registry::with_basic_auth().await;
    super::busybox().push(&registry, "harness/private", "1").await;
    let url = format!("http://{}/v2/harness/private/manifests/1", registry.host());
    assert_eq!(client().get(url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}
