//! Logging to standard error: as text on a terminal, and otherwise as JSON lines.
//!
//! A slow reader does not block the server: lines wait in a bounded buffer, and are dropped if
//! it is full.
//!
//! No line contains a password, a body or a query string. `tracing` escapes control characters
//! in both formats, so that a client cannot forge a line.

use std::io::{IsTerminal, stderr};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Capacity of the buffer in lines: one or two seconds of a busy server. Allocated at the start,
/// with 32 bytes a line.
const MAX_LINES: usize = 16_384;

/// Starts logging what passes `filter`, in `tracing`'s syntax: `info`, or
/// `warn,lockstock=debug`.
///
/// Dropping the guard writes the buffered lines.
///
/// # Errors
///
/// If the filter is malformed.
pub(crate) fn start(filter: &str) -> anyhow::Result<WorkerGuard> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        anyhow::anyhow!(
            "--log '{filter}' is malformed ({error}): use error, warn, info, debug, or \
             something like warn,lockstock=debug"
        )
    })?;
    // This target logs unknown parameters of a URL with their values.
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
