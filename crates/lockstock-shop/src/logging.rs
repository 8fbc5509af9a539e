//! Logs: for people on a terminal, as JSON lines otherwise; always on standard error.
//!
//! A reader that stalls does not stall the server: lines wait in a bounded buffer, and those
//! that find it full are dropped.
//!
//! No line holds a password, a body or a query string. `tracing` escapes control characters
//! in both forms, so that a client cannot forge a line.

use std::io::{IsTerminal, stderr};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How many lines wait in the buffer: a second's or two of a busy server's. Its memory is taken
/// when it is made, 32 bytes a line.
const MAX_LINES: usize = 16_384;

/// Starts logging what passes `filter`, in `tracing`'s syntax: `info`, or
/// `warn,lockstock=debug`.
///
/// The guard writes what is still buffered when it is dropped.
///
/// # Errors
///
/// When the filter cannot be read.
pub(crate) fn start(filter: &str) -> anyhow::Result<WorkerGuard> {
    let filter = EnvFilter::try_new(filter).map_err(|why| {
        anyhow::anyhow!(
            "--log '{filter}' cannot be read ({why}): write error, warn, info, debug, or \
             something like warn,lockstock=debug"
        )
    })?;
    // Warns of parameters of a URL that it does not know, with their values.
    let filter = filter.add_directive("sqlx_postgres::options=off".parse()?);
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_LINES)
        .finish(stderr());
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    if stderr().is_terminal() {
        registry.with(lines.with_target(false)).init();
    } else {
        let json = lines.json().flatten_event(true).with_span_list(false);
        registry.with(json).init();
    }
    Ok(guard)
}
