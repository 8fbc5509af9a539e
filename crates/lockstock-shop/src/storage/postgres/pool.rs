//! The connections to Postgres: bounded in number, and in the time that a call waits for a
//! connection or a reply.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::{Result, StorageError, StorageOptions, migrations};
use super::refusals::NewestSnapshot;

/// A connection that was used this recently is not pinged before its next use.
const FRESH: Duration = Duration::from_millis(100);

/// A pool whose calls are bounded in time.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    pub(super) options: StorageOptions,
    /// Permits for connections that wait for a lock: they are never all connections.
    pub(super) lock_wait_permits: Arc<Semaphore>,
    pub(super) newest_snapshot: NewestSnapshot,
}

impl Database {
    pub(super) async fn connect(url: &str, options: StorageOptions) -> anyhow::Result<Self> {
        let connect_options = PgConnectOptions::from_str(url)?.application_name("lockstock");
        let limit = options.timeout;
        // The first connection is made outside the pool, for its error: the pool retries, and
        // finally reports only a timeout.
        let mut first = timeout(limit, PgConnection::connect_with(&connect_options))
            .await
            .map_err(|_| anyhow::anyhow!("no reply within {limit:?}"))??;
        // Not through the pool, because a migration may take longer than a call.
        migrations::postgres().run(&mut first).await?;
        first.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections.max(2))
            .acquire_timeout(limit)
            .test_before_acquire(false)
            // A ping before each call would cost a round trip. In steady use it would prove
            // little: a connection that dies fails the call that uses it. An idle connection may
            // have died unnoticed in a restart, with all the others.
            .before_acquire(|connection, metadata| {
                Box::pin(
                    async move { Ok(metadata.idle_for < FRESH || connection.ping().await.is_ok()) },
                )
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // The database gives up first, so that it never executes a statement that
                    // the server has stopped waiting for. If a server is paused or dies in a
                    // transaction, its rows are unlocked. And batches rely on READ COMMITTED,
                    // which rereads a row that has changed while they waited for it.
                    let timeout_ms = limit.as_millis().max(10);
                    let statement_timeout_ms = timeout_ms - timeout_ms / 10;
                    let tcp_user_timeout_ms = timeout_ms * 3;
                    let keepalive_secs = limit.as_secs().clamp(1, 60);
                    let text = format!(
                        "SET statement_timeout = {statement_timeout_ms};
                         SET idle_in_transaction_session_timeout = {timeout_ms};
                         SET tcp_keepalives_idle = {keepalive_secs};
                         SET tcp_keepalives_interval = {keepalive_secs};
                         SET tcp_keepalives_count = 3;
                         SET tcp_user_timeout = {tcp_user_timeout_ms};
                         SET default_transaction_isolation = 'read committed'"
                    );
                    sqlx::raw_sql(AssertSqlSafe(text))
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .connect_with(connect_options)
            .await?;
        let lock_waits = usize::try_from(options.max_connections / 4);
        Ok(Self {
            pool,
            options,
            lock_wait_permits: Arc::new(Semaphore::new(lock_waits.unwrap_or(1).max(1))),
            newest_snapshot: NewestSnapshot::default(),
        })
    }

    /// Runs `work` on a connection. If it times out, the connection is closed: its next reply
    /// would belong to the abandoned statement.
    pub(super) async fn with_connection<T, W>(&self, work: W) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>>,
    {
        // Includes the wait for a connection.
        let limit = self.options.timeout;
        let deadline = Instant::now() + limit;
        let mut checked_out = CheckedOut {
            connection: Some(self.pool.acquire().await?),
            timeout: limit,
        };
        let Some(connection) = checked_out.connection.as_mut() else {
            return Err(StorageError::bug("a connection is checked out twice"));
        };
        if let Ok(result) = timeout_at(deadline, work(connection)).await {
            return result;
        }
        if let Some(connection) = checked_out.connection.take() {
            drop(connection.detach());
        }
        Err(StorageError::timeout(limit))
    }
}

/// A connection that returns to its pool within a timeout, or is closed. sqlx pings a returning
/// connection; without a reply it would occupy its slot of the pool forever.
struct CheckedOut {
    connection: Option<PoolConnection<sqlx::Postgres>>,
    timeout: Duration,
}

impl Drop for CheckedOut {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            tokio::spawn(timeout(self.timeout, connection.return_to_pool()));
        }
    }
}
