//! Products in one SQLite file: one writer, batched, and readers beside it.
//!
//! SQLite admits one writer at a time. All writes therefore go through one connection. Writes
//! that arrive while a transaction runs share the next one and its one fsync
//! (`synchronous=FULL`: the commit is on the disk before a write returns).

mod backup;
mod checkpoint;
mod command;
pub(super) mod examination;
pub(super) mod export;
pub(super) mod import;
mod orders;
mod records;
mod refusals;
mod writer;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, FromRow, Row, SqliteConnection};
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

pub(super) use self::backup::backup;
use self::command::{Command, DeferredReply, Write};
use self::records::Find;
use self::refusals::NewestPosition;
use self::writer::Writer;
use super::database_file::Identity;
use super::error::written;
use super::file_lock::FileLock;
use super::sql::{SELECT_PURCHASE, reservation_columns};
use super::{
    Changes, Connections, EntryFilter, IdempotencyKey, KnownCommits, LedgerEntry, NewProduct,
    Order, OrderOutcome, Precondition, Product, ProductQuery, RequestContext, Reservation,
    ResponseRecord, Result, Storage, StorageError, StorageOptions, WriteContext, WriteOutcome,
    migrations, now, sql,
};
use crate::batch::{BatchLimits, Batcher, Fifo};
use crate::health::{Condition, Health};

/// Applies a macro of [`sql`] to the clock of SQLite: to the millisecond, in the format of stored
/// times.
macro_rules! with_clock {
    ($($sql:ident)::+) => {
        $crate::storage::sql::$($sql)::+!("strftime('%Y-%m-%dT%H:%M:%f000+00:00')")
    };
}
use with_clock;

const SELECT_PRODUCTS: &str = concat!("SELECT ", with_clock!(product_columns), " FROM products");

pub(super) struct Sqlite {
    readers: Readers,
    options: StorageOptions,
    writer: Arc<Mutex<Writer>>,
    gets: Batcher<Fifo<Get>>,
    finds: Batcher<Fifo<Find>>,
    writes: Batcher<Fifo<Write>>,
    health: Arc<Health>,
    checkpoints: Mutex<JoinSet<()>>,
    newest_refusal: NewestPosition,
    _file_lock: FileLock,
}

/// The connections that read.
#[derive(Clone)]
struct Readers {
    pool: SqlitePool,
    file: Identity,
}

impl Readers {
    /// Returns the connections, unless a new one would open another file.
    fn pool(&self) -> Result<&SqlitePool> {
        if self.file.is_in_place() {
            Ok(&self.pool)
        } else {
            Err(StorageError::file_moved())
        }
    }
}

/// SQLite has one writer.
const WRITES: BatchLimits = BatchLimits::new("writes", 1, 256);
const READS: BatchLimits = BatchLimits::new("reads", 2, 256);

struct Get {
    id: i64,
    reply: oneshot::Sender<Result<Option<Product>>>,
}

impl Sqlite {
    pub(super) async fn open(url: &str, options: StorageOptions) -> anyhow::Result<Self> {
        ensure_file(url)?;
        let connect_options = SqliteConnectOptions::from_str(url)?
            // The lock has created it. A file that is gone later is not replaced by an empty one.
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(options.timeout)
            .foreign_keys(true);
        let file_lock = FileLock::acquire(connect_options.get_filename(), options).await?;
        let file = file_lock.identity().clone();
        // The path of the log, whatever becomes of symbolic links.
        let connect_options = connect_options.filename(&file.path);
        let mut connection = SqliteConnection::connect_with(&connect_options).await?;
        let migrator = migrations::sqlite();
        if let Err(error) = migrator.run(&mut connection).await {
            return Err(migrations::explain(&migrator, error));
        }
        let file_lock = file_lock.share(options)?;
        let pool = SqlitePoolOptions::new()
            .max_connections(options.max_connections.max(1))
            .acquire_timeout(options.timeout)
            .test_before_acquire(false)
            .connect_with(connect_options.clone().read_only(true))
            .await?;
        let committed = Arc::new(Notify::new());
        let mut checkpoints = JoinSet::new();
        checkpoints.spawn(checkpoint::run(
            connect_options.clone(),
            file.clone(),
            committed.clone(),
        ));
        let newest_refusal = NewestPosition::default();
        newest_refusal.refresh(&mut connection).await?;
        let health = Arc::new(Health::new("database"));
        let writer = Writer {
            file: file.clone(),
            connect_options,
            connection: Some(connection),
            options,
            committed,
            newest_refusal: newest_refusal.clone(),
            health: health.clone(),
        };
        let writer = Arc::new(Mutex::new(writer));
        let batch_writer = writer.clone();
        let writes = Batcher::new(WRITES, move |batch| {
            let writer = batch_writer.clone();
            async move { writer.lock().await.write(batch).await }
        });
        let readers = Readers { pool, file };
        let pool = readers.clone();
        let gets = Batcher::new(READS, move |batch| get_all(pool.clone(), batch));
        let pool = readers.clone();
        let finds = Batcher::new(
            BatchLimits {
                name: "records",
                ..READS
            },
            move |batch| records::find_all(pool.clone(), batch, options),
        );
        Ok(Self {
            readers,
            options,
            writer,
            gets,
            finds,
            writes,
            health,
            checkpoints: Mutex::new(checkpoints),
            newest_refusal,
            _file_lock: file_lock,
        })
    }

    async fn write<T>(&self, command: impl FnOnce(DeferredReply<T>) -> Command) -> Result<T> {
        let reply = self
            .writes
            .submit_within(self.options.timeout, |reply, start| Write {
                command: command(DeferredReply::new(reply)),
                start,
            });
        written(reply.await)
    }
}

#[async_trait]
impl Storage for Sqlite {
    async fn get(&self, id: i64) -> Result<Option<Product>> {
        self.gets
            .submit(|reply| Get { id, reply })
            .await
            .unwrap_or_else(|| Err(StorageError::read_lost()))
    }

    async fn count(&self, query: &ProductQuery) -> Result<i64> {
        let mut query = sql::count_products(query);
        Ok(query
            .build_query_scalar()
            .fetch_one(self.readers.pool()?)
            .await?)
    }

    async fn list(&self, query: &ProductQuery, limit: i64, offset: i64) -> Result<Vec<Product>> {
        let mut query = sql::list_products(SELECT_PRODUCTS, query, limit, offset);
        Ok(query
            .build_query_as()
            .fetch_all(self.readers.pool()?)
            .await?)
    }

    async fn create(
        &self,
        new: NewProduct,
        context: WriteContext,
    ) -> Result<WriteOutcome<Product>> {
        self.write(|reply| Command::Create {
            new,
            context,
            reply,
        })
        .await
    }

    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool> {
        let new = new.to_vec();
        self.write(|reply| Command::CreateIfEmpty { new, reply })
            .await
    }

    async fn update(
        &self,
        id: i64,
        changes: Changes,
        precondition: Precondition,
        context: WriteContext,
    ) -> Result<WriteOutcome<Product>> {
        self.write(|reply| Command::Update {
            id,
            changes,
            precondition,
            context,
            reply,
        })
        .await
    }

    async fn delete(
        &self,
        id: i64,
        precondition: Precondition,
        request: RequestContext,
    ) -> Result<WriteOutcome<Product>> {
        self.write(|reply| Command::Delete {
            id,
            precondition,
            request,
            reply,
        })
        .await
    }

    fn known_commits(&self) -> KnownCommits {
        self.newest_refusal.known_commits()
    }

    async fn submit_order(&self, order: Order) -> Result<OrderOutcome> {
        self.write(|reply| Command::Order { order, reply }).await
    }

    async fn purchase(&self, id: Uuid) -> Result<Option<LedgerEntry>> {
        let query = sqlx::query_as(SELECT_PURCHASE).bind(id);
        Ok(query.fetch_optional(self.readers.pool()?).await?)
    }

    async fn reservation(&self, id: Uuid) -> Result<Option<(Reservation, bool)>> {
        const SELECT: &str = concat!(
            "SELECT ",
            reservation_columns!(),
            ", EXISTS (SELECT 1 FROM products WHERE id = reservations.product) AS has_product
             FROM reservations WHERE id = $1"
        );
        let query = sqlx::query(SELECT).bind(id);
        let Some(row) = query.fetch_optional(self.readers.pool()?).await? else {
            return Ok(None);
        };
        let reservation = Reservation::from_row(&row)?;
        // Earlier versions deleted products with reservations.
        let is_held = reservation.is_held(now()) && row.try_get("has_product")?;
        Ok(Some((reservation, is_held)))
    }

    async fn count_entries(&self, product: i64, filter: EntryFilter) -> Result<i64> {
        let query = sqlx::query_scalar(sql::count_entries(filter)).bind(product);
        Ok(query.fetch_one(self.readers.pool()?).await?)
    }

    async fn entries(
        &self,
        product: i64,
        filter: EntryFilter,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<LedgerEntry>> {
        let mut query = sql::list_entries(product, filter, limit, offset);
        Ok(query
            .build_query_as()
            .fetch_all(self.readers.pool()?)
            .await?)
    }

    async fn find_record(&self, key: &IdempotencyKey) -> Result<Option<ResponseRecord>> {
        let key = key.clone();
        self.finds
            .submit(|reply| Find { key, reply })
            .await
            .unwrap_or_else(|| Err(StorageError::read_lost()))
    }

    async fn delete_expired_records(&self, max: i64) -> Result<u64> {
        self.write(|reply| Command::DeleteExpiredRecords { max, reply })
            .await
    }

    /// Those that read: the one that writes is not counted.
    fn connections(&self) -> Connections {
        let pool = &self.readers.pool;
        let idle = pool.num_idle();
        Connections {
            in_use: (pool.size() as usize).saturating_sub(idle),
            idle,
            max: pool.options().get_max_connections() as usize,
        }
    }

    fn health(&self) -> &Arc<Health> {
        &self.health
    }

    async fn check(&self, limit: Duration) {
        let check = async { self.writer.lock().await.check().await };
        if timeout(limit, check).await.is_err() {
            let reason = format!("no write within {limit:?}");
            self.health.report(Condition::Down, reason);
        }
    }

    async fn close(&self) {
        self.checkpoints.lock().await.shutdown().await;
        self.readers.pool.close().await;
        // The last connection to close removes the write-ahead log.
        self.writer.lock().await.close().await;
    }
}

/// Fails if the URL names no file.
fn ensure_file(url: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        !url.contains(":memory:") && !url.contains("mode=memory"),
        "an in-memory database loses every sale when the server stops: name a file"
    );
    anyhow::ensure!(
        !matches!(url, "sqlite:" | "sqlite://"),
        "the URL names no file: write sqlite://FILE, like sqlite://lockstock.sqlite3"
    );
    Ok(())
}

/// Formats a time as the columns store it: with a fixed length, so that texts compare as times.
fn as_text(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

async fn get_all(readers: Readers, batch: Vec<Get>) {
    const SELECT: &str = concat!(
        "SELECT ",
        with_clock!(product_columns),
        // One statement for any number of ids: SQLite has no arrays, but reads JSON.
        " FROM products WHERE id IN (SELECT value FROM json_each($1))"
    );
    let ids = batch.iter().map(|get| get.id).collect::<Vec<_>>();
    let found: Result<Vec<Product>> = async {
        let query = sqlx::query_as(SELECT).bind(serde_json::json!(ids).to_string());
        Ok(query.fetch_all(readers.pool()?).await?)
    }
    .await;
    for get in batch {
        let product = found
            .as_ref()
            .map(|found| found.iter().find(|product| product.id == get.id).cloned())
            .map_err(Clone::clone);
        let _ = get.reply.send(product);
    }
}
