//! `podd images list`: a table like that of `crictl images`, read from the store.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use podd::config::Config;
use podd::image::pinned::Pins;
use podd::image::{self, Image};
use serde_json::json;

use super::pulls::{self, Pull};
use super::table::{SHORT_ID, bytes, table};

/// How often pulls are looked at.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct ListArgs {
    /// How to show them.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Show the pulls under way each second, until there are none.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(super) fn list(config: &Config, args: &ListArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let pulls = runtime.block_on(async {
        loop {
            let pulls = pulls::under_way(&config.socket).await?;
            if !args.watch || pulls.is_empty() {
                return anyhow::Ok(pulls);
            }
            show_pulls(&pulls, args.output);
            tokio::time::sleep(REFRESH).await;
        }
    })?;
    let (images, pins) = (stored(config)?, Pins::new(&config.images.pinned));
    match args.output {
        Output::Json => println!("{}", as_json(&images, &pins, &pulls)),
        Output::Table => {
            print!("{}", image_table(&images, &pins));
            if !pulls.is_empty() {
                print!("\n{}", pulls::pull_table(&pulls));
            }
        }
    }
    Ok(())
}

/// The images; none where there is no store yet, which is not made for a look at it.
fn stored(config: &Config) -> anyhow::Result<Vec<Arc<Image>>> {
    match image::places(&config.images, &config.root).images.join("images").exists() {
        true => Ok(super::open_store(config)?.images()),
        false => Ok(Vec::new()),
    }
}

fn show_pulls(pulls: &[Pull], output: Output) {
    match output {
        Output::Json => println!("{}", json!({ "pulls": pulls })),
        Output::Table => {
            // On a terminal each look replaces the one before.
            let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
            println!("{clear}{}", pulls::pull_table(pulls));
        }
    }
}

fn as_json(images: &[Arc<Image>], pins: &Pins, pulls: &[Pull]) -> serde_json::Value {
    let images = images.iter().map(|image| {
        json!({
            "id": image.id,
            "repoTags": image.tags,
            "repoDigests": image.repo_digests,
            "size": image.size,
            "pinned": pins.keep(image),
        })
    });
    json!({ "images": images.collect::<Vec<_>>(), "pulls": pulls })
}

fn image_table(images: &[Arc<Image>], pins: &Pins) -> String {
    let mut rows: Vec<Vec<String>> = images.iter().flat_map(|image| rows(image, pins)).collect();
    rows.sort();
    table(&["IMAGE", "TAG", "IMAGE ID", "SIZE", "PINNED"], &rows)
}

/// A row for each tag; an image without one is shown by its digest.
fn rows(image: &Image, pins: &Pins) -> Vec<Vec<String>> {
    let none = || "<none>".to_owned();
    let mut names: Vec<(String, String)> = image.tags.iter().map(|tag| split(tag, ':')).collect();
    if names.is_empty() {
        names = image.repo_digests.iter().map(|name| (split(name, '@').0, none())).collect();
    }
    if names.is_empty() {
        names.push((none(), none()));
    }
    let id = image.id.hex()[..SHORT_ID].to_owned();
    let pinned = if pins.keep(image) { "yes" } else { "no" };
    let row = |(name, tag)| vec![name, tag, id.clone(), bytes(image.size), pinned.to_owned()];
    names.into_iter().map(row).collect()
}

fn split(name: &str, separator: char) -> (String, String) {
    let (name, rest) = name.rsplit_once(separator).unwrap_or((name, ""));
    (name.to_owned(), rest.to_owned())
}
