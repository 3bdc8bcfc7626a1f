//! The peer: the machine's containerd with directories of its own, asked over the same CRI.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use podd::api;
use podd::api::image_service_client::ImageServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use super::cost::{Cost, Meter};
use crate::common::{eventually, program};

/// A running containerd.
pub struct Containerd {
    process: Child,
    image: ImageServiceClient<Channel>,
}

impl Containerd {
    /// Starts one that keeps all in `disk`, takes images from `registry` by plain HTTP, and is else as it comes.
    pub async fn start(registry: &str, disk: &Path) -> Self {
        let dir = disk.join("containerd");
        fs::create_dir_all(&dir).unwrap();
        let (at, config) = (dir.display(), dir.join("config.toml"));
        let text = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n[grpc]\naddress = \"{at}/sock\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"{registry}\"]\nendpoint = [\"http://{registry}\"]\n"
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let process = Command::new(program("containerd"))
            .arg("--config")
            .arg(&config)
            // Another inflate than the one it is built with is another contest: set PODD_BENCH_UNPIGZ for that.
            .envs(std::env::var_os("PODD_BENCH_UNPIGZ").is_none().then_some(("CONTAINERD_DISABLE_PIGZ", "1")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = dir.join("sock");
        let channel = eventually("containerd's socket", || async {
            Endpoint::try_from(format!("unix://{}", socket.display())).unwrap().connect().await.ok()
        })
        .await;
        let image = ImageServiceClient::new(channel);
        let started = Self { process, image };
        eventually("containerd's image service", || async {
            started.image.clone().list_images(api::ListImagesRequest::default()).await.ok()
        })
        .await;
        started
    }

    /// Pulls the image.
    pub async fn pull(&mut self, reference: &str) -> Cost {
        let image = Some(api::ImageSpec { image: reference.to_owned(), ..Default::default() });
        let meter = Meter::start(self.process.id());
        self.image.pull_image(api::PullImageRequest { image, ..Default::default() }).await.unwrap();
        meter.stop()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}
