//! One update, or one deletion, in a transaction of its own.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use tokio::time::Instant;

use super::super::super::error::CommitTracker;
use super::super::super::{
    Changes, LedgerEntry, Precondition, Product, ResponseRecord, Result, StorageError,
    StorageOptions, WriteContext, WriteOutcome, now, sql,
};
use super::super::pool::Database;
use super::super::records::AcceptedRefusals;
use super::super::row_locks::{Attempts, LockedRows};
use super::super::{records, row_locks, with_clock};
use super::Update;
use crate::failpoint;

#[derive(Clone)]
pub(in crate::storage::postgres) enum Change {
    Update(Changes),
    Delete,
}

pub(super) fn spawn(database: &Database, update: Update) {
    let database = database.clone();
    tokio::spawn(async move {
        let Update {
            id,
            changes,
            precondition,
            context,
            reply,
        } = update;
        let change = Change::Update(changes);
        let written = write_single(&database, id, change, precondition, context).await;
        let _ = reply.send(written);
    });
}

/// Changes one row. While it is locked elsewhere, tries again until the window ends, and for no
/// longer than a call may take.
pub(in crate::storage::postgres) async fn write_single(
    database: &Database,
    id: i64,
    change: Change,
    precondition: Precondition,
    context: WriteContext,
) -> Result<WriteOutcome<Product>> {
    let window = precondition.window;
    let timeout = Instant::now() + database.options.timeout;
    let mut attempts = Attempts::until(window.deadline.min(timeout));
    loop {
        if window.has_ended() {
            return Ok(WriteOutcome::Fenced);
        }
        let (locked_rows, permit) = attempts.begin(database);
        let tracker = CommitTracker::default();
        let write = SingleWrite {
            id,
            change: change.clone(),
            precondition,
            context: context.clone(),
            locked_rows,
            options: database.options,
            tracker: tracker.clone(),
        };
        let written = database
            .with_connection(|connection| Box::pin(write.run(connection)))
            .await
            .map_err(|error| tracker.mark(error));
        drop(permit);
        match written {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => {}
            Err(error) if error.commit_unknown() => return Err(error),
            Err(error) if error.is_lock_timeout() => {}
            Err(_) if window.has_ended() => return Ok(WriteOutcome::Fenced),
            Err(error) => return Err(error),
        }
        if !attempts.pause().await && !window.has_ended() {
            return Err(StorageError::rows_locked());
        }
    }
}

/// A change in a transaction of its own.
struct SingleWrite {
    id: i64,
    change: Change,
    precondition: Precondition,
    context: WriteContext,
    locked_rows: LockedRows,
    options: StorageOptions,
    tracker: CommitTracker,
}

impl SingleWrite {
    /// Returns `None`, and nothing is written, if the row is locked elsewhere.
    async fn run(self, connection: &mut PgConnection) -> Result<Option<WriteOutcome<Product>>> {
        let window = self.precondition.window;
        let mut transaction = row_locks::begin(connection).await?;
        let locked = self.lock(&mut transaction).await?;
        if locked.is_none() && self.locked_rows == LockedRows::Skip {
            let exists: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT FROM products WHERE id = $1)")
                    .bind(self.id)
                    .fetch_one(&mut *transaction)
                    .await?;
            if exists {
                transaction.rollback().await?;
                return Ok(None);
            }
        }
        // After the product is locked: a request that has used the key for it has committed.
        let record = find_record(&mut transaction, &self.context, self.options).await?;
        if let Some(record) = record {
            transaction.rollback().await?;
            return Ok(Some(WriteOutcome::AlreadyRecorded(record)));
        }
        let is_met = locked.is_some_and(|(version, fence, _)| {
            let required = self.precondition.version;
            fence < window.fence() && required.is_none_or(|required| required == version)
        });
        let Some((version, _, stock)) = locked.filter(|_| is_met) else {
            transaction.rollback().await?;
            let found = locked.map(|(version, fence, _)| (version, fence));
            return Ok(Some(self.precondition.rejection(found)));
        };
        failpoint::pause("transaction.begun").await;
        if let Change::Delete = self.change {
            let held = self.held(&mut transaction).await?;
            if held > 0 {
                transaction.rollback().await?;
                return Ok(Some(WriteOutcome::Held { held }));
            }
        }
        let product = self.change(&mut transaction).await?;
        if !insert_record(&mut transaction, &self.context, &product, self.options).await? {
            transaction.rollback().await?;
            // Another request has used the key for another product in between.
            let record = find_record(connection, &self.context, self.options).await?;
            return record
                .map(|record| Some(WriteOutcome::AlreadyRecorded(record)))
                .ok_or_else(StorageError::conflicting_record_expired);
        }
        let request = &self.context.request;
        let entry = match self.change {
            Change::Delete => Some(LedgerEntry::deleted(&product, window, request)),
            Change::Update(_) if product.version == version => None,
            Change::Update(_) => Some(LedgerEntry::changed(&product, stock, window, request)),
        };
        if let Some(entry) = entry {
            insert_entry(&mut transaction, entry).await?;
        }
        if window.has_ended() {
            transaction.rollback().await?;
            return Ok(Some(WriteOutcome::Fenced));
        }
        self.tracker.commit(transaction).await?;
        Ok(Some(WriteOutcome::Done(product)))
    }

    /// Locks the row. Returns its version, fence and stock.
    async fn lock(&self, connection: &mut PgConnection) -> Result<Option<(i64, i64, i64)>> {
        let text = match self.locked_rows {
            LockedRows::Skip => {
                "SELECT version, fence, stock FROM products WHERE id = $1 FOR UPDATE SKIP LOCKED"
            }
            LockedRows::Wait => {
                "SELECT version, fence, stock FROM products WHERE id = $1 FOR UPDATE"
            }
        };
        let query = sqlx::query_as(text).bind(self.id);
        Ok(query.fetch_optional(connection).await?)
    }

    /// Returns how many units are set aside. Called after the row is locked, which every
    /// reservation locks too.
    async fn held(&self, connection: &mut PgConnection) -> Result<i64> {
        let query = sqlx::query_scalar(
            "SELECT coalesce(sum(quantity), 0)::bigint FROM reservations
             WHERE product = $1 AND state = 'held' AND expires_at > statement_timestamp()",
        );
        Ok(query.bind(self.id).fetch_one(connection).await?)
    }

    async fn change(&self, connection: &mut PgConnection) -> Result<Product> {
        const DELETE: &str = concat!(
            "DELETE FROM products WHERE id = $1 RETURNING ",
            with_clock!(product_columns)
        );
        const SELECT: &str = concat!(
            "SELECT ",
            with_clock!(product_columns),
            " FROM products WHERE id = $1"
        );
        let query = match &self.change {
            Change::Delete => sqlx::query_as(DELETE).bind(self.id),
            Change::Update(changes) if changes.is_empty() => sqlx::query_as(SELECT).bind(self.id),
            Change::Update(changes) => sqlx::query_as(with_clock!(update_product))
                .bind(&changes.name)
                .bind(&changes.description)
                .bind(changes.price)
                .bind(changes.stock)
                .bind(self.precondition.window.fence())
                .bind(now())
                .bind(self.id),
        };
        Ok(query.fetch_one(connection).await?)
    }
}

/// Returns the record under the idempotency key of the write, if it has a key.
pub(in crate::storage::postgres) async fn find_record(
    connection: &mut PgConnection,
    context: &WriteContext,
    options: StorageOptions,
) -> Result<Option<ResponseRecord>> {
    let Some(idempotency) = &context.idempotency else {
        return Ok(None);
    };
    let found = records::find(connection, vec![idempotency.key.clone()], options).await?;
    Ok(found.into_values().next())
}

/// Records the response to the write, if it has an idempotency key. Returns false if another
/// transaction has used the key.
pub(in crate::storage::postgres) async fn insert_record(
    connection: &mut PgConnection,
    context: &WriteContext,
    product: &Product,
    options: StorageOptions,
) -> Result<bool> {
    let record = context.idempotency.as_ref().and_then(|idempotency| {
        let record = idempotency.record(product)?;
        Some((idempotency.key.clone(), record))
    });
    // A refusal under the key belongs to an order, so to another request.
    let refusals = AcceptedRefusals::All;
    let record = BTreeMap::from_iter(record);
    records::insert(connection, record, BTreeMap::new(), refusals, options).await
}

pub(in crate::storage::postgres) async fn insert_entry(
    connection: &mut PgConnection,
    entry: LedgerEntry,
) -> Result<()> {
    sql::insert_entry(entry).execute(connection).await?;
    Ok(())
}
