//! The command line. Each option `--some-name` of the server can also be given as the
//! environment variable `LOCKSTOCK_SOME_NAME`, or as `some-name` in a configuration file.

pub(crate) mod access;
pub(crate) mod config_file;
pub(crate) mod database;
pub(crate) mod effective_options;
pub(crate) mod listen_address;
pub(crate) mod lock_name;
pub(crate) mod secret_file;
pub(crate) mod store_url;
pub(crate) mod threads;
pub(crate) mod tls;
pub(crate) mod traces;
pub(crate) mod values;

use std::ffi::OsString;

use clap::builder::styling::AnsiColor;
use clap::builder::{Resettable, Styles};
use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, Error, FromArgMatches, Parser, Subcommand};

use self::config_file::ConfigFile;
use self::secret_file::Secrets;
use crate::commands::backup::BackupArgs;
use crate::commands::bench::BenchArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::config::{ConfigArgs, ConfigCommand};
use crate::commands::doctor::DoctorArgs;
use crate::commands::export::ExportArgs;
use crate::commands::import::ImportArgs;
use crate::commands::key::KeyArgs;
use crate::commands::locks::LocksArgs;
use crate::commands::man::ManArgs;
use crate::commands::race::RaceArgs;
use crate::commands::ready::ReadyArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::top::{self, TopArgs};

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
  lockstock --config /etc/lockstock/lockstock.toml
                                                serve with options from a file
  lockstock doctor --config /etc/lockstock/lockstock.toml
                                                check Redis, the database and this machine
  lockstock key new web-shop --scope write --file api-keys
                                                create an API key
  lockstock --listen 0.0.0.0:8000 --api-key-file api-keys
                                                serve other machines, which need a key
  lockstock locks --store redis://127.0.0.1:6379/1
                                                list locks, holders and waiters
  lockstock top                                 watch the locks of a server, live
  lockstock backup FILE                         copy the SQLite database while it is served
  lockstock import products products.csv        create products from a file
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

/// Commands that read the configuration file, beside `lockstock` itself.
const CONFIGURABLE: [&str; 7] = [
    "serve", "locks", "backup", "import", "export", "doctor", "print",
];

/// Returns the command line, with the options of the configuration file and of secret files.
pub(crate) fn command() -> clap::Command {
    with_file_options(Cli::command())
}

fn with_file_options(command: clap::Command) -> clap::Command {
    let command = command.mut_subcommands(with_file_options);
    let name = command.get_name();
    let is_configurable = name == "lockstock" || CONFIGURABLE.contains(&name);
    let command = secret_file::with_options(command);
    if is_configurable {
        config_file::with_option(command)
    } else {
        command
    }
}

impl Cli {
    /// Returns the options of the server, if it is to be started.
    pub(crate) fn serve_args(&self) -> Option<&ServeArgs> {
        match &self.command {
            None => Some(&self.serve),
            Some(Command::Serve(args)) => Some(args),
            Some(_) => None,
        }
    }

    /// Parses the command line, the environment, in which an empty variable counts as unset, and
    /// the configuration file. Prints an error and exits if one of them is invalid.
    pub fn from_process() -> Self {
        let arguments = std::env::args_os().collect::<Vec<_>>();
        Self::parse_with_file(&arguments).unwrap_or_else(|error| error.exit())
    }

    fn parse_with_file(arguments: &[OsString]) -> Result<Self, Error> {
        let mut command = without_empty_variables(command());
        let mut options = serve_options(&command);
        let mut file = None;
        if config_file::is_read(&command, arguments) {
            let variable = std::env::var_os(config_file::VARIABLE);
            file = ConfigFile::find(arguments, variable, &options)
                .map_err(|mistakes| Error::raw(ErrorKind::ValueValidation, mistakes + "\n"))?;
        }
        if let Some(file) = &file {
            command = file.apply(command);
            options = serve_options(&command);
        }
        let matches = command.clone().try_get_matches_from(arguments)?;
        let secrets = Secrets::read(leaf(&matches))?;
        let mut cli = if secrets.is_empty() {
            Self::from_arg_matches(&matches)?
        } else {
            let command = secrets.apply(command);
            Self::from_arg_matches(&command.try_get_matches_from(arguments)?)?
        };
        if let Some(Command::Config(config)) = &mut cli.command
            && let ConfigCommand::Print(print) = &mut config.command
        {
            let mut effective =
                effective_options::effective(&options, leaf(&matches), file.as_ref());
            // Of two options for one value, only the one that counts.
            effective.retain(|option| !secrets.has(&option.name));
            print.options = effective;
        }
        Ok(cli)
    }
}

/// Returns the command whose options a configuration file may contain.
pub(crate) fn serve_options(command: &clap::Command) -> clap::Command {
    let serve = command.find_subcommand("serve");
    serve.unwrap_or(command).clone()
}

/// Returns the matches of the innermost subcommand.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => leaf(inner),
        None => matches,
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
    /// Watch the locks of a server as they are held, kept and waited for
    #[command(after_help = top::HELP)]
    Top(TopArgs),
    /// Check Redis, the database and this machine for settings that break guarantees
    Doctor(Box<DoctorArgs>),
    /// Report whether a server is ready: for health checks
    Ready(ReadyArgs),
    /// Show the configuration and where each value is from, or print a sample file
    Config(ConfigArgs),
    /// Create API keys
    Key(KeyArgs),
    /// Copy the SQLite database to a new file while the server runs
    Backup(BackupArgs),
    /// Import products from a file: all of them, or none
    Import(ImportArgs),
    /// Export products to a file
    Export(ExportArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Print the man page, or write those of all commands to a folder
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
