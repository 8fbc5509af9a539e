//! The connections to Postgres: bounded in number, and in how long anybody waits for one or
//! for what it says.

use std::io::ErrorKind;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::migrations;
use super::super::{Limits, Result, StorageError};

/// A connection used so recently needs no proof of life.
const FRESH: Duration = Duration::from_millis(100);

/// Connections that never keep a caller waiting without bound.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    pub(super) limits: Limits,
    /// Places for writes that wait for a locked row, of one kind and of the other: never all
    /// the connections.
    pub(super) changes_alone: Arc<Semaphore>,
    pub(super) sales_alone: Arc<Semaphore>,
}

impl Database {
    pub(super) async fn connect(url: &str, limits: Limits) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(url)?.application_name("lockstock");
        let limit = limits.timeout;
        // One connection outside the pool first, to hear why there is none: the pool tries
        // again and again, and in the end knows only that it took too long.
        let mut first = timeout(limit, PgConnection::connect_with(&options))
            .await
            .map_err(|_| anyhow::anyhow!("no answer within {limit:?}"))??;
        // On it, because a migration may take longer than a call.
        migrations::postgres().run(&mut first).await?;
        first.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(limits.connections.max(2))
            .acquire_timeout(limit)
            .test_before_acquire(false)
            // Under load a round trip before each call would cost much and prove little: a
            // connection in steady use that dies fails the call it is used for. One that has
            // been idle may have died unseen, with all the others, in a restart.
            .before_acquire(|connection, about| {
                Box::pin(
                    async move { Ok(about.idle_for < FRESH || connection.ping().await.is_ok()) },
                )
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // What we gave up waiting for must not be carried out later, so the
                    // database gives up first. A server of ours that is paused or gone in a
                    // transaction must not keep its rows from the others for ever. And the
                    // batch relies on a row that has changed being looked at again.
                    let milliseconds = limit.as_millis().max(10);
                    let seconds = limit.as_secs().clamp(1, 60);
                    let text = format!(
                        "SET statement_timeout = {};
                         SET idle_in_transaction_session_timeout = {milliseconds};
                         SET tcp_keepalives_idle = {seconds};
                         SET tcp_keepalives_interval = {seconds};
                         SET tcp_keepalives_count = 3;
                         SET tcp_user_timeout = {};
                         SET default_transaction_isolation = 'read committed'",
                        milliseconds - milliseconds / 10,
                        milliseconds * 3,
                    );
                    sqlx::raw_sql(AssertSqlSafe(text))
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        let places = |part| {
            usize::try_from(limits.connections / part)
                .unwrap_or(1)
                .max(1)
        };
        Ok(Self {
            pool,
            limits,
            changes_alone: Arc::new(Semaphore::new(places(2))),
            sales_alone: Arc::new(Semaphore::new(places(4))),
        })
    }

    /// Runs `work` on a connection. One that did not answer in time is thrown away: nobody
    /// knows what it would say next.
    pub(super) async fn run<T, W>(&self, work: W) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>>,
    {
        // Waiting for a connection counts.
        let limit = self.limits.timeout;
        let deadline = Instant::now() + limit;
        let mut borrowed = Borrowed {
            connection: Some(self.pool.acquire().await?),
            limit,
        };
        let Some(connection) = borrowed.connection.as_mut() else {
            return Err(StorageError::closed());
        };
        if let Ok(done) = timeout_at(deadline, work(connection)).await {
            return done;
        }
        if let Some(connection) = borrowed.connection.take() {
            drop(connection.detach());
        }
        let why = format!("no answer within {limit:?}");
        Err(sqlx::Error::Io(std::io::Error::new(ErrorKind::TimedOut, why)).into())
    }
}

/// A connection that goes back to its pool within a limit, or not at all. sqlx pings it on
/// its way, and a ping that nobody answers would keep its place in the pool for ever.
struct Borrowed {
    connection: Option<PoolConnection<sqlx::Postgres>>,
    limit: Duration,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            tokio::spawn(timeout(self.limit, connection.return_to_pool()));
        }
    }
}
