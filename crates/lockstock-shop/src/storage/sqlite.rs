//! Products in one SQLite file: one writer, batched; readers beside it.
//!
//! SQLite admits one writer at a time, so all writes go through one connection, and those
//! that arrive while a transaction is under way share the next one and its one fsync
//! (`synchronous=FULL`: an answer is never sent before its commit is on the disk).

use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use super::claim::Claim;
use super::sql::{self, Bind, PRODUCT};
use super::{
    Changes, Committing, Condition, Limits, NewProduct, Product, Result, Selection, Storage,
    StorageError, Written, now,
};
use crate::combine::{Combiner, Lanes};

pub(super) struct Sqlite {
    readers: SqlitePool,
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

struct Write {
    what: What,
    answer: oneshot::Sender<Result<Written<Product>>>,
}

enum What {
    Create(NewProduct),
    CreateIfEmpty(Vec<NewProduct>),
    Update(i64, Changes, Condition),
    Delete(i64, Condition),
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
        sqlx::migrate!("migrations/sqlite").run(&mut writer).await?;
        let claim = claim.opened(limits)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(limits.connections.max(1))
            .acquire_timeout(limits.timeout)
            .test_before_acquire(false)
            .connect_with(options.clone().read_only(true))
            .await?;
        let writer = Arc::new(Mutex::new(Writer {
            options,
            connection: Some(writer),
        }));
        let writing = writer.clone();
        let writes = Combiner::start(WRITES, move |batch| {
            let writer = writing.clone();
            async move { writer.lock().await.write(batch).await }
        });
        let pool = readers.clone();
        let gets = Combiner::start(GETS, move |batch| get(pool.clone(), batch));
        Ok(Self {
            readers,
            writer,
            gets,
            writes,
            _claim: claim,
        })
    }
}

impl Sqlite {
    async fn write(&self, what: What) -> Result<Written<Product>> {
        self.writes
            .ask(|answer| Write { what, answer })
            .await
            .unwrap_or_else(|| Err(StorageError::closed()))
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

    async fn create(&self, new: NewProduct) -> Result<Product> {
        match self.write(What::Create(new)).await? {
            Written::Done(product) => Ok(product),
            _ => Err(StorageError::closed()),
        }
    }

    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool> {
        let written = self.write(What::CreateIfEmpty(new.to_vec())).await?;
        Ok(matches!(written, Written::Done(_)))
    }

    async fn update(
        &self,
        id: i64,
        changes: Changes,
        condition: Condition,
    ) -> Result<Written<Product>> {
        self.write(What::Update(id, changes, condition)).await
    }

    async fn delete(&self, id: i64, condition: Condition) -> Result<Written<Product>> {
        self.write(What::Delete(id, condition)).await
    }

    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    async fn close(&self) {
        self.readers.close().await;
        // The last one to close moves everything from the log into the file.
        if let Some(writer) = self.writer.lock().await.connection.take() {
            let _ = writer.close().await;
        }
    }
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

/// The one connection that writes.
struct Writer {
    options: SqliteConnectOptions,
    /// None once it failed: SQLite and sqlx may then be of two minds about whether a
    /// transaction is open.
    connection: Option<SqliteConnection>,
}

impl Writer {
    async fn write(&mut self, batch: Vec<Write>) {
        let outcomes = loop {
            let committing = Committing::default();
            match self.transaction(&batch, &committing).await {
                Ok(Some(outcomes)) => break Ok(outcomes),
                // Somebody's turn ended on the way. Nothing is committed; the others go again.
                Ok(None) => {}
                Err(error) => {
                    self.connection = None;
                    break Err(committing.note(error));
                }
            }
        };
        match outcomes {
            Ok(outcomes) => {
                for (write, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = write.answer.send(outcome);
                }
            }
            Err(error) => {
                for write in batch {
                    let _ = write.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Applies each job in order and commits. `None` if the turn of one that wrote was over
    /// before the commit, which then did not happen. A job that breaks a rule of the tables
    /// is undone alone: SQLite rolls back the statement, not the transaction. Whatever else
    /// fails ends the transaction, for SQLite may have ended it already.
    async fn transaction(
        &mut self,
        batch: &[Write],
        committing: &Committing,
    ) -> Result<Option<Vec<Result<Written<Product>>>>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(SqliteConnection::connect_with(&self.options).await?),
        };
        // IMMEDIATE: a transaction that begins by reading could find another process ahead
        // of it when it wants to write, and would have to give up.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut earliest: Option<Instant> = None;
        for write in batch {
            let (outcome, condition) = match &write.what {
                What::Create(new) => (create(&mut transaction, new).await, None),
                What::CreateIfEmpty(new) => (create_if_empty(&mut transaction, new).await, None),
                What::Update(id, changes, condition) => (
                    update(&mut transaction, *id, changes, condition).await,
                    Some(condition),
                ),
                What::Delete(id, condition) => (
                    delete(&mut transaction, *id, condition).await,
                    Some(condition),
                ),
            };
            match (&outcome, condition) {
                (Err(error), _) if !error.breaks_a_rule() => return outcome.map(|_| None),
                (Ok(Written::Done(_)), Some(condition)) => {
                    let deadline = condition.turn.deadline;
                    earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                }
                _ => {}
            }
            outcomes.push(outcome);
        }
        if earliest.is_some_and(|earliest| earliest <= Instant::now()) {
            transaction.rollback().await?;
            return Ok(None);
        }
        committing.begin();
        transaction.commit().await?;
        Ok(Some(outcomes))
    }
}

async fn create_if_empty(
    writer: &mut SqliteConnection,
    new: &[NewProduct],
) -> Result<Written<Product>> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM products")
        .fetch_one(&mut *writer)
        .await?;
    let mut last = Written::Missing;
    if count == 0 {
        for new in new {
            last = create(&mut *writer, new).await?;
        }
    }
    Ok(last)
}

async fn create(writer: &mut SqliteConnection, new: &NewProduct) -> Result<Written<Product>> {
    let created = sqlx::query_as(AssertSqlSafe(format!(
        "INSERT INTO products (name, description, price, stock, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5) RETURNING {PRODUCT}"
    )))
    .bind(&new.name)
    .bind(&new.description)
    .bind(new.price)
    .bind(new.stock)
    .bind(now())
    .fetch_one(writer)
    .await?;
    Ok(Written::Done(created))
}

async fn update(
    writer: &mut SqliteConnection,
    id: i64,
    changes: &Changes,
    condition: &Condition,
) -> Result<Written<Product>> {
    if condition.turn.is_over() {
        return Ok(Written::Lost);
    }
    // A change of nothing is a read under the same conditions.
    let text = if changes.is_empty() {
        format!(
            "SELECT {PRODUCT} FROM products WHERE id = $7 AND fence < $5 AND version = coalesce($8, version)"
        )
    } else {
        format!(
            "UPDATE products SET
                 name = coalesce($1, name),
                 description = coalesce($2, description),
                 price = coalesce($3, price),
                 stock = coalesce($4, stock),
                 version = version + 1,
                 fence = $5,
                 updated_at = $6
             WHERE id = $7 AND fence < $5 AND version = coalesce($8, version)
             RETURNING {PRODUCT}"
        )
    };
    let written: Option<Product> = sqlx::query_as(AssertSqlSafe(text))
        .bind(&changes.name)
        .bind(&changes.description)
        .bind(changes.price)
        .bind(changes.stock)
        .bind(condition.turn.fence())
        .bind(now())
        .bind(id)
        .bind(condition.version)
        .fetch_optional(&mut *writer)
        .await?;
    match written {
        Some(product) => Ok(Written::Done(product)),
        None => why_refused(writer, id, condition).await,
    }
}

async fn delete(
    writer: &mut SqliteConnection,
    id: i64,
    condition: &Condition,
) -> Result<Written<Product>> {
    if condition.turn.is_over() {
        return Ok(Written::Lost);
    }
    let deleted: Option<Product> = sqlx::query_as(AssertSqlSafe(format!(
        "DELETE FROM products WHERE id = $1 AND fence < $2 AND version = coalesce($3, version)
         RETURNING {PRODUCT}"
    )))
    .bind(id)
    .bind(condition.turn.fence())
    .bind(condition.version)
    .fetch_optional(&mut *writer)
    .await?;
    match deleted {
        Some(product) => Ok(Written::Done(product)),
        None => why_refused(writer, id, condition).await,
    }
}

async fn why_refused(
    writer: &mut SqliteConnection,
    id: i64,
    condition: &Condition,
) -> Result<Written<Product>> {
    let found = sqlx::query_as("SELECT version, fence FROM products WHERE id = $1")
        .bind(id)
        .fetch_optional(writer)
        .await?;
    Ok(condition.refusal(found))
}
