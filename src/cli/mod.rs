//! `podd images`: what an operator does with the images of a node from its command line.
//!
//! Works on the image store itself, beside a running daemon or without one, and never on the network. What the daemon
//! alone knows, the pulls under way, it is asked for on its socket.

mod adopt;
mod check;
mod export;
mod import;
mod list;
mod pulls;
mod table;

use std::num::NonZeroUsize;

use anyhow::Context;
use clap::{Args, Subcommand};
use podd::config::Config;
use podd::image;
use podd::image::store::Store;

use crate::Sources;

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
