//! Logs: for people on a terminal, as JSON lines otherwise; always on standard error.
//!
//! No line holds a password, a body or a query string. `tracing` escapes control characters
//! in both forms, so that a client cannot forge a line.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging what passes `filter`, in `tracing`'s syntax: `info`, or
/// `warn,lockstock=debug`.
///
/// # Errors
///
/// When the filter cannot be read.
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|why| {
        anyhow::anyhow!("--log '{filter}' cannot be read ({why}): write error, warn, info, debug, or something like warn,lockstock=debug")
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    if stderr().is_terminal() {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(stderr)
                    .with_target(false),
            )
            .init();
    } else {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_span_list(false)
                    .with_writer(stderr),
            )
            .init();
    }
    Ok(())
}
