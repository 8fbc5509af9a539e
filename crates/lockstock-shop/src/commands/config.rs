//! `lockstock config`: shows the options and where each is from, and prints a sample of the
//! configuration file.

mod sample;

use std::io::Write;

use clap::{Args, Command, Subcommand};
use serde_json::{Value, json};

use super::serve::ServeArgs;
use crate::cli::effective_options::{EffectiveOption, Origin};

const PRINT_HELP: &str = "\
The output is a configuration file with a comment about the origin of each value. Users, passwords
and queries of URLs are left out. Options that have neither a value nor a default are commented out.

With --json: {\"options\": {NAME: {\"value\": …, \"origin\": \"command line\"|\"environment\"|\"file\"|
\"default\", \"variable\": …, \"file\": …, \"line\": …}}}. The last three are there if they apply.

Examples:
  lockstock config print --config /etc/lockstock/lockstock.toml
  lockstock config print --update-lease 5s --json | jq '.options[\"update-lease\"]'";

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration, and show each option with its value and its origin
    #[command(args_override_self = true, after_help = PRINT_HELP)]
    Print(Box<PrintArgs>),
    /// Print a configuration file in which each option is explained and has its default
    Sample,
}

/// The options of `lockstock serve`, and how to show them.
#[derive(Debug, Args)]
pub(crate) struct PrintArgs {
    /// Parsed as `serve` parses them, so that mistakes are found.
    #[command(flatten)]
    serve: ServeArgs,

    /// Print JSON instead of a configuration file
    #[arg(long)]
    json: bool,

    /// What to print, set after the command line is parsed.
    #[arg(skip)]
    pub(crate) options: Vec<EffectiveOption>,
}

pub(crate) fn run(args: ConfigArgs, command: &Command) -> anyhow::Result<()> {
    let text = match args.command {
        ConfigCommand::Print(print) if print.json => format!("{}\n", to_json(&print.options)),
        ConfigCommand::Print(print) => to_toml(&print.options),
        ConfigCommand::Sample => sample::text(command),
    };
    Ok(anstream::stdout().write_all(text.as_bytes())?)
}

fn to_toml(options: &[EffectiveOption]) -> String {
    let lines = options.iter().map(|option| {
        let name = &option.name;
        let origin = match &option.origin {
            Origin::CommandLine => format!("command line: --{name}"),
            Origin::Environment(variable) => format!("environment: {variable}"),
            Origin::File(path, line) => format!("file: {path}:{line}"),
            Origin::Default => "default".to_owned(),
        };
        match &option.value {
            Value::Null => format!("# {name} is not set\n"),
            // Texts and lists have the same form in TOML.
            value => format!("{:<50} # {origin}\n", format!("{name} = {value}")),
        }
    });
    lines.collect()
}

fn to_json(options: &[EffectiveOption]) -> Value {
    let options = options.iter().map(|option| {
        let mut shown = json!({ "value": option.value });
        match &option.origin {
            Origin::CommandLine => shown["origin"] = "command line".into(),
            Origin::Environment(variable) => {
                shown["origin"] = "environment".into();
                shown["variable"] = variable.as_str().into();
            }
            Origin::File(path, line) => {
                shown["origin"] = "file".into();
                shown["file"] = path.as_str().into();
                shown["line"] = (*line).into();
            }
            Origin::Default => shown["origin"] = "default".into(),
        }
        (option.name.clone(), shown)
    });
    json!({ "options": options.collect::<serde_json::Map<_, _>>() })
}
