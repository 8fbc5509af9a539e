//! The writer: one connection that runs one transaction after another, each for all commands
//! that arrived while the previous one ran.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::database_file::Identity;
use super::super::error::CommitTracker;
use super::super::idempotency::REFUSAL_RETENTION;
use super::super::{
    Changes, IdempotentWrite, LedgerEntry, NewProduct, Precondition, Product, Reason,
    RequestContext, ResponseRecord, Result, StorageError, StorageOptions, WriteContext,
    WriteOutcome, now, sql,
};
use super::checkpoint::checkpoint;
use super::command::{Command, Write};
use super::refusals::NewestPosition;
use super::{as_text, orders, records, refusals, with_clock};
use crate::failpoint;
use crate::health::Health;

/// Writes a page, even though the value stays the same.
const WRITE_PAGE: &str = "PRAGMA user_version = 0";

/// Writes more pages than a small transaction: while the disk is full, there may be space for one of
/// them. A record without a key is no caller's, and expires if it is not deleted.
const WRITE_PAGES: &str = "
    INSERT OR REPLACE INTO idempotency (caller, key, fingerprint, answer, created_at)
        VALUES ('', '', x'', zeroblob(131072), strftime('%Y-%m-%dT%H:%M:%f000+00:00'));
    DELETE FROM idempotency WHERE caller = '' AND key = ''";

/// The one connection that writes.
pub(super) struct Writer {
    pub(super) file: Identity,
    pub(super) connect_options: SqliteConnectOptions,
    /// `None` after an error: SQLite and sqlx may then disagree about whether a transaction is
    /// open.
    pub(super) connection: Option<SqliteConnection>,
    pub(super) options: StorageOptions,
    /// Notified after each commit.
    pub(super) committed: Arc<Notify>,
    pub(super) newest_refusal: NewestPosition,
    pub(super) health: Arc<Health>,
}

impl Writer {
    pub(super) async fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            // If another process has the file open, closing does not do it.
            let _ = checkpoint(&mut connection).await;
            let _ = connection.close().await;
        }
    }

    /// Checks that a write succeeds, and records the condition. If it is dropped, so is the
    /// connection.
    pub(super) async fn check(&mut self) {
        if !self.file.is_in_place() {
            return self.report(&StorageError::file_moved());
        }
        let connection = self.connection.take();
        let write = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => SqliteConnection::connect_with(&self.connect_options).await?,
            };
            let write = if self.health.is_up() {
                WRITE_PAGE
            } else {
                WRITE_PAGES
            };
            sqlx::raw_sql(write).execute(&mut connection).await?;
            Ok::<_, StorageError>(connection)
        };
        match write.await {
            Ok(connection) => {
                self.connection = Some(connection);
                self.health.recovered();
            }
            Err(error) => self.report(&error),
        }
    }

    fn report(&self, error: &StorageError) {
        if error.fault().is_some() {
            self.health.report(error.condition(), error.reason());
        }
    }

    /// Runs all commands in one transaction. If a row of it is rejected, runs each command in a
    /// transaction of its own, so that one bad write cannot fail the rest of its batch.
    ///
    /// Commands whose callers have stopped waiting are dropped.
    pub(super) async fn write(&mut self, mut batch: Vec<Write>) {
        batch.retain(|write| write.start.start());
        if batch.is_empty() {
            return;
        }
        let committed = self.run_batch(&mut batch).await;
        let is_row_error = |error: &StorageError| error.is_row_error() && !error.commit_unknown();
        if batch.len() > 1 && committed.as_ref().is_err_and(is_row_error) {
            for write in batch {
                let mut single = [write];
                let committed = self.run_batch(&mut single).await;
                let [write] = single;
                write.command.reply(&committed);
            }
        } else {
            for write in batch {
                write.command.reply(&committed);
            }
        }
    }

    /// Runs commands in one transaction, which is repeated while one of its windows ends on the
    /// way: the next time, that command is rejected.
    async fn run_batch(&mut self, batch: &mut [Write]) -> Result<()> {
        loop {
            let tracker = CommitTracker::default();
            if !self.file.is_in_place() {
                // The connection is kept: when it closes, it moves the log into the old file.
                let error = StorageError::file_moved();
                self.report(&error);
                return Err(tracker.mark(error));
            }
            match self.transaction(batch, &tracker).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    self.connection = None;
                    self.report(&error);
                    return Err(tracker.mark(error));
                }
            }
        }
    }

    /// Runs commands in order and commits. Returns false, and rolls back, if the window of a
    /// command that wrote ends before the commit.
    async fn transaction(&mut self, batch: &mut [Write], tracker: &CommitTracker) -> Result<bool> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(SqliteConnection::connect_with(&self.connect_options).await?),
        };
        // IMMEDIATE: if a transaction begins with a read and another process writes before its
        // first write, it fails.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        failpoint::pause("transaction.begun").await;
        let mut commit_deadline: Option<Instant> = None;
        let has_keyed_order = batch.iter().any(|write| write.command.is_keyed_order());
        let mut remaining = batch;
        while !remaining.is_empty() {
            let count = execute_first(&mut transaction, remaining, self.options).await?;
            let (executed, rest) = remaining.split_at_mut(count);
            let deadlines = executed
                .iter()
                .filter_map(|write| write.command.commit_deadline());
            commit_deadline = commit_deadline.into_iter().chain(deadlines).min();
            remaining = rest;
        }
        if commit_deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            transaction.rollback().await?;
            return Ok(false);
        }
        tracker.commit(transaction).await?;
        self.committed.notify_one();
        if !self.options.exclusive
            && has_keyed_order
            && let Err(error) = self.newest_refusal.refresh(connection).await
        {
            // The next try of a refused key gets `in_flight` once more than it has to.
            tracing::debug!(%error, "the positions of refusals were not read");
        }
        Ok(true)
    }
}

/// Executes the first command; if it is an order, with the orders that follow it. Returns how
/// many commands that are.
async fn execute_first(
    connection: &mut SqliteConnection,
    writes: &mut [Write],
    options: StorageOptions,
) -> Result<usize> {
    let Some(first) = writes.first_mut() else {
        return Ok(0);
    };
    match &mut first.command {
        Command::Create {
            new,
            context,
            reply,
        } => reply.set(create_once(connection, new, context, options).await?),
        Command::CreateIfEmpty { new, reply } => {
            reply.set(create_if_empty(connection, new).await?);
        }
        Command::Update {
            id,
            changes,
            precondition,
            context,
            reply,
        } => {
            let outcome =
                update_once(connection, *id, changes, precondition, context, options).await?;
            reply.set(outcome);
        }
        Command::Delete {
            id,
            precondition,
            request,
            reply,
        } => reply.set(delete(connection, *id, precondition, request).await?),
        Command::Order { .. } => return execute_orders(connection, writes, options).await,
        Command::DeleteExpiredRecords { max, reply } => {
            let expired_at = options.expired_at();
            let records = records::delete_expired(connection, expired_at, *max).await?;
            let expired_at = now() - REFUSAL_RETENTION;
            let refusals = refusals::delete_expired(connection, expired_at, *max).await?;
            reply.set(records + refusals);
        }
    }
    Ok(1)
}

/// Executes the orders at the beginning of `writes` together, which costs hardly more than one.
/// Returns how many there are.
async fn execute_orders(
    connection: &mut SqliteConnection,
    writes: &mut [Write],
    options: StorageOptions,
) -> Result<usize> {
    let mut orders = Vec::new();
    let mut replies = Vec::new();
    for write in writes {
        let Command::Order { order, reply } = &mut write.command else {
            break;
        };
        orders.push(&*order);
        replies.push(reply);
    }
    let outcomes = orders::execute(connection, &orders, options).await?;
    let count = replies.len();
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        reply.set(outcome);
    }
    Ok(count)
}

async fn create_once(
    connection: &mut SqliteConnection,
    new: &NewProduct,
    context: &WriteContext,
    options: StorageOptions,
) -> Result<WriteOutcome<Product>> {
    let idempotency = context.idempotency.as_ref();
    if let Some(record) = find_record(connection, idempotency, options.expired_at()).await? {
        return Ok(WriteOutcome::AlreadyRecorded(record));
    }
    let product = create(connection, new, &context.request).await?;
    record(connection, idempotency, &product).await?;
    Ok(WriteOutcome::Done(product))
}

/// Updates a product, unless there is a record under the key of the update. The statement that writes
/// looks for one, so that only an update that wrote nothing has to.
async fn update_once(
    connection: &mut SqliteConnection,
    id: i64,
    changes: &Changes,
    precondition: &Precondition,
    context: &WriteContext,
    options: StorageOptions,
) -> Result<WriteOutcome<Product>> {
    let idempotency = context.idempotency.as_ref();
    // The same for all statements: a record does not expire between them.
    let expired_at = options.expired_at();
    if !changes.is_empty() && !precondition.window.has_ended() {
        let written = update(connection, id, changes, precondition, context, expired_at).await?;
        if let Some(product) = written {
            record(connection, idempotency, &product).await?;
            return Ok(WriteOutcome::Done(product));
        }
    }
    if let Some(record) = find_record(connection, idempotency, expired_at).await? {
        return Ok(WriteOutcome::AlreadyRecorded(record));
    }
    match find(connection, id, precondition).await? {
        // Without changes, a product that meets the precondition stays as it is.
        Ok(product) => {
            record(connection, idempotency, &product).await?;
            Ok(WriteOutcome::Done(product))
        }
        Err(rejection) => Ok(rejection),
    }
}

async fn find_record(
    connection: &mut SqliteConnection,
    idempotency: Option<&IdempotentWrite<Product>>,
    expired_at: DateTime<Utc>,
) -> Result<Option<ResponseRecord>> {
    let Some(idempotency) = idempotency else {
        return Ok(None);
    };
    let keys = std::slice::from_ref(&idempotency.key);
    let found = records::find(connection, keys, expired_at).await?;
    Ok(found.into_values().next())
}

async fn record(
    connection: &mut SqliteConnection,
    idempotency: Option<&IdempotentWrite<Product>>,
    product: &Product,
) -> Result<()> {
    let record = idempotency.and_then(|idempotency| {
        let record = idempotency.record(product)?;
        Some((idempotency.key.clone(), record))
    });
    records::insert(connection, BTreeMap::from_iter(record)).await
}

async fn create_if_empty(connection: &mut SqliteConnection, new: &[NewProduct]) -> Result<bool> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM products")
        .fetch_one(&mut *connection)
        .await?;
    if count > 0 {
        return Ok(false);
    }
    for new in new {
        create(connection, new, &RequestContext::default()).await?;
    }
    Ok(!new.is_empty())
}

async fn create(
    connection: &mut SqliteConnection,
    new: &NewProduct,
    request: &RequestContext,
) -> Result<Product> {
    let product: Product = sqlx::query_as(with_clock!(insert_product))
        .bind(&new.name)
        .bind(&new.description)
        .bind(new.price)
        .bind(new.stock)
        .bind(now())
        .fetch_one(&mut *connection)
        .await?;
    insert_entry(connection, LedgerEntry::created(&product, request)).await?;
    Ok(product)
}

/// Updates a product that meets the precondition, if there is no record under the key of the update.
async fn update(
    connection: &mut SqliteConnection,
    id: i64,
    changes: &Changes,
    precondition: &Precondition,
    context: &WriteContext,
    expired_at: DateTime<Utc>,
) -> Result<Option<Product>> {
    // In one call, because each is two changes of the thread: the second statement sees what the first
    // one has seen, and RETURNING is of the product.
    const UPDATE: &str = concat!(
        "INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, fence, at,
             caller)
         SELECT id, version + 1, $1, $2, coalesce($3, stock) - stock, coalesce($3, stock), $4, $5, $6,
             $15
         FROM products WHERE id = $7 AND fence < $5 AND version = coalesce($8, version)
             AND NOT EXISTS (SELECT 1 FROM idempotency
                 WHERE caller = $12 AND key = $13 AND created_at > $14);
         UPDATE products SET
             name = coalesce($9, name),
             description = coalesce($10, description),
             price = coalesce($11, price),
             stock = coalesce($3, stock),
             version = version + 1,
             fence = $5,
             updated_at = $6
         WHERE id = $7 AND fence < $5 AND version = coalesce($8, version)
             AND NOT EXISTS (SELECT 1 FROM idempotency
                 WHERE caller = $12 AND key = $13 AND created_at > $14)
         RETURNING ",
        with_clock!(product_columns)
    );
    let key = context.idempotency.as_ref().map(|write| &write.key);
    let written = sqlx::query_as(UPDATE)
        .bind(Uuid::now_v7())
        .bind(Reason::Changed.name())
        .bind(changes.stock)
        .bind(context.request.request_id.to_string())
        .bind(precondition.window.fence())
        .bind(now())
        .bind(id)
        .bind(precondition.version)
        .bind(&changes.name)
        .bind(&changes.description)
        .bind(changes.price)
        .bind(key.map(|key| &*key.caller))
        .bind(key.map(|key| &*key.key))
        .bind(as_text(expired_at))
        .bind(context.request.key_name())
        .fetch_optional(connection);
    Ok(written.await?)
}

async fn delete(
    connection: &mut SqliteConnection,
    id: i64,
    precondition: &Precondition,
    request: &RequestContext,
) -> Result<WriteOutcome<Product>> {
    let product = match find(connection, id, precondition).await? {
        Ok(product) => product,
        Err(rejection) => return Ok(rejection),
    };
    if product.held > 0 {
        return Ok(WriteOutcome::Held { held: product.held });
    }
    sqlx::query("DELETE FROM products WHERE id = $1")
        .bind(id)
        .execute(&mut *connection)
        .await?;
    let entry = LedgerEntry::deleted(&product, precondition.window, request);
    insert_entry(connection, entry).await?;
    Ok(WriteOutcome::Done(product))
}

/// Returns the product if it meets the precondition, or why it does not.
async fn find(
    connection: &mut SqliteConnection,
    id: i64,
    precondition: &Precondition,
) -> Result<std::result::Result<Product, WriteOutcome<Product>>> {
    const SELECT: &str = concat!(
        "SELECT ",
        with_clock!(product_columns),
        " FROM products WHERE id = $1 AND fence < $2 AND version = coalesce($3, version)"
    );
    if precondition.window.has_ended() {
        return Ok(Err(WriteOutcome::Fenced));
    }
    let product: Option<Product> = sqlx::query_as(SELECT)
        .bind(id)
        .bind(precondition.window.fence())
        .bind(precondition.version)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(product) = product {
        return Ok(Ok(product));
    }
    Ok(Err(rejection(connection, id, precondition).await?))
}

/// Returns why a product does not meet the precondition.
async fn rejection(
    connection: &mut SqliteConnection,
    id: i64,
    precondition: &Precondition,
) -> Result<WriteOutcome<Product>> {
    let found = sqlx::query_as("SELECT version, fence FROM products WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(precondition.rejection(found))
}

async fn insert_entry(connection: &mut SqliteConnection, entry: LedgerEntry) -> Result<()> {
    sql::insert_entry(entry).execute(connection).await?;
    Ok(())
}
