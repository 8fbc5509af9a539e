//! The configuration file, in TOML: the names are those of the options of `lockstock serve`.
//!
//! The file is read before clap parses the command line, and its values become the defaults of
//! the options. So the command line comes first, then the environment, then the file.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStr as ArgText, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, value_parser};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::secret_file::HEADING;
use crate::private_file::ensure_private;

/// Name of the option, which a file cannot contain.
const OPTION: &str = "config";
pub(super) const VARIABLE: &str = "LOCKSTOCK_CONFIG";

/// The similarity from which a name is suggested, the same as clap's.
const MIN_SIMILARITY: f64 = 0.7;

/// Options of which a file contains one, because the other one is a file with the same value.
const ALTERNATIVES: [(&str, &str); 2] = [("store", "store-file"), ("database", "database-file")];

/// Adds the option to a command, and to its subcommands.
pub(super) fn with_option(command: Command) -> Command {
    // Without a subcommand, `lockstock` is `serve`, whose option is its own.
    let is_root = command.get_name() == "lockstock";
    let is_global = command.has_subcommands() && !is_root;
    let option = Arg::new(OPTION)
        .long(OPTION)
        .env(VARIABLE)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .global(is_global)
        .help_heading(HEADING)
        .help(
            "TOML file with the options of `lockstock serve`. The command line comes first, then the \
             environment, then the file. `lockstock config sample` prints one",
        );
    command.arg(option)
}

/// Returns whether the command that the arguments name reads a configuration file now: not to
/// print a help text, which must work beside any file.
pub(super) fn is_read(command: &Command, arguments: &[OsString]) -> bool {
    fn option(command: &Command) -> Option<&Arg> {
        let mut options = command.get_arguments();
        options.find(|option| option.get_id() == OPTION)
    }
    let mut named = command;
    let mut is_read = option(named).is_some();
    for argument in arguments.iter().skip(1) {
        let Some(next) = named.find_subcommand(argument) else {
            break;
        };
        is_read = option(next).is_some() || option(named).is_some_and(Arg::is_global_set);
        named = next;
    }
    let is_help = |argument: &OsString| {
        ["-h", "--help", "-V", "--version"].contains(&argument.to_str().unwrap_or_default())
    };
    let is_help_command = arguments.get(1).is_some_and(|argument| argument == "help");
    is_read && !is_help_command && !arguments.iter().any(is_help)
}

/// The values in a file, each of which is valid.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// One text, or those of a list.
    texts: Vec<String>,
    line: usize,
}

impl ConfigFile {
    /// Reads the file that the arguments of a command name, or else `variable`. `options` is the
    /// command whose options a file may contain.
    ///
    /// # Errors
    ///
    /// The error lists every mistake in the file, with its line.
    pub(crate) fn find(
        arguments: &[OsString],
        variable: Option<OsString>,
        options: &Command,
    ) -> Result<Option<Self>, String> {
        let variable = variable.filter(|path| !path.is_empty());
        let Some(path) = last_value(arguments).or(variable) else {
            return Ok(None);
        };
        let path = PathBuf::from(path);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        match entries(&text, options) {
            Ok(entries) => {
                let file = Self { path, entries };
                file.ensure_private()?;
                Ok(Some(file))
            }
            Err(mistakes) => {
                let place = path.display();
                let lines = mistakes
                    .iter()
                    .map(|(line, mistake)| format!("{place}:{line}: {mistake}"));
                Err(lines.collect::<Vec<_>>().join("\n       "))
            }
        }
    }

    /// Fails if the file contains a password and other users can read it.
    fn ensure_private(&self) -> Result<(), String> {
        let secret = self.entries.iter().find(|entry| {
            let names = ALTERNATIVES.map(|(name, _)| name);
            names.contains(&&entry.name[..]) && entry.texts.iter().any(|text| has_password(text))
        });
        let Some(Entry { name, line, .. }) = secret else {
            return Ok(());
        };
        let place = self.path.display();
        let checked = fs::File::open(&self.path)
            .map_err(anyhow::Error::from)
            .and_then(|file| ensure_private(&file, &self.path, "a password"));
        checked
            .map_err(|error| format!("{place}:{line}: {name}: {error}, or give it as {name}-file"))
    }

    /// Makes the values the defaults of the options of a command and of its subcommands.
    pub(crate) fn apply(&self, command: Command) -> Command {
        let command = command.mut_args(|arg| {
            let name = arg.get_long().unwrap_or_default();
            match self.entries.iter().find(|entry| entry.name == name) {
                Some(entry) => arg.default_values(entry.texts.iter().map(ArgText::from)),
                None => arg,
            }
        });
        command.mut_subcommands(|subcommand| self.apply(subcommand))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the line of an option, `None` if the file does not contain it.
    pub(crate) fn line(&self, name: &str) -> Option<usize> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.map(|entry| entry.line)
    }
}

fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let user = rest.rsplit_once('@').map(|(user, _)| user);
    user.is_some_and(|user| user.contains(':')) || rest.contains("password=")
}

/// Returns the value of the last `--config`.
fn last_value(arguments: &[OsString]) -> Option<OsString> {
    let mut found = None;
    let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            // Without a value, clap explains it.
            found = arguments.next().cloned().or(found);
        } else if let Some(path) = argument.as_bytes().strip_prefix(b"--config=") {
            found = Some(OsStr::from_bytes(path).to_owned());
        }
    }
    found
}

type Mistake = (usize, String);

/// Parses the text of a file. Fails with all mistakes, in the order of their lines.
fn entries(text: &str, options: &Command) -> Result<Vec<Entry>, Vec<Mistake>> {
    let line = |at: usize| 1 + text[..at].matches('\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        // Without the line itself, which may contain a password.
        vec![(line(at), error.message().to_owned())]
    })?;
    let mut entries = Vec::new();
    let mut mistakes = Vec::new();
    for (name, value) in table.get_ref() {
        let line = line(name.span().start);
        match texts(name.get_ref(), value, options) {
            Ok(texts) => entries.push(Entry {
                name: name.get_ref().to_string(),
                texts,
                line,
            }),
            Err(mistake) => mistakes.push((line, mistake)),
        }
    }
    for (one, other) in ALTERNATIVES {
        let find = |name| entries.iter().find(|entry: &&Entry| entry.name == name);
        if let (Some(_), Some(second)) = (find(one), find(other)) {
            mistakes.push((
                second.line,
                format!("{one} and {other} exclude each other: remove one of the two"),
            ));
        }
    }
    mistakes.sort();
    if mistakes.is_empty() {
        Ok(entries)
    } else {
        Err(mistakes)
    }
}

/// Returns the value of an option as texts, as on a command line.
fn texts(
    name: &str,
    value: &Spanned<DeValue<'_>>,
    options: &Command,
) -> Result<Vec<String>, String> {
    let option = options
        .get_arguments()
        .find(|option| is_allowed(option) && option.get_long() == Some(name))
        .ok_or_else(|| unknown(name, options))?;
    let expected = |what: &str| Err(format!("{name}: expected {what}"));
    let is_list = option.get_value_delimiter().is_some();
    let texts = match value.get_ref() {
        DeValue::Boolean(value) if is_flag(option) => vec![value.to_string()],
        _ if is_flag(option) => return expected("true or false, without quotes"),
        DeValue::Array(items) if is_list => {
            let texts = items.iter().map(|item| item.get_ref().as_str());
            match texts.map(|text| text.map(str::to_owned)).collect() {
                Some(texts) => texts,
                None => return expected("a list of texts, like [\"one\", \"other\"]"),
            }
        }
        _ if is_list => return expected("a list of texts, like [\"one\", \"other\"]"),
        DeValue::String(text) => vec![DeString::to_string(text)],
        DeValue::Integer(number) if number.radix() == 10 => vec![number.as_str().to_owned()],
        DeValue::Float(number) => vec![number.as_str().to_owned()],
        _ => return expected("a text in quotes, or a number"),
    };
    for text in &texts {
        check(option, text, options)?;
    }
    Ok(texts)
}

fn unknown(name: &str, options: &Command) -> String {
    if name == OPTION {
        return "a configuration file cannot name another one".to_owned();
    }
    let names = options.get_arguments().filter(|option| is_allowed(option));
    let nearest = names
        .filter_map(Arg::get_long)
        .map(|known| (strsim::jaro(name, known), known))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match nearest {
        Some((_, nearest)) => format!("there is no option '{name}': did you mean '{nearest}'?"),
        None => format!(
            "there is no option '{name}': `lockstock config sample` lists all, without tables"
        ),
    }
}

/// Parses a text as clap does if it is the value of an option on the command line.
fn check(option: &Arg, text: &str, options: &Command) -> Result<(), String> {
    let name = option.get_long().unwrap_or_default();
    if is_flag(option) {
        return Ok(());
    }
    let without_environment = |arg: Arg| arg.env(Resettable::<ArgText>::Reset);
    let command = options.clone().mut_args(without_environment);
    let arguments = ["lockstock".to_owned(), format!("--{name}={text}")];
    let Err(error) = command.try_get_matches_from(arguments) else {
        return Ok(());
    };
    let reason = match (error.kind(), error.source()) {
        (_, Some(reason)) => reason.to_string(),
        (ErrorKind::InvalidValue, None) => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) => format!("expected {}", values.join(" or ")),
            _ => "expected a value".to_owned(),
        },
        // An error of the options together, of which only one is here.
        _ => return Ok(()),
    };
    Err(if option.is_hide_env_values_set() {
        format!("{name}: {reason}")
    } else {
        format!("{name} = '{text}': {reason}")
    })
}

/// Returns whether a file may contain the option.
pub(crate) fn is_allowed(option: &Arg) -> bool {
    option.get_long().is_some_and(|name| name != OPTION)
        && !matches!(
            option.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        )
}

/// Returns whether the option has no value on the command line.
pub(crate) fn is_flag(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Command {
        Command::new("serve").args([
            Arg::new("listen").long("listen"),
            Arg::new("store").long("store").hide_env_values(true),
            Arg::new("store-file").long("store-file"),
            Arg::new("no-samples")
                .long("no-samples")
                .action(ArgAction::SetTrue),
            Arg::new("max-requests")
                .long("max-requests")
                .value_parser(clap::value_parser!(u16)),
            Arg::new("cors-origins")
                .long("cors-origins")
                .value_delimiter(',')
                .action(ArgAction::Append),
            Arg::new("after-update")
                .long("after-update")
                .value_parser(["keep", "release"]),
            Arg::new("config").long("config"),
        ])
    }

    fn mistakes(text: &str) -> Vec<Mistake> {
        entries(text, &options()).unwrap_err()
    }

    #[test]
    fn a_value_has_the_type_of_its_option() {
        let text = "listen = \"[::1]:8000\"\nno-samples = false\nmax-requests = 1_000\n\n\
                    # a list\ncors-origins = [\"https://a\",\n \"https://b\"]\nstore = \"x\"";
        let entries = entries(text, &options()).unwrap();
        let find = |name| {
            let entry = entries.iter().find(|entry| entry.name == name).unwrap();
            (entry.line, entry.texts.join(" "))
        };
        assert_eq!(find("listen"), (1, "[::1]:8000".to_owned()));
        assert_eq!(find("no-samples"), (2, "false".to_owned()));
        assert_eq!(find("max-requests"), (3, "1000".to_owned()));
        assert_eq!(find("cors-origins"), (6, "https://a https://b".to_owned()));
        assert_eq!(find("store"), (8, "x".to_owned()));
    }

    #[test]
    fn each_mistake_is_reported_with_its_line() {
        let text = "listn = \"x\"\nno-samples = \"yes\"\nmax-requests = 99999\ncors-origins = \"*\"\n\
                    after-update = \"maybe\"\nlisten = 2026-01-01\nconfig = \"other\"\nzzz = 1";
        let found = mistakes(text);
        for (line, words) in [
            (1, "there is no option 'listn': did you mean 'listen'?"),
            (2, "no-samples: expected true or false"),
            (3, "max-requests = '99999': 99999 is not in 0..=65535"),
            (4, "cors-origins: expected a list"),
            (5, "after-update = 'maybe': expected keep or release"),
            (6, "listen: expected a text"),
            (7, "cannot name another"),
            (8, "there is no option 'zzz'"),
        ] {
            let (at, mistake) = &found[line - 1];
            assert_eq!(*at, line, "{found:?}");
            assert!(mistake.contains(words), "{mistake}");
        }
        let twice = "store = \"a\"\nstore-file = \"b\"";
        assert!(mistakes(twice)[0].1.contains("exclude each other"));
    }

    #[test]
    fn no_password_is_part_of_a_mistake() {
        for text in [
            "store = \"redis://:open-sesame@h",
            "store = [\"redis://:open-sesame@h\"]",
            "store = redis://:open-sesame@h",
        ] {
            let found = mistakes(text);
            assert_eq!(found[0].0, 1);
            assert!(!found[0].1.contains("sesame"), "{found:?}");
        }
    }

    #[test]
    fn the_last_file_of_the_command_line_counts() {
        let last =
            |arguments: &[&str]| last_value(&arguments.iter().map(Into::into).collect::<Vec<_>>());
        assert_eq!(last(&["serve", "--config", "a"]), Some("a".into()));
        assert_eq!(last(&["--config=a", "--config", "b"]), Some("b".into()));
        assert_eq!(last(&["--config", "a", "--config=b"]), Some("b".into()));
        assert_eq!(last(&["--", "--config", "a"]), None);
        assert_eq!(last(&["--config"]), None);
    }
}
