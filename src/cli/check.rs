//! `podd images check`: progress on standard error, findings on standard output.

use anyhow::Context;
use clap::Args;
use podd::config::Config;
use podd::image::Images;
use podd::image::check::{Repaired, Report};
use podd::image::store::OldLayer;

/// How many findings of one layer are printed.
const MOST_SHOWN: usize = 20;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Fetch broken layers again and put them into place, beside a running daemon too.
    #[arg(long)]
    repair: bool,
    /// Names or IDs; all images if there are none.
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// Checks, and repairs if asked to. `true` when nothing is wrong any more.
pub(crate) async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<bool> {
    let (settings, root) = (config.images.clone(), config.root.clone());
    let joined = tokio::task::spawn_blocking(move || Images::join(&settings, &root)).await?;
    let images = joined.context("opening the images")?;
    let progress = |number, all, chain: &_| eprintln!("checking layer {number} of {all}: {chain}");
    let report = images.check(&arguments.images, progress).await.context("checking the images")?;
    print(&report);
    if report.is_clean() || !arguments.repair {
        return Ok(report.is_clean());
    }
    Ok(repair(&images, &report).await)
}

fn print(report: &Report) {
    for record in &report.records {
        println!("{}\trecord {}: {}", names(&record.names), record.path.display(), record.reason);
    }
    for layer in &report.layers {
        let image = names_of(&layer.image);
        for finding in layer.findings.iter().take(MOST_SHOWN) {
            // In quotes, since a name may be anything.
            let path = (!finding.path.is_empty()).then(|| format!(" {:?}", format!("/{}", finding.path)));
            println!("{image}\tlayer {}{}: {}", layer.chain, path.unwrap_or_default(), finding.problem);
        }
        if let Some(more) = layer.findings.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
            println!("{image}\tlayer {}: {more} more", layer.chain);
        }
    }
    let (records, layers) = (report.records.len(), report.layers.len());
    println!("{} layers checked, {layers} broken; {records} broken records", report.checked);
}

/// Goes on past what cannot be repaired.
async fn repair(images: &Images, report: &Report) -> bool {
    let mut all = true;
    for record in &report.records {
        let result = images.repair_record(record).await;
        all &= told(&format!("record of {}", names(&record.names)), result);
    }
    for layer in &report.layers {
        eprintln!("fetching layer {} of {}", layer.chain, names_of(&layer.image));
        let result = images.repair_layer(layer).await;
        all &= told(&format!("layer {}", layer.chain), result);
    }
    all
}

fn told(what: &str, result: Result<Repaired, podd::image::ImageError>) -> bool {
    match result {
        Ok(Repaired::SetAside(path)) => {
            println!("{what}: set aside as {}; pull the image again", path.display());
        }
        Ok(Repaired::Replaced(OldLayer::Discarded)) => println!("{what}: replaced"),
        Ok(Repaired::Replaced(OldLayer::Retired)) => {
            println!(
                "{what}: replaced; containers that run on the broken files keep them until they are made anew"
            );
        }
        Err(error) => {
            println!("{what}: not repaired: {:#}", anyhow::Error::from(error));
            return false;
        }
    }
    true
}

fn names_of(image: &podd::image::Image) -> String {
    let names: Vec<String> = image.tags.iter().chain(&image.repo_digests).take(1).cloned().collect();
    if names.is_empty() { image.id.to_string() } else { names.concat() }
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "(no name)".to_owned() } else { names.join(", ") }
}
