//! `lockstock completions`: prints the completions of a shell.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

const HELP: &str = "\
Examples:
  source <(lockstock completions bash)          for this shell
  lockstock completions bash > /usr/share/bash-completion/completions/lockstock
  lockstock completions zsh > \"${fpath[1]}/_lockstock\"
  lockstock completions fish > ~/.config/fish/completions/lockstock.fish";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "lockstock", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
