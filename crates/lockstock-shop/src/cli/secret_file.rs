//! Files that contain the value of an option, so that a password is neither in the environment
//! nor in the list of processes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::builder::{OsStr, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Error, value_parser};

use crate::private_file::ensure_private;

/// Help heading of the options about files.
pub(super) const HEADING: &str = "Configuration";

/// Options whose value can be in a file: the option, that of the file, its variable, and its help.
const OPTIONS: [(&str, &str, &str, &str); 2] = [
    (
        "store",
        "store-file",
        "LOCKSTOCK_STORE_FILE",
        "File that contains the URL of the store, instead of --store. Other users must not be able \
         to read it",
    ),
    (
        "database",
        "database-file",
        "LOCKSTOCK_DATABASE_FILE",
        "File that contains the URL of the database, instead of --database. Other users must not \
         be able to read it",
    ),
];

/// No value of an option is longer.
const MAX_BYTES: u64 = 64 * 1024;

/// Adds the options of files to a command that has the option itself.
pub(super) fn with_options(mut command: Command) -> Command {
    for (name, file, variable, help) in OPTIONS {
        let is_global = {
            let mut options = command.get_arguments();
            let option = options.find(|option| option.get_long() == Some(name));
            option.map(Arg::is_global_set)
        };
        if let Some(is_global) = is_global {
            let option = Arg::new(file)
                .long(file)
                .env(variable)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .global(is_global)
                .help_heading(HEADING)
                .help(help);
            command = command.arg(option);
        }
    }
    command
}

/// The values that are read from files, by the names of the options that they replace.
pub(super) struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    /// Reads each file that comes before its option in the order of command line, environment,
    /// configuration file.
    pub(super) fn read(matches: &ArgMatches) -> Result<Self, Error> {
        let mut secrets = Vec::new();
        for (name, file, ..) in OPTIONS {
            let (of_file, of_option) = (Rank::of(file, matches), Rank::of(name, matches));
            if of_file == of_option && of_file > Rank::Default {
                let message = format!(
                    "--{name} and --{file} exclude each other, also as environment variables: give \
                     one of the two\n"
                );
                return Err(Error::raw(ErrorKind::ArgumentConflict, message));
            }
            // A configuration file has only one of the two.
            if of_file > Rank::Absent
                && of_file >= of_option
                && let Some(path) = matches.get_one::<PathBuf>(file)
            {
                let secret = read(path).map_err(|error| {
                    let message = format!("--{file}: {error:#}\n");
                    Error::raw(ErrorKind::ValueValidation, message)
                })?;
                secrets.push((name, secret));
            }
        }
        Ok(Self(secrets))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a file has the value of this option.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(option, _)| *option == name)
    }

    /// Replaces the values of the options, none of which is on the command line.
    pub(super) fn apply(&self, command: Command) -> Command {
        let command = command.mut_args(|arg| {
            let name = arg.get_long().unwrap_or_default();
            match self.0.iter().find(|(option, _)| *option == name) {
                Some((_, value)) => arg.env(Resettable::<OsStr>::Reset).default_value(value),
                None => arg,
            }
        });
        command.mut_subcommands(|subcommand| self.apply(subcommand))
    }
}

/// Where a value is from. A later one comes before an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// There is no value, or no such option.
    Absent,
    /// From the configuration file, or built in.
    Default,
    Environment,
    CommandLine,
}

impl Rank {
    fn of(id: &str, matches: &ArgMatches) -> Self {
        if !matches.try_contains_id(id).unwrap_or(false) {
            return Self::Absent;
        }
        match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Self::CommandLine,
            Some(ValueSource::EnvVariable) => Self::Environment,
            _ => Self::Default,
        }
    }
}

/// Reads the value in a file, without the line ends after it.
///
/// # Errors
///
/// If other users may read the file or change it, and if it contains no text or several lines.
fn read(path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    ensure_private(&file, path, "a URL that may have a password")?;
    let mut text = String::new();
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    let value = text.trim_end_matches(['\r', '\n']);
    ensure!(!value.is_empty(), "{name} is empty");
    ensure!(
        !value.contains('\n'),
        "{name} has several lines: one is expected"
    );
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read_with(contents: &str, mode: u32) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read(&path).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_line_end_is_not_part_of_a_secret() {
        for contents in ["redis://h", "redis://h\n", "redis://h\r\n"] {
            assert_eq!(read_with(contents, 0o640), Ok("redis://h".to_owned()));
        }
        assert_eq!(read_with(" a ", 0o600), Ok(" a ".to_owned()));
    }

    #[test]
    fn a_file_that_is_open_to_others_or_is_no_line_is_rejected() {
        let error = read_with("x", 0o644).unwrap_err();
        assert!(error.contains("(mode 0644)"), "{error}");
        assert!(read_with("\n", 0o600).unwrap_err().contains("is empty"));
        assert!(read_with("a\nb", 0o600).unwrap_err().contains("several"));
        let missing = read(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(format!("{missing:#}").contains("/nowhere/at/all"));
    }
}
