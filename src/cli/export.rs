//! `podd images export`: to a file that appears when it is whole, to standard output, or into a directory.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use podd::config::Config;
use podd::image::archive::{self, Exported, Format};

#[derive(Args)]
pub(super) struct ExportArgs {
    /// Names or IDs.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// The archive to write, or - for standard output; with --format oci a directory.
    #[arg(long, short, value_name = "FILE|DIR")]
    output: PathBuf,
    /// The form of the archive.
    #[arg(long, value_enum, default_value = "oci-archive")]
    format: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    OciArchive,
    DockerArchive,
    Oci,
}

pub(super) fn export(config: &Config, args: &ExportArgs) -> anyhow::Result<()> {
    let store = super::open_store(config)?;
    let images = archive::find(&store, &args.images)?;
    let exporting = || format!("exporting to {}", args.output.display());
    let format = match args.format {
        Form::OciArchive => Format::OciArchive,
        Form::DockerArchive => Format::DockerArchive,
        Form::Oci => {
            let exported = archive::export_layout(&store, &images, &args.output).with_context(exporting)?;
            exported.iter().for_each(|exported| println!("{}", line(exported)));
            return Ok(());
        }
    };
    if args.output.as_os_str() == "-" {
        let out = io::stdout().lock();
        anyhow::ensure!(
            !out.is_terminal(),
            "an archive is nothing for a terminal: send it to a file or a pipe"
        );
        let exported =
            archive::export(&store, &images, format, out).context("exporting to standard output")?;
        exported.iter().for_each(|exported| eprintln!("{}", line(exported)));
        return Ok(());
    }
    let mut exported = Vec::new();
    archive::to_file(&args.output, |file| {
        exported = archive::export(&store, &images, format, file)?;
        Ok(())
    })
    .with_context(exporting)?;
    exported.iter().for_each(|exported| println!("{}", line(exported)));
    Ok(())
}

fn line(exported: &Exported) -> String {
    let Exported { names, original, id } = exported;
    let names = if names.is_empty() { "an image without a name".to_owned() } else { names.join(", ") };
    match id == original {
        true => format!("exported {names}: {id}"),
        false => format!("exported {names}: {original}, in the archive {id}"),
    }
}
