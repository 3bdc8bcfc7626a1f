//! `podd images adopt`: the images of the runtime that the node had before.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use podd::config::Config;
use podd::image::adopt::{self, AdoptOptions, Adopted, Mode, Outcome, Peer, Way};

use super::table::{bytes, table};

#[derive(Args)]
pub(super) struct AdoptArgs {
    /// Whose images.
    #[arg(long, value_enum, default_value = "auto")]
    from: From,
    /// The other runtime's directory, where it is not the usual one.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show what would be taken.
    #[arg(long)]
    dry_run: bool,
    /// How the files of layers are taken; auto is the cheapest way that is possible.
    #[arg(long, value_enum, default_value = "auto")]
    mode: HowTo,
    /// Compare shared files with the images' diffIDs; what is unpacked is verified anyway.
    #[arg(long)]
    verify: bool,
    /// Keep the kubelet's garbage collection from the images.
    #[arg(long)]
    pin: bool,
    /// Names or IDs; all, if none is given.
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum From {
    Auto,
    Containerd,
    Crio,
}

#[derive(Clone, Copy, ValueEnum)]
enum HowTo {
    Auto,
    Reflink,
    Hardlink,
    Copy,
}

pub(super) fn adopt(config: &Config, args: AdoptArgs) -> anyhow::Result<()> {
    let options = AdoptOptions {
        from: match args.from {
            From::Auto => None,
            From::Containerd => Some(Peer::Containerd),
            From::Crio => Some(Peer::Crio),
        },
        root: args.root,
        mode: match args.mode {
            HowTo::Auto => None,
            HowTo::Reflink => Some(Mode::Reflink),
            HowTo::Hardlink => Some(Mode::Hardlink),
            HowTo::Copy => Some(Mode::Copy),
        },
        verify: args.verify,
        dry_run: args.dry_run,
        pinned: args.pin,
        images: args.images,
        parallel: super::parallel(config),
        limits: podd::image::limits(&config.images),
    };
    let store = super::open_store(config)?;
    let outcomes = adopt::adopt(&store, &options, report)?;
    let rows: Vec<_> = outcomes.iter().filter_map(row).collect();
    print!("{}", table(&["IMAGE", "IMAGE ID", "LAYERS", "TAKEN", "HOW", "SIZE"], &rows));
    let failed = outcomes.len() - rows.len();
    anyhow::ensure!(failed == 0, "{failed} of {} images were not taken", outcomes.len());
    anyhow::ensure!(!outcomes.is_empty() || options.images.is_empty(), "there is none of these images");
    Ok(())
}

/// Failures are told as they happen: a large store takes its time.
fn report(outcome: &Outcome) {
    if let Err(error) = &outcome.result {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        eprintln!("podd: {}: {text}", outcome.name);
    }
}

fn row(outcome: &Outcome) -> Option<Vec<String>> {
    let Adopted { id, layers, taken, ways, bytes: size, .. } = outcome.result.as_ref().ok()?;
    let ways: Vec<&str> = ways.iter().map(|way| shown(*way)).collect();
    let ways = if ways.is_empty() { "shared".to_owned() } else { ways.join(", ") };
    let id = id.hex()[..13].to_owned();
    Some(vec![outcome.name.clone(), id, layers.to_string(), taken.to_string(), ways, bytes(*size)])
}

fn shown(way: Way) -> &'static str {
    match way {
        Way::Blob | Way::Split => "unpack",
        Way::Tree(Mode::Reflink) => "reflink",
        Way::Tree(Mode::Hardlink) => "hardlink",
        Way::Tree(Mode::Copy) => "copy",
    }
}
