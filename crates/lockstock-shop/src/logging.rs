//! Logging to standard error: by default text on a terminal, JSON lines otherwise.
//!
//! A slow reader of standard error does not block the server: lines wait in a bounded buffer,
//! and lines that do not fit are dropped and counted.
//!
//! No line contains a password, a body or a query string. `tracing` escapes control characters
//! in both formats, so a client cannot forge a line.

mod line_writer;

use std::io::{IsTerminal, stderr};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, registry};

use self::line_writer::{FlushGuard, LineWriter};

/// The name of the span around a request: its fields are part of each line about the request. Other
/// spans are for traces.
pub(crate) const REQUEST_SPAN: &str = "request";

/// A layer that observes spans beside the log.
pub(crate) type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON otherwise
    Auto,
    /// A line of text for a person
    Text,
    /// One JSON object a line
    Json,
}

impl LogFormat {
    fn is_text(self) -> bool {
        match self {
            Self::Auto => stderr().is_terminal(),
            Self::Text => true,
            Self::Json => false,
        }
    }
}

/// Starts logging the lines that pass `filter`: `info`, or `warn,lockstock=debug`. The filter does not
/// hold for `spans`.
///
/// The guard writes the buffered lines when it is dropped.
///
/// # Errors
///
/// If the filter is invalid, or the system provides no further thread.
pub(crate) fn start(
    filter: &str,
    format: LogFormat,
    spans: Option<SpanLayer>,
) -> anyhow::Result<FlushGuard> {
    let targets = parse_filter(filter).with_context(|| {
        format!(
            "invalid --log '{filter}': expected error, warn, info, debug, trace or off, or a \
             filter such as warn,lockstock=debug"
        )
    })?;
    // Logs unknown parameters of a URL with their values.
    let targets = targets.with_target("sqlx_postgres::options", LevelFilter::OFF);
    let (writer, guard) = LineWriter::start(stderr(), |lines| {
        tracing::warn!(
            lines,
            "log lines dropped: standard error is read too slowly"
        );
    })
    .context("cannot start the thread that writes the log")?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = if format.is_text() {
        // Colours are for a terminal.
        let lines = lines.with_ansi(stderr().is_terminal());
        lines.with_target(false).boxed()
    } else {
        let json = lines.json().flatten_event(true).with_span_list(false);
        json.boxed()
    };
    match spans {
        // Filters of single layers cost time at each line and span.
        None => registry().with(lines).with(targets).init(),
        Some(spans) => {
            let is_for_lines =
                filter_fn(|metadata| !metadata.is_span() || metadata.name() == REQUEST_SPAN);
            let lines = lines.with_filter(targets.and(is_for_lines));
            registry().with(vec![spans, lines.boxed()]).init();
        }
    }
    Ok(guard)
}

/// Parses levels and `target=level` pairs, separated by commas.
///
/// `Targets` itself takes a misspelt level for a target, and then logs nothing.
fn parse_filter(filter: &str) -> anyhow::Result<Targets> {
    let mut targets = Targets::new();
    for directive in filter.split(',').map(str::trim) {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, directive),
        };
        // An empty level would be `error`.
        let parsed = level.parse::<LevelFilter>().ok();
        let Some(parsed) = parsed.filter(|_| !level.is_empty()) else {
            bail!("'{level}' is not a level");
        };
        targets = match target {
            None => targets.with_default(parsed),
            Some(target) => {
                let is_path = |c: char| c.is_alphanumeric() || "_:-.".contains(c);
                ensure!(
                    !target.is_empty() && target.chars().all(is_path),
                    "'{target}' is not a target"
                );
                targets.with_target(target, parsed)
            }
        };
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_has_levels_and_targets() {
        let filter = parse_filter("warn,lockstock=debug, sqlx=off").unwrap();
        let enables = |target, level| filter.would_enable(target, &level);
        assert!(enables("hyper", Level::WARN) && !enables("hyper", Level::INFO));
        // A prefix, so the other crates of the workspace are included.
        assert!(enables("lockstock_http::lock", Level::DEBUG));
        assert!(!enables("lockstock", Level::TRACE));
        assert!(!enables("sqlx::query", Level::ERROR));
        assert!(
            parse_filter("INFO")
                .unwrap()
                .would_enable("any", &Level::INFO)
        );
        assert!(
            !parse_filter("off")
                .unwrap()
                .would_enable("any", &Level::ERROR)
        );
        assert!(
            !parse_filter("a=warn")
                .unwrap()
                .would_enable("b", &Level::ERROR)
        );
    }

    #[test]
    fn an_invalid_filter_is_an_error() {
        for (filter, part) in [
            ("", "'' is not a level"),
            ("verbose", "'verbose' is not a level"),
            ("lockstock", "'lockstock' is not a level"),
            ("warn,lockstock=loud", "'loud' is not a level"),
            ("warn,=debug", "'' is not a target"),
            ("warn,a[{b=1}]=debug", "'1}]=debug' is not a level"),
            ("warn,a[b]=debug", "'a[b]' is not a target"),
            ("warn,", "'' is not a level"),
        ] {
            let error = parse_filter(filter).unwrap_err().to_string();
            assert_eq!(error, part, "{filter}");
        }
    }
}
