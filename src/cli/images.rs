//! `podd images`: the images of the node, with a daemon running or not.

use clap::Subcommand;
use podd::config::Config;

use super::check;

/// What to do with the images.
#[derive(Subcommand)]
pub(crate) enum ImagesCommand {
    /// Compare images with what was unpacked; exit status 1 if something is wrong.
    Check(check::Arguments),
}

/// Runs one of the commands; `false` is exit status 1.
pub(crate) async fn run(command: ImagesCommand, config: &Config) -> anyhow::Result<bool> {
    match command {
        ImagesCommand::Check(arguments) => check::run(arguments, config).await,
    }
}
