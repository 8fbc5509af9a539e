//! Updates: one statement writes all that arrived while the previous one ran, and accepts or
//! rejects each row on its own.
//!
//! A batch never waits for a row that is locked elsewhere: it skips the row, and that update is
//! tried again on its own until its window ends: see [`row_locks`]. An update with an idempotency
//! key runs on its own too: its response is recorded in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::PgConnection;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::error::CommitTracker;
use super::super::{
    Changes, LedgerEntry, Precondition, Product, ResponseRecord, Result, StorageError,
    StorageOptions, WriteContext, WriteOutcome, now, sql,
};
use super::pool::Database;
use super::records::AcceptedRefusals;
use super::row_locks::{Attempts, LockedRows};
use super::{records, row_locks, with_clock};
use crate::failpoint;

pub(super) struct Update {
    pub(super) id: i64,
    pub(super) changes: Changes,
    pub(super) precondition: Precondition,
    pub(super) context: WriteContext,
    pub(super) reply: oneshot::Sender<Result<WriteOutcome<Product>>>,
}

/// Writes all updates that can be written together, and spawns the others.
pub(super) async fn update_all(database: Database, updates: Vec<Update>) {
    let mut ids = HashSet::new();
    // At most one update of a product: a second one would not find its version.
    let (mut batch, single): (Vec<_>, Vec<_>) = updates.into_iter().partition(|update| {
        !update.changes.is_empty() && update.context.idempotency.is_none() && ids.insert(update.id)
    });
    for update in single {
        spawn_single(&database, update);
    }
    loop {
        let (ended, rest): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|update| update.precondition.window.has_ended());
        for update in ended {
            let _ = update.reply.send(Ok(WriteOutcome::Fenced));
        }
        batch = rest;
        let windows = batch.iter().map(|update| update.precondition.window);
        let Some(deadline) = windows.map(|window| window.deadline).min() else {
            return;
        };
        let rows = Rows::new(&batch);
        let tracker = CommitTracker::default();
        let commit = tracker.clone();
        let written = database
            .with_connection(|connection| Box::pin(write_batch(connection, rows, deadline, commit)))
            .await
            .map_err(|error| tracker.mark(error));
        match written {
            // A window has ended on the way: nothing is committed, and the others run again.
            Ok(None) => {}
            Ok(Some(mut written)) => {
                for update in batch {
                    match written.remove(&update.id) {
                        Some(product) => {
                            let _ = update.reply.send(Ok(WriteOutcome::Done(product)));
                        }
                        None => spawn_single(&database, update),
                    }
                }
                return;
            }
            // The error does not name the row, or a table is locked. Nothing is written.
            Err(error)
                if (error.is_row_error() || error.is_lock_timeout()) && !error.commit_unknown() =>
            {
                for update in batch {
                    spawn_single(&database, update);
                }
                return;
            }
            Err(error) => {
                for update in batch {
                    let _ = update.reply.send(Err(error.clone()));
                }
                return;
            }
        }
    }
}

/// The columns of a batch, as arrays for `unnest`.
#[derive(Default)]
struct Rows {
    ids: Vec<i64>,
    fences: Vec<i64>,
    versions: Vec<Option<i64>>,
    names: Vec<Option<String>>,
    descriptions: Vec<Option<String>>,
    prices: Vec<Option<i64>>,
    stocks: Vec<Option<i64>>,
    requests: Vec<String>,
}

impl Rows {
    fn new(updates: &[Update]) -> Self {
        let mut rows = Self::default();
        for update in updates {
            rows.ids.push(update.id);
            rows.fences.push(update.precondition.window.fence());
            rows.versions.push(update.precondition.version);
            rows.names.push(update.changes.name.clone());
            rows.descriptions.push(update.changes.description.clone());
            rows.prices.push(update.changes.price);
            rows.stocks.push(update.changes.stock);
            rows.requests
                .push(update.context.request.request_id.to_string());
        }
        rows
    }
}

/// Updates the rows that exist, are not locked and meet their preconditions, with an entry each.
const UPDATE_BATCH: &str = concat!(
    "WITH free AS MATERIALIZED (
         SELECT id, stock FROM products WHERE id = ANY($1) FOR UPDATE SKIP LOCKED
     ), written AS (
         UPDATE products AS p SET
             name = coalesce(job.name, p.name),
             description = coalesce(job.description, p.description),
             price = coalesce(job.price, p.price),
             stock = coalesce(job.stock, p.stock),
             version = p.version + 1,
             fence = job.fence,
             updated_at = $8
         FROM free JOIN unnest($1, $2, $3, $4, $5, $6, $7, $9::text[])
             AS job (id, fence, version, name, description, price, stock, request)
             ON job.id = free.id
         WHERE p.id = job.id
             AND p.fence < job.fence
             AND p.version = coalesce(job.version, p.version)
         RETURNING p.*, p.stock - free.stock AS delta, job.request
     ), booked AS (
         INSERT INTO ledger (product, version, id, reason, delta, stock_after, request,
             fence, at)
         SELECT id, version, gen_random_uuid(), 'changed', delta, stock, request, fence, $8
         FROM written
     )
     SELECT ",
    with_clock!(product_columns),
    " FROM written AS products"
);

/// Writes a batch. Returns the products written, by id; `None`, and nothing is written, if
/// `deadline` passes before the commit.
async fn write_batch(
    connection: &mut PgConnection,
    rows: Rows,
    deadline: Instant,
    tracker: CommitTracker,
) -> Result<Option<HashMap<i64, Product>>> {
    let mut transaction = row_locks::begin(connection).await?;
    let written: Vec<Product> = sqlx::query_as(UPDATE_BATCH)
        .bind(rows.ids)
        .bind(rows.fences)
        .bind(rows.versions)
        .bind(rows.names)
        .bind(rows.descriptions)
        .bind(rows.prices)
        .bind(rows.stocks)
        .bind(now())
        .bind(rows.requests)
        .fetch_all(&mut *transaction)
        .await?;
    if deadline <= Instant::now() {
        transaction.rollback().await?;
        return Ok(None);
    }
    tracker.commit(transaction).await?;
    Ok(Some(
        written
            .into_iter()
            .map(|product| (product.id, product))
            .collect(),
    ))
}

#[derive(Clone)]
pub(super) enum Change {
    Update(Changes),
    Delete,
}

fn spawn_single(database: &Database, update: Update) {
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
pub(super) async fn write_single(
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
pub(super) async fn find_record(
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
pub(super) async fn insert_record(
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

pub(super) async fn insert_entry(connection: &mut PgConnection, entry: LedgerEntry) -> Result<()> {
    sql::insert_entry(entry).execute(connection).await?;
    Ok(())
}
