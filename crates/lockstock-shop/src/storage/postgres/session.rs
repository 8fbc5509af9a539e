//! What a session of Postgres is set up with, and the check that a connection is a session.

use std::time::Duration;

use anyhow::ensure;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

use super::super::migrations;
use super::advice;

/// Returns the statements that set up a session. The last one returns the time of the database.
///
/// The database gives up first, so that it never executes a statement that the server has stopped
/// waiting for. If a server is paused or dies in a transaction, its rows are unlocked. And
/// batches rely on READ COMMITTED, which rereads a row that has changed while they waited for it.
///
/// Each statement is planned once. With arrays of different lengths Postgres would plan most calls
/// anew, which takes longer than to carry them out. So that a plan from the time when a table was
/// empty stays right, it always uses an index: statements read by key, and lists in the order of the
/// primary key.
pub(super) fn settings(timeout: Duration) -> String {
    let timeout_ms = timeout.as_millis().max(10);
    let statement_timeout_ms = timeout_ms - timeout_ms / 10;
    let tcp_user_timeout_ms = timeout_ms * 3;
    let keepalive_secs = timeout.as_secs().clamp(1, 60);
    format!(
        "SET client_min_messages = warning;
         SET statement_timeout = {statement_timeout_ms};
         SET idle_in_transaction_session_timeout = {timeout_ms};
         SET tcp_keepalives_idle = {keepalive_secs};
         SET tcp_keepalives_interval = {keepalive_secs};
         SET tcp_keepalives_count = 3;
         SET tcp_user_timeout = {tcp_user_timeout_ms};
         SET default_transaction_isolation = 'read committed';
         SET plan_cache_mode = force_generic_plan;
         SET enable_seqscan = off;
         SET jit = off;
         SELECT clock_timestamp()"
    )
}

/// Opens a session of its own without the timeouts of [`settings`], and creates or migrates the tables.
pub(super) async fn open_migrated(
    options: &PgConnectOptions,
    limit: Duration,
) -> anyhow::Result<PgConnection> {
    let no_reply = |_| anyhow::anyhow!("no reply within {limit:?}");
    let mut connection = timeout(limit, PgConnection::connect_with(options))
        .await
        .map_err(no_reply)?
        .map_err(|error| advice::cannot_connect(options, &error))?;
    timeout(limit, require_own(&mut connection, options))
        .await
        .map_err(no_reply)??;
    // A migration may take longer than a call.
    sqlx::raw_sql("SET client_min_messages = warning")
        .execute(&mut connection)
        .await?;
    let migrator = migrations::postgres();
    match migrator.run(&mut connection).await {
        Ok(()) => Ok(connection),
        Err(error) => Err(advice::cannot_migrate(options, &migrator, error)),
    }
}

/// Fails if a pooler gives a connection another session for each transaction: the settings, the
/// prepared statements and the lock of the migrations would be those of other clients.
///
/// Two open connections then have the same session, or one has another while the first is in a
/// transaction.
pub(super) async fn require_own(
    connection: &mut PgConnection,
    options: &PgConnectOptions,
) -> anyhow::Result<()> {
    let first = process_id(connection).await?;
    let mut other = PgConnection::connect_with(options).await?;
    sqlx::raw_sql("BEGIN").execute(&mut other).await?;
    let second = process_id(&mut other).await?;
    let is_shared = first == second || process_id(connection).await? != first;
    other.close().await?;
    ensure!(
        !is_shared,
        "a pooler shares sessions between clients (PgBouncer with pool_mode = transaction or \
         statement): use pool_mode = session, or connect to Postgres itself. Lockstock keeps \
         --database-connections sessions and needs their settings and prepared statements"
    );
    Ok(())
}

async fn process_id(connection: &mut PgConnection) -> sqlx::Result<i32> {
    let query = sqlx::raw_sql("SELECT pg_backend_pid()");
    query.fetch_one(connection).await?.try_get(0)
}
