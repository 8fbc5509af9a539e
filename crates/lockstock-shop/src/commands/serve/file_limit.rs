//! The limit on open files, of which each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Files beside connections: the log, the listening sockets, operators, the runtime, the lock store.
const BASE_FILES: u64 = 64;
/// A SQLite connection opens the database, its WAL and its index.
const FILES_PER_DATABASE_CONNECTION: u64 = 3;

/// Raises the limit of this process as far as the system allows, and returns how many clients may
/// connect without taking a file that the database needs: at most `max_connections`.
///
/// # Errors
///
/// If the limit leaves no file for a client.
pub(super) fn client_connections(
    max_connections: usize,
    database_connections: u32,
) -> anyhow::Result<usize> {
    let reserved = reserved(database_connections);
    let wanted = reserved.saturating_add(max_connections as u64);
    let limit = raise(wanted);
    if limit >= wanted {
        return Ok(max_connections);
    }
    let possible = limit.saturating_sub(reserved);
    anyhow::ensure!(
        possible > 0,
        "at most {limit} files may be open, and the server needs {reserved} beside its clients: \
         raise the limit (`ulimit -n`, LimitNOFILE= of systemd) or lower --database-connections"
    );
    warn!(
        max_connections = possible,
        limit,
        "fewer connections than --max-connections: the limit on open files is too low. Raise it \
         (`ulimit -n {wanted}`, LimitNOFILE= of systemd)"
    );
    // Below `max_connections`, which is a usize.
    Ok(usize::try_from(possible).unwrap_or(max_connections))
}

/// Returns the number of files that the server needs beside its clients.
pub(in crate::commands) fn reserved(database_connections: u32) -> u64 {
    BASE_FILES + FILES_PER_DATABASE_CONNECTION * u64::from(database_connections)
}

/// Raises the limit to `wanted`, or as far as possible, and returns it.
fn raise(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current_limit = current.unwrap_or(u64::MAX);
    if current_limit >= wanted {
        return current_limit;
    }
    let raised = wanted.min(maximum.unwrap_or(u64::MAX));
    let limit = Rlimit {
        current: Some(raised),
        maximum,
    };
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => raised,
        Err(_) => current_limit,
    }
}
