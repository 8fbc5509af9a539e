//! Logging to standard error: plain text on a terminal, JSON lines otherwise.
//!
//! A stalled reader does not stall the server: lines wait in a bounded buffer and are dropped if
//! it is full.
//!
//! No line contains a password, a body or a query string. `tracing` escapes control characters in
//! both formats, so that a client cannot forge a line.

use std::io::{IsTerminal, stderr};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Maximum number of buffered lines: what a busy server logs in one or two seconds. The buffer is
/// allocated at the start, with 32 bytes for each line.
const MAX_LINES: usize = 16_384;

/// Starts logging the events that match `filter`, in the syntax of `tracing`: `info`, or
/// `warn,lockstock=debug`.
///
/// The guard writes the buffered lines when it is dropped.
///
/// # Errors
///
/// If the filter is invalid.
pub(crate) fn start(filter: &str) -> anyhow::Result<WorkerGuard> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        anyhow::anyhow!(
            "--log '{filter}' is invalid ({error}): use error, warn, info, debug, or \
             something like warn,lockstock=debug"
        )
    })?;
    // Logs unknown URL parameters with their values, which may be secret.
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
