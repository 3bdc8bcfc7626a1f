//! The daemon's parts and their life: made in the order of their dependence, ended in reverse.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use podd::config::Config;
use podd::image::Images;
use podd::network::Network;
use podd::pod::Pods;
use podd::runtime;
use podd::scrape;
use podd::streaming::Streaming;
use podd::sys::fs::lock_soon;
use tokio::task::JoinSet;

/// A daemon that is ready to serve.
pub(crate) struct Daemon {
    pods: Arc<Pods>,
    streaming: Streaming,
    background: JoinSet<()>,
    _metrics: scrape::Listening,
    _lock: File,
}

/// Opens the stores, takes up what an earlier daemon left, and starts what goes on in the background.
pub(crate) async fn start(config: Config) -> anyhow::Result<Daemon> {
    let config = Arc::new(config);
    let lock = lock(&config.run_dir)?;
    runtime::become_subreaper().context("becoming the parent of what detached commands leave")?;
    let images = {
        let config = Arc::clone(&config);
        tokio::task::spawn_blocking(move || Images::open(&config.images, &config.root)).await?
    };
    let images = images.with_context(|| format!("opening the images in {}", config.root.display()))?;
    let network = Network::open(&config.network).await.context("opening the network")?;
    let preload = config.images.preload_dir.clone();
    let pods = Pods::open(config, images.clone(), network).await?;
    let streaming = Streaming::start(Arc::clone(&pods)).await.context("starting the streaming server")?;
    let metrics = scrape::start(&pods, &streaming).await.context("starting the metrics endpoint")?;
    let mut background = JoinSet::new();
    if !preload.as_os_str().is_empty() {
        background.spawn(images.preload(preload));
    }
    background.spawn(Arc::clone(&pods).tend());
    let looking = Arc::clone(&pods);
    background.spawn(async move { looking.look_at_the_node().await });
    background.spawn(async {
        let Err(error) = runtime::reap_orphans().await;
        tracing::error!("watching for orphans: {error}");
    });
    Ok(Daemon { pods, streaming, background, _metrics: metrics, _lock: lock })
}

/// Keeps a second daemon off the run directory. A file lock ends with its process, however that ends.
fn lock(run_dir: &Path) -> anyhow::Result<File> {
    let path = run_dir.join("podd.lock");
    fs::create_dir_all(run_dir).with_context(|| format!("making {}", run_dir.display()))?;
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let locked = lock_soon(&file).with_context(|| format!("locking {}", path.display()))?;
    ensure!(locked, "{} is locked: another podd uses this run_dir", path.display());
    Ok(file)
}

impl Daemon {
    /// Where to serve.
    pub(crate) fn socket(&self) -> &Path {
        &self.pods.config().socket
    }

    /// What to serve.
    pub(crate) fn pods(&self) -> Arc<Pods> {
        Arc::clone(&self.pods)
    }

    /// Where exec, attach and port-forward are served.
    pub(crate) fn streaming(&self) -> Streaming {
        self.streaming.clone()
    }

    /// Ends what goes on in the background. Containers live on.
    pub(crate) async fn stop(mut self) {
        self.background.shutdown().await;
        self.pods.close();
    }
}

/// Tells systemd how the service is doing (sd_notify(3)); nothing where it does not ask.
pub(crate) fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!("telling systemd {state:?}: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told_on_a_named_and_on_an_abstract_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("podd-test-notify-{}", std::process::id());
        let sockets = [
            (path.clone().into_os_string(), SocketAddr::from_pathname(&path).unwrap()),
            (format!("@{abstract_name}").into(), SocketAddr::from_abstract_name(&abstract_name).unwrap()),
        ];
        for (variable, address) in sockets {
            let systemd = UnixDatagram::bind_addr(&address).unwrap();
            send(&variable, "READY=1").unwrap();
            let mut message = [0; 16];
            let length = systemd.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/no/such/socket"), "READY=1").is_err());
    }
}
