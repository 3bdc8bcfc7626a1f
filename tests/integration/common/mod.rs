//! What every topic uses: the node under test, requests, images, registries, and the search for leftovers.

pub mod front;
pub mod image;
pub mod leftovers;
pub mod node;
pub mod probe;
pub mod registry;
pub mod requests;
pub mod session;
pub mod tar;
pub mod terminal;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use image::{ImageBuilder, busybox, nginx};
pub use node::Node;
pub use registry::Registry;
pub use requests::{ContainerSpec, PodSpec};

/// How long anything may take that is not meant to take long: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again, up to [`PATIENCE`], until it has an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a file's text satisfies `good`, and gives that text.
pub async fn file_text(path: &Path, good: impl Fn(&str) -> bool) -> String {
    eventually(&format!("{} as expected", path.display()), || async {
        std::fs::read_to_string(path).ok().filter(|text| good(text))
    })
    .await
}

/// Eight random hexadecimal digits: the part of a name that keeps two tests apart.
pub fn random_tag() -> String {
    podd::id::PodId::generate().as_str()[..8].to_owned()
}

/// The OCI runtime that this run of the tests is about.
pub fn oci_runtime() -> String {
    std::env::var("PODD_TEST_RUNTIME").unwrap_or_else(|_| "crun".to_owned())
}

/// The cgroup driver that this run of the tests is about: cgroupfs, or systemd on a machine where that is PID 1.
pub fn cgroup_driver() -> String {
    std::env::var("PODD_TEST_CGROUP_DRIVER").unwrap_or_else(|_| "cgroupfs".to_owned())
}

/// Where a program is, in the places that Debian uses.
pub fn program(name: &str) -> PathBuf {
    let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: run tests/run.sh, which installs it"))
}

/// A TCP port that nobody listens on, below the range from which the kernel takes ports for connections.
pub fn free_port() -> u16 {
    loop {
        let tag = u32::from_str_radix(&random_tag(), 16).unwrap();
        let port = 20_000 + u16::try_from(tag % 10_000).unwrap();
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
