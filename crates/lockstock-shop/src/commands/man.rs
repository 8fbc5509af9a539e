//! `lockstock man`: prints the man page, or writes those of all commands to a folder.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_mangen::Man;

const HELP: &str = "\
Examples:
  lockstock man | man -l -
  lockstock man --folder /usr/local/share/man/man1";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ManArgs {
    /// Folder to write a page for each command to, which must exist [default: print the first page]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs, command: Command) -> anyhow::Result<()> {
    match &args.folder {
        Some(folder) => clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write to {}", folder.display())),
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            Ok(std::io::stdout().write_all(&page)?)
        }
    }
}
