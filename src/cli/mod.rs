//! What an operator does with a node from its command line.
//!
//! `podd images` works on the image store itself, beside a running daemon or without one, and, but for a repair, never on the
//! network. What the daemon alone knows, the pulls under way, it is asked for on its socket. `podd top` and `podd pods` only
//! read, and speak nothing but the CRI; `podd doctor` looks at the node with what the daemon itself looks with.

mod adopt;
mod check;
mod client;
mod doctor;
mod export;
mod import;
mod list;
mod pods;
mod pulls;
mod table;
mod top;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use podd::config::Config;
use podd::image;
use podd::image::store::Store;

use crate::Sources;

pub(crate) use doctor::{DoctorArgs, doctor};
pub(crate) use pods::{PodsArgs, pods};
pub(crate) use top::{TopArgs, top};

/// The arguments of `podd images`.
#[derive(Args)]
pub(crate) struct ImagesArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    list: list::ListArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// List the images of the node, and the pulls under way.
    List(list::ListArgs),
    /// Take images from an archive: an OCI layout, a tar of one, or what docker save writes; compressed or not.
    Import(import::ImportArgs),
    /// Write images to an archive.
    Export(export::ExportArgs),
    /// Take over the images of containerd or CRI-O on this node, without a network.
    Adopt(adopt::AdoptArgs),
    /// Compare images with what was unpacked; exit status 1 if something is wrong.
    Check(check::Arguments),
}

/// Does what `podd images` was asked to do; `false` is exit status 1.
pub(crate) fn images(args: ImagesArgs) -> anyhow::Result<bool> {
    let config = args.sources.load()?;
    let done = match args.action {
        None => list::list(&config, &args.list),
        Some(Action::List(list)) => list::list(&config, &list),
        Some(Action::Import(import)) => import::import(&config, import),
        Some(Action::Export(export)) => export::export(&config, &export),
        Some(Action::Adopt(adopt)) => adopt::adopt(&config, adopt),
        Some(Action::Check(check)) => return crate::async_runtime()?.block_on(check::run(check, &config)),
    };
    done.map(|()| true)
}

/// The socket that was given, or else the configuration's, which is not read in vain.
fn socket(given: Option<PathBuf>, sources: Sources) -> anyhow::Result<PathBuf> {
    match given {
        // As the kubelet and crictl write it.
        Some(path) => {
            Ok(path.strip_prefix("unix:").map_or(path.clone(), |path| PathBuf::from("/").join(path)))
        }
        None => Ok(sources.load()?.socket),
    }
}

/// The image store of the configuration.
fn open_store(config: &Config) -> anyhow::Result<Store> {
    let places = image::places(&config.images, &config.root);
    let opening = format!("opening the images in {}", places.images.display());
    Store::join(places).context(opening)
}

/// Each layer has three threads of its own; more than these together gain nothing.
const MOST_PARALLEL: usize = 4;

/// How many layers are unpacked at a time.
fn parallel(config: &Config) -> NonZeroUsize {
    let parallel = usize::try_from(config.images.max_parallel_layers).unwrap_or(usize::MAX);
    NonZeroUsize::new(parallel.min(MOST_PARALLEL)).unwrap_or(NonZeroUsize::MIN)
}
