//! The connections to Postgres: bounded in number, in age, and in the time that a call waits for
//! a connection or a reply.
//!
//! Not sqlx's pool: it hides why it cannot connect and retries until the call times out, lets
//! each caller discover one dead connection, and keeps connections that have become read-only.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::error::Fault;
use super::super::{Connections, Result, StorageError, StorageOptions};
use super::clock::DatabaseClock;
use super::refusals::NewestSnapshot;
use super::{advice, session};
use crate::health::{Condition, Health};

/// A connection that was used this recently is not pinged before its next use.
const FRESH: Duration = Duration::from_millis(100);

/// How long an idle connection may take to reply to a ping. Less than the timeout of a call,
/// which has to open another connection if there is no reply.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Age at which a connection is closed: after a failover, the name of the host may belong to
/// another server.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Fails like every write of a sale, for want of a right or of a table too, and writes nothing.
const PROBE: &str = "UPDATE products SET stock = stock WHERE false;
    INSERT INTO ledger SELECT * FROM ledger WHERE false;
    DELETE FROM idempotency WHERE false";

/// How long closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A pool whose calls are bounded in time.
#[derive(Clone)]
pub(super) struct Database {
    pool: Arc<Pool>,
    pub(super) options: StorageOptions,
    /// Permits for connections that wait for a lock: they are never all connections.
    pub(super) lock_wait_permits: Arc<Semaphore>,
    pub(super) newest_snapshot: NewestSnapshot,
    pub(super) clock: DatabaseClock,
}

impl Database {
    pub(super) fn connections(&self) -> Connections {
        let max = self.pool.max_connections;
        Connections {
            in_use: max.saturating_sub(self.pool.permits.available_permits()),
            idle: self.pool.idle().len(),
            max,
        }
    }

    pub(super) async fn connect(url: &str, options: StorageOptions) -> anyhow::Result<Self> {
        let connect_options = PgConnectOptions::from_str(url)
            .map_err(|error| advice::invalid_url(url, &error))?
            .application_name("lockstock")
            // Only floats would need it, and PgBouncer does not know it.
            .extra_float_digits(None);
        let pool = Pool {
            settings: session::settings(options.timeout),
            timeout: options.timeout,
            permits: Arc::new(Semaphore::new(max_connections(options))),
            max_connections: max_connections(options),
            idle: Mutex::new(VecDeque::new()),
            generation: AtomicU64::new(0),
            health: Arc::new(Health::new("database")),
            newest_snapshot: NewestSnapshot::default(),
            clock: DatabaseClock::default(),
            connect_options,
        };
        let first = session::open_migrated(&pool.connect_options, options.timeout).await?;
        first.close().await?;
        let lock_waits = usize::try_from(options.max_connections / 4);
        Ok(Self {
            newest_snapshot: pool.newest_snapshot.clone(),
            clock: pool.clock.clone(),
            pool: Arc::new(pool),
            options,
            lock_wait_permits: Arc::new(Semaphore::new(lock_waits.unwrap_or(1).max(1))),
        })
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        &self.pool.health
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
        let permit = timeout_at(deadline, self.pool.permits.clone().acquire_owned())
            .await
            .map_err(|_| StorageError::not_started())?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        self.call(permit, deadline, limit, work).await
    }

    async fn call<T, W>(
        &self,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
        limit: Duration,
        work: W,
    ) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>>,
    {
        let open = self.pool.connection(deadline).await?;
        let mut lease = Lease {
            pool: self.pool.clone(),
            open: Some(open),
            permit: Some(permit),
        };
        let Some(open) = lease.open.as_mut() else {
            return Err(StorageError::bug("a connection is leased twice"));
        };
        let started = Instant::now();
        match timeout_at(deadline, work(&mut open.connection)).await {
            Ok(Ok(value)) => {
                lease.give_back();
                Ok(value)
            }
            Ok(Err(error)) => {
                lease.fail(&error);
                Err(error)
            }
            Err(_) => {
                let waited = started.elapsed();
                lease.close();
                // Otherwise the call has waited for a connection for too long.
                if waited >= limit / 2 {
                    let reason = format!("no reply within {limit:?}");
                    self.pool.health.report(Condition::Down, reason);
                }
                Err(StorageError::timeout(limit))
            }
        }
    }

    /// Checks that a write would succeed now, within `limit`, and records it.
    pub(super) async fn check(&self, limit: Duration) {
        let pool = &self.pool;
        let deadline = Instant::now() + limit;
        let is_up = pool.health.is_up();
        if is_up && let Ok(permit) = pool.permits.clone().try_acquire_owned() {
            let check = self.call(permit, deadline, limit, |connection| {
                Box::pin(async move {
                    sqlx::raw_sql(PROBE).execute(connection).await?;
                    Ok(())
                })
            });
            if let Err(error) = in_time(deadline, limit, check).await {
                pool.health.report(error.condition(), error.reason());
            }
            return;
        }
        // On a new connection, because all are in use, or to find the server that the address leads
        // to now. The row needs space, because the disk may have been full.
        const WRITE: &str = "BEGIN;
            UPDATE products SET stock = stock WHERE false;
            INSERT INTO ledger SELECT * FROM ledger WHERE false;
            INSERT INTO idempotency (caller, key, fingerprint, answer, created_at)
                SELECT '', gen_random_uuid()::text, '',
                    convert_to(string_agg(md5(random()::text), ''), 'UTF8'), now()
                FROM generate_series(1, 120);
            ROLLBACK";
        let check = async {
            let mut open = pool.open(deadline).await?;
            sqlx::raw_sql(WRITE).execute(&mut open.connection).await?;
            Ok::<_, StorageError>(open)
        };
        match in_time(deadline, limit, check).await {
            Ok(open) => {
                if !is_up {
                    // Those that were opened before may belong to another server.
                    pool.condemn(pool.generation());
                    pool.health.recovered();
                }
                close(open);
            }
            Err(error) => pool.health.report(error.condition(), error.reason()),
        }
    }

    /// Waits for running calls, and closes the connections.
    pub(super) async fn close(&self) {
        let pool = &self.pool;
        let all = u32::try_from(pool.max_connections).unwrap_or(u32::MAX);
        let _permits = pool.permits.acquire_many(all).await;
        pool.permits.close();
        let idle = std::mem::take(&mut *pool.idle());
        for open in idle {
            let _ = timeout(CLOSE_TIMEOUT, open.connection.close()).await;
        }
    }
}

struct Pool {
    connect_options: PgConnectOptions,
    settings: String,
    timeout: Duration,
    permits: Arc<Semaphore>,
    max_connections: usize,
    /// The one used last is at the back. At most one for each permit.
    idle: Mutex<VecDeque<Open>>,
    /// Rises when a connection is found dead: the others of its generation are not trusted.
    generation: AtomicU64,
    health: Arc<Health>,
    newest_snapshot: NewestSnapshot,
    clock: DatabaseClock,
}

struct Open {
    connection: PgConnection,
    generation: u64,
    opened_at: Instant,
    used_at: Instant,
}

impl Pool {
    /// Returns an idle connection that works, or opens one.
    async fn connection(&self, deadline: Instant) -> Result<Open> {
        loop {
            let idle = self.idle().pop_back();
            let Some(mut open) = idle else {
                return self.open(deadline).await;
            };
            if !self.is_current(&open) {
                close(open);
                continue;
            }
            if open.used_at.elapsed() < FRESH {
                return Ok(open);
            }
            let limit = PING_TIMEOUT.min(self.timeout / 2);
            match timeout(limit, open.connection.ping()).await {
                Ok(Ok(())) => return Ok(open),
                // Its peers were as idle, and would fail their callers the same way.
                _ => self.condemn(open.generation),
            }
        }
    }

    /// Opens a connection. The first failure is returned: the caller may retry later.
    async fn open(&self, deadline: Instant) -> Result<Open> {
        let (generation, started) = (self.generation(), Instant::now());
        let opened = async {
            let mut connection = PgConnection::connect_with(&self.connect_options).await?;
            let settings = sqlx::raw_sql(AssertSqlSafe(self.settings.clone()));
            if let Some(row) = settings.fetch_all(&mut connection).await?.last() {
                self.clock.note(row.try_get(0)?);
            }
            Ok::<_, sqlx::Error>(connection)
        };
        let opened = match timeout_at(deadline, opened).await {
            Ok(opened) => opened.map_err(StorageError::cannot_connect),
            Err(_) => Err(StorageError::timeout(self.timeout)),
        };
        match opened {
            Ok(connection) => Ok(Open {
                connection,
                generation,
                opened_at: Instant::now(),
                used_at: Instant::now(),
            }),
            Err(error) => {
                // A short attempt proves nothing: its call has waited for a permit.
                if error.fault().is_some() || started.elapsed() >= self.timeout / 2 {
                    self.health.report(error.condition(), error.reason());
                }
                Err(error)
            }
        }
    }

    /// Records the condition that an error proves.
    fn report(&self, error: &StorageError) {
        if error.fault().is_some() {
            self.health.report(error.condition(), error.reason());
        }
    }

    /// Closes all idle connections of `generation` and those before it, and lets those in use be
    /// closed when they return.
    fn condemn(&self, generation: u64) {
        let next = self.generation.compare_exchange(
            generation,
            generation + 1,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        // Otherwise they are condemned already.
        if next.is_ok() {
            self.newest_snapshot.forget();
            let condemned = std::mem::take(&mut *self.idle());
            condemned.into_iter().for_each(close);
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn is_current(&self, open: &Open) -> bool {
        open.generation == self.generation() && open.opened_at.elapsed() < MAX_AGE
    }

    fn put_back(&self, mut open: Open) {
        if !self.is_current(&open) {
            return close(open);
        }
        open.used_at = Instant::now();
        let mut idle = self.idle();
        idle.push_back(open);
        // Those that are never needed get old at the front.
        while idle
            .front()
            .is_some_and(|open| open.used_at.elapsed() > MAX_AGE)
        {
            idle.pop_front().into_iter().for_each(close);
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use, with its permit. If the call is dropped, the connection is used again
/// once the abandoned statement has ended.
struct Lease {
    pool: Arc<Pool>,
    open: Option<Open>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Returns the connection after a call that has read all its replies.
    fn give_back(mut self) {
        // The rollback of a dropped transaction is sent with the next statement. Without one,
        // the transaction would stay open.
        let is_clean = |open: &Open| !open.connection.should_flush();
        if self.open.as_ref().is_some_and(is_clean)
            && let Some(open) = self.open.take()
        {
            self.pool.put_back(open);
        }
    }

    fn fail(mut self, error: &StorageError) {
        let Some(fault) = error.fault() else {
            return;
        };
        if fault != Fault::Full
            && let Some(open) = self.open.take()
        {
            // The others are from the same server. While it is known to be read-only, they
            // serve reads.
            if fault == Fault::Lost || self.pool.health.is_up() {
                self.pool.condemn(open.generation);
            }
            close(open);
        }
        self.pool.report(error);
    }

    fn close(mut self) {
        self.open = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        let (pool, permit) = (self.pool.clone(), self.permit.take());
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(pool.timeout, open.connection.ping()).await {
                pool.put_back(open);
            }
            drop(permit);
        });
    }
}

async fn in_time<T>(
    deadline: Instant,
    limit: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout_at(deadline, call)
        .await
        .unwrap_or_else(|_| Err(StorageError::timeout(limit)))
}

/// Closes a connection in the background.
fn close(open: Open) {
    tokio::spawn(timeout(CLOSE_TIMEOUT, open.connection.close()));
}

fn max_connections(options: StorageOptions) -> usize {
    usize::try_from(options.max_connections).map_or(usize::MAX >> 3, |max| max.max(2))
}
