//! The values of all options of a command, and where each is from.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use lockstock::redact_url;
use serde_json::Value;

use super::config_file::{self, ConfigFile};
use crate::storage::redact_database_url;

/// An option with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EffectiveOption {
    pub(crate) name: String,
    /// A text, a number, a truth value or a list of texts, without secrets. `Null` if the option
    /// is not set.
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    CommandLine,
    /// The name of the variable.
    Environment(String),
    /// The path, and the line.
    File(String, usize),
    Default,
}

/// Returns the options of `command`, in its order, as `matches` and `file` give them.
pub(crate) fn effective(
    command: &Command,
    matches: &ArgMatches,
    file: Option<&ConfigFile>,
) -> Vec<EffectiveOption> {
    let options = command.get_arguments();
    let options = options.filter(|option| config_file::is_allowed(option));
    let effective = options.map(|option| {
        let name = option.get_long().unwrap_or_default();
        EffectiveOption {
            name: name.to_owned(),
            value: value(option, matches),
            origin: origin(option, matches, file),
        }
    });
    effective.collect()
}

fn origin(option: &Arg, matches: &ArgMatches, file: Option<&ConfigFile>) -> Origin {
    let name = option.get_long().unwrap_or_default();
    let variable = option.get_env().unwrap_or_default();
    let in_file = file.and_then(|file| Some((file.path(), file.line(name)?)));
    match (matches.value_source(option.get_id().as_str()), in_file) {
        (Some(ValueSource::CommandLine), _) => Origin::CommandLine,
        (Some(ValueSource::EnvVariable), _) => {
            Origin::Environment(variable.to_string_lossy().into_owned())
        }
        (_, Some((path, line))) => Origin::File(path.display().to_string(), line),
        (_, None) => Origin::Default,
    }
}

fn value(option: &Arg, matches: &ArgMatches) -> Value {
    let id = option.get_id().as_str();
    if config_file::is_flag(option) {
        return Value::from(matches.get_flag(id));
    }
    let texts = matches.get_raw(id).unwrap_or_default();
    let mut texts = texts.map(|text| text.to_string_lossy());
    if option.get_value_delimiter().is_some() {
        return match texts.map(Value::from).collect::<Vec<_>>() {
            texts if texts.is_empty() => Value::Null,
            texts => Value::from(texts),
        };
    }
    match texts.next_back() {
        Some(text) => typed(&without_secrets(option, &text)),
        None => Value::Null,
    }
}

/// Returns a whole number as a number, everything else as text.
pub(crate) fn typed(text: &str) -> Value {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<i64>() {
        Ok(number) if is_number => Value::from(number),
        _ => Value::from(text),
    }
}

fn without_secrets(option: &Arg, text: &str) -> String {
    match option.get_long() {
        Some("store") => redact_url(text),
        Some("database") => redact_database_url(text),
        _ if option.is_hide_env_values_set() => "(hidden)".to_owned(),
        _ => text.to_owned(),
    }
}
