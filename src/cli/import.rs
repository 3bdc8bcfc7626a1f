//! `podd images import`: progress on a terminal, one line for each image.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use podd::config::Config;
use podd::image::archive::{self, ImportOptions, Imported, Progress};
use podd::image::reference::Reference;

use super::table::bytes;

/// How often the figures are shown.
const REFRESH: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(super) struct ImportArgs {
    /// An archive, the directory of an OCI layout, or - for standard input.
    #[arg(value_name = "FILE|DIR")]
    archive: PathBuf,
    /// What to call the only image of the archive, or which of several to take; may be repeated.
    #[arg(long, value_name = "NAME:TAG")]
    name: Vec<Reference>,
    /// Keep the kubelet's garbage collection from the images.
    #[arg(long)]
    pin: bool,
}

pub(super) fn import(config: &Config, args: ImportArgs) -> anyhow::Result<()> {
    let options = ImportOptions {
        names: args.name,
        pinned: args.pin,
        parallel: super::parallel(config),
        limits: podd::image::limits(&config.images),
        ..ImportOptions::default()
    };
    let progress = Progress::default();
    let store = super::open_store(config)?;
    let imported = shown(&progress, || {
        if args.archive.as_os_str() == "-" {
            let input: File =
                io::stdin().as_fd().try_clone_to_owned().context("reading standard input")?.into();
            return archive::import_stream(&store, input, &options, &progress)
                .context("importing standard input");
        }
        archive::import(&store, &args.archive, &options, &progress)
            .with_context(|| format!("importing {}", args.archive.display()))
    })?;
    imported.iter().for_each(report);
    Ok(())
}

fn report(imported: &Imported) {
    let Imported { image, names, unpacked } = imported;
    let names = if names.is_empty() { "an image without a name".to_owned() } else { names.join(", ") };
    let (layers, size) = (image.chain.len(), bytes(image.size));
    println!("imported {names}: {}, {size}, {layers} layers, {unpacked} of them new", image.id);
}

/// Does the work, and shows how far it is where someone is looking.
fn shown<T>(progress: &Progress, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    if !io::stderr().is_terminal() {
        return work();
    }
    thread::scope(|scope| {
        let (done, ended) = channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                let (read, total) = (bytes(progress.bytes()), bytes(progress.total_bytes()));
                let (layers, all) = (progress.layers(), progress.total_layers());
                let _ = write!(io::stderr(), "\r\x1b[Klayers {layers}/{all}, {read} of {total}");
            }
            let _ = write!(io::stderr(), "\r\x1b[K");
        });
        let result = work();
        drop(done);
        result
    })
}
