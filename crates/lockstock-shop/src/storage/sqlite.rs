//! Products in one SQLite file: one writer, batched; readers beside it.
//!
//! SQLite admits one writer at a time, so all writes go through one connection, and those
//! that arrive while a transaction is under way share the next one and its one fsync
//! (`synchronous=FULL`: an answer is never sent before its commit is on the disk).

mod records;
mod sales;
mod writer;

use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tokio::sync::{Mutex, oneshot};
use uuid::Uuid;

use self::writer::{Did, What, Write, Writer};
use super::file_lock::Claim;
use super::migrations;
use super::sql::{self, Bind, ENTRY, RESERVATION};
use super::{
    Cause, Changes, Condition, Entries, Entry, Key, Limits, NewProduct, Order, Origin, Outcome,
    Product, Recorded, Reservation, Result, Selection, Storage, StorageError, Written, now, waited,
};
use crate::batch::{Combiner, Lanes};

/// Every column of a [`Product`]. The clock to the millisecond, as long as times are stored.
const PRODUCT: &str = sql::product!("strftime('%Y-%m-%dT%H:%M:%f000+00:00')");

pub(super) struct Sqlite {
    readers: SqlitePool,
    limits: Limits,
    writer: Arc<Mutex<Writer>>,
    gets: Combiner<Get>,
    writes: Combiner<Write>,
    /// Ends when the process does, however it ends.
    _claim: Claim,
}

/// SQLite has one writer.
const WRITES: Lanes = Lanes { most: 1, jobs: 256 };
/// Point reads come in batches too, a second one beside a slow one.
const GETS: Lanes = Lanes { most: 2, jobs: 256 };

struct Get {
    id: i64,
    answer: oneshot::Sender<Result<Option<Product>>>,
}

impl Sqlite {
    pub(super) async fn open(url: &str, limits: Limits) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !url.contains(":memory:") && !url.contains("mode=memory"),
            "a database in memory would forget what was sold: name a file"
        );
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(limits.timeout)
            .foreign_keys(true);
        let mut writer = SqliteConnection::connect_with(&options).await?;
        let claim = Claim::on(options.get_filename(), limits).await?;
        migrations::sqlite().run(&mut writer).await?;
        let claim = claim.opened(limits)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(limits.connections.max(1))
            .acquire_timeout(limits.timeout)
            .test_before_acquire(false)
            .connect_with(options.clone().read_only(true))
            .await?;
        let writer = Arc::new(Mutex::new(Writer::new(options, writer, limits)));
        let writing = writer.clone();
        let writes = Combiner::start(WRITES, move |batch| {
            let writer = writing.clone();
            async move { writer.lock().await.write(batch).await }
        });
        let pool = readers.clone();
        let gets = Combiner::start(GETS, move |batch| get(pool.clone(), batch));
        Ok(Self {
            readers,
            limits,
            writer,
            gets,
            writes,
            _claim: claim,
        })
    }
}

impl Sqlite {
    async fn write(&self, what: What) -> Result<Did> {
        let patience = self.limits.timeout;
        let written = self.writes.ask_within(patience, |answer, ticket| Write {
            what,
            answer,
            ticket,
        });
        waited(written.await)
    }

    async fn write_product(&self, what: What) -> Result<Written<Product>> {
        match self.write(what).await? {
            Did::Write(written) => Ok(written),
            _ => Err(StorageError::closed()),
        }
    }
}

#[async_trait]
impl Storage for Sqlite {
    async fn get(&self, id: i64) -> Result<Option<Product>> {
        self.gets
            .ask(|answer| Get { id, answer })
            .await
            .unwrap_or_else(|| Err(StorageError::closed()))
    }

    async fn count(&self, selection: &Selection) -> Result<i64> {
        let (filter, binds) = sql::filter(selection);
        let mut query = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT count(*) FROM products{filter}"
        )));
        for bind in binds {
            query = match bind {
                Bind::Number(number) => query.bind(number),
                Bind::Text(text) => query.bind(text),
            };
        }
        Ok(query.fetch_one(&self.readers).await?)
    }

    async fn list(&self, selection: &Selection, limit: i64, offset: i64) -> Result<Vec<Product>> {
        let (filter, binds) = sql::filter(selection);
        let order = sql::order(selection);
        let mut query = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {PRODUCT} FROM products{filter}{order} LIMIT {limit} OFFSET {offset}"
        )));
        for bind in binds {
            query = match bind {
                Bind::Number(number) => query.bind(number),
                Bind::Text(text) => query.bind(text),
            };
        }
        Ok(query.fetch_all(&self.readers).await?)
    }

    async fn create(&self, new: NewProduct, cause: Cause) -> Result<Written<Product>> {
        self.write_product(What::Create(new, cause)).await
    }

    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool> {
        let did = self.write(What::CreateIfEmpty(new.to_vec())).await?;
        Ok(matches!(did, Did::Write(Written::Done(_))))
    }

    async fn update(
        &self,
        id: i64,
        changes: Changes,
        condition: Condition,
        cause: Cause,
    ) -> Result<Written<Product>> {
        self.write_product(What::Update(id, changes, condition, cause))
            .await
    }

    async fn delete(
        &self,
        id: i64,
        condition: Condition,
        origin: Origin,
    ) -> Result<Written<Product>> {
        let cause = Cause { origin, once: None };
        self.write_product(What::Delete(id, condition, cause)).await
    }

    async fn sell(&self, order: Order) -> Result<Outcome> {
        match self.write(What::Sell(order)).await? {
            Did::Sale(outcome) => Ok(outcome),
            _ => Err(StorageError::closed()),
        }
    }

    async fn purchase(&self, id: Uuid) -> Result<Option<Entry>> {
        let text = format!(
            "SELECT {ENTRY} FROM ledger WHERE id = $1 AND reason IN ('purchase', 'confirmed')"
        );
        let query = sqlx::query_as(AssertSqlSafe(text)).bind(id);
        Ok(query.fetch_optional(&self.readers).await?)
    }

    async fn reservation(&self, id: Uuid) -> Result<Option<(Reservation, bool)>> {
        let text = format!("SELECT {RESERVATION} FROM reservations WHERE id = $1");
        let query = sqlx::query_as(AssertSqlSafe(text)).bind(id);
        let found: Option<Reservation> = query.fetch_optional(&self.readers).await?;
        Ok(found.map(|reservation| {
            let is_held = reservation.is_held(now());
            (reservation, is_held)
        }))
    }

    async fn count_entries(&self, product: i64, which: Entries) -> Result<i64> {
        let query = sqlx::query_scalar(sql::count_entries(which)).bind(product);
        Ok(query.fetch_one(&self.readers).await?)
    }

    async fn entries(
        &self,
        product: i64,
        which: Entries,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<Entry>> {
        let text = sql::entries(which, limit, offset);
        let query = sqlx::query_as(AssertSqlSafe(text)).bind(product);
        Ok(query.fetch_all(&self.readers).await?)
    }

    async fn recorded(&self, key: &Key) -> Result<Option<Recorded>> {
        let mut reader = self.readers.acquire().await?;
        let keys = std::slice::from_ref(key);
        let found = records::find(&mut reader, keys, self.limits.forgotten()).await?;
        Ok(found.into_values().next())
    }

    async fn forget(&self, most: i64) -> Result<u64> {
        match self.write(What::Forget(most)).await? {
            Did::Forget(forgotten) => Ok(forgotten),
            _ => Err(StorageError::closed()),
        }
    }

    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    async fn close(&self) {
        self.readers.close().await;
        // The last one to close moves everything from the log into the file.
        self.writer.lock().await.close().await;
    }
}

/// As times that are compared are stored: always as long.
fn as_text(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

async fn get(readers: SqlitePool, batch: Vec<Get>) {
    // One statement for any number of ids: SQLite has no arrays, but reads JSON.
    let ids = batch.iter().map(|get| get.id).collect::<Vec<_>>();
    let found: sqlx::Result<Vec<Product>> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {PRODUCT} FROM products WHERE id IN (SELECT value FROM json_each($1))"
    )))
    .bind(serde_json::json!(ids).to_string())
    .fetch_all(&readers)
    .await;
    let found = found.map_err(StorageError::from);
    for get in batch {
        let product = found
            .clone()
            .map(|found| found.into_iter().find(|product| product.id == get.id));
        let _ = get.answer.send(product);
    }
}
