//! A configuration file that explains each option.

use clap::{Arg, Command};
use serde_json::Value;

use crate::cli::config_file::{is_allowed, is_flag};
use crate::cli::effective_options::typed;

const HEAD: &str = "\
# Options of Lockstock: `lockstock --config FILE`, or LOCKSTOCK_CONFIG=FILE.
#
# Each name is that of an option without its dashes. An option on the command line comes first, then
# its environment variable (LOCKSTOCK_UPDATE_LEASE), then this file, then the default. Each line that
# is commented out is the default, or an example if there is none. A TIME is a number and a unit:
# 500ms, 3s, 10m, 12h, 1d.
#
# `lockstock config print --config FILE` checks a file and shows the result. This file is the output of
# `lockstock config sample`.
";

/// Width of a line of explanation, with its `# `.
const WIDTH: usize = 100;

/// Values for options that have no default.
const EXAMPLES: [(&str, &str); 14] = [
    ("tls-cert", "\"/etc/lockstock/fullchain.pem\""),
    ("tls-key", "\"/etc/lockstock/privkey.pem\""),
    ("public-url", "\"https://shop.example.com\""),
    ("trusted-proxies", "[\"10.0.0.0/8\", \"unix\"]"),
    ("cors-origins", "[\"https://shop.example.com\"]"),
    ("replicas", "[\"http://10.0.0.2:8000\"]"),
    ("store-file", "\"/run/secrets/lockstock-store\""),
    ("database-file", "\"/run/secrets/lockstock-database\""),
    ("api-key-file", "\"/etc/lockstock/api-keys\""),
    ("otlp-endpoint", "\"http://127.0.0.1:4318\""),
    ("otlp-sample", "0.1"),
    ("rate-limit", "\"600/m\""),
    ("worker-threads", "4"),
    ("operate-listen", "\"127.0.0.1:8001\""),
];

/// Returns a file with the options of `serve`.
pub(super) fn text(serve: &Command) -> String {
    let mut text = HEAD.to_owned();
    for option in serve.get_arguments().filter(|option| is_allowed(option)) {
        text.push('\n');
        for paragraph in explanation(option) {
            for line in wrap(&paragraph, WIDTH - 2) {
                text.push_str(&format!("# {line}\n"));
            }
        }
        let name = option.get_long().unwrap_or_default();
        text.push_str(&format!("#{name} = {}\n", default(option)));
    }
    text
}

/// Returns the help of an option, and that of each value if there are few.
fn explanation(option: &Arg) -> Vec<String> {
    let help = option.get_help().map(ToString::to_string);
    let mut paragraphs = vec![help.unwrap_or_default()];
    if !is_flag(option) {
        let values = option.get_possible_values().into_iter();
        paragraphs.extend(values.map(|value| {
            let help = value.get_help().map(ToString::to_string);
            format!("{}: {}", value.get_name(), help.unwrap_or_default())
        }));
    }
    paragraphs
}

fn default(option: &Arg) -> String {
    let name = option.get_long().unwrap_or_default();
    if is_flag(option) {
        return "false".to_owned();
    }
    if let Some(value) = option.get_default_values().first() {
        return typed(&value.to_string_lossy()).to_string();
    }
    match EXAMPLES.iter().find(|(known, _)| *known == name) {
        Some((_, example)) => (*example).to_owned(),
        None => Value::from("").to_string(),
    }
}

/// Splits a text at spaces into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if let Some(line) = lines.last_mut() {
            let length = line.chars().count();
            if length > 0 && length + 1 + word.chars().count() > width {
                lines.push(word.to_owned());
            } else {
                if length > 0 {
                    line.push(' ');
                }
                line.push_str(word);
            }
        }
    }
    lines
}
