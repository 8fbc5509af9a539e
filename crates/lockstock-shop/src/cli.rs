//! The command line. Each option `--some-name` of the server can also be given as the
//! environment variable `LOCKSTOCK_SOME_NAME`.

pub(crate) mod access;
pub(crate) mod listen_address;
pub(crate) mod lock_name;
pub(crate) mod store_url;
pub(crate) mod tls;
pub(crate) mod values;

use clap::builder::styling::AnsiColor;
use clap::builder::{Resettable, Styles};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::backup::BackupArgs;
use crate::commands::bench::BenchArgs;
use crate::commands::key::KeyArgs;
use crate::commands::locks::LocksArgs;
use crate::commands::race::RaceArgs;
use crate::commands::serve::ServeArgs;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

const HELP: &str = "\
A TIME is a number and a unit: 500ms, 3s, 10m, 12h, 1d.

Examples:
  lockstock                                     serve from memory and a SQLite file
  lockstock race                                send five identical updates: one succeeds
  lockstock --after-update release              one update at a time, without a cool-down
  lockstock --store redis://127.0.0.1:6379/1 \\
            --database postgres://shop@127.0.0.1/shop
                                                serve as one of several replicas
  lockstock key new web-shop --scope write --file api-keys
                                                create an API key
  lockstock --listen 0.0.0.0:8000 --api-key-file api-keys
                                                serve other machines, which need a key
  lockstock locks --store redis://127.0.0.1:6379/1
                                                list locks, holders and waiters
  lockstock backup FILE                         copy the SQLite database while it is served
  lockstock bench lock --store redis://127.0.0.1:6379/1
                                                measure the lock on your Redis";

/// A stock API that never sells the same thing twice
///
/// Without a command, lockstock serves the API. Start it, then run `lockstock race` in another
/// terminal.
#[derive(Debug, Parser)]
#[command(name = "lockstock", version, styles = STYLES, after_help = HELP)]
#[command(args_conflicts_with_subcommands = true, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

impl Cli {
    /// Parses the command line and the environment, in which an empty variable counts as unset.
    /// Prints an error and exits if they are invalid.
    pub fn from_process() -> Self {
        let command = without_empty_variables(Self::command());
        let matches = command.get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Makes options and those of subcommands ignore variables that are empty.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let variable = arg.get_env().and_then(std::env::var_os);
        match variable {
            Some(value) if value.is_empty() => arg.env(Resettable::Reset),
            _ => arg,
        }
    });
    command.mut_subcommands(without_empty_variables)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the API (the default command)
    #[command(args_override_self = true, after_help = values::TIME_HELP)]
    Serve(Box<ServeArgs>),
    /// Send identical updates at the same moment and report which one succeeds
    Race(RaceArgs),
    /// Measure the lock or the cache on your store and your machine
    Bench(BenchArgs),
    /// List locks with their holders and waiters, or release a lock by force
    Locks(LocksArgs),
    /// Create API keys
    Key(KeyArgs),
    /// Copy the SQLite database to a new file while the server runs
    Backup(BackupArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
