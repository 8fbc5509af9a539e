//! The statement that writes all updates of a batch.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use tokio::time::Instant;

use super::super::super::error::CommitTracker;
use super::super::super::{IdempotencyKey, Product, ResponseRecord, Result, StorageOptions, now};
use super::super::clock::DatabaseClock;
use super::super::records::AcceptedRefusals;
use super::super::{records, row_locks, with_clock};
use super::Update;
use crate::failpoint;

/// The columns of a batch, as arrays for `unnest`.
#[derive(Default)]
pub(super) struct Rows {
    ids: Vec<i64>,
    fences: Vec<i64>,
    versions: Vec<Option<i64>>,
    names: Vec<Option<String>>,
    descriptions: Vec<Option<String>>,
    prices: Vec<Option<i64>>,
    stocks: Vec<Option<i64>>,
    requests: Vec<String>,
    callers: Vec<Option<String>>,
    deadlines: Vec<Option<DateTime<Utc>>>,
}

impl Rows {
    pub(super) fn new(updates: &[Update], clock: &DatabaseClock) -> Self {
        let mut rows = Self::default();
        for update in updates {
            let window = update.precondition.window;
            rows.ids.push(update.id);
            rows.fences.push(window.fence());
            rows.versions.push(update.precondition.version);
            rows.names.push(update.changes.name.clone());
            rows.descriptions.push(update.changes.description.clone());
            rows.prices.push(update.changes.price);
            rows.stocks.push(update.changes.stock);
            rows.requests
                .push(update.context.request.request_id.to_string());
            rows.callers.push(update.context.request.key_name());
            rows.deadlines.push(clock.at(window.deadline));
        }
        rows
    }
}

/// Updates the rows that exist, are not locked, meet their preconditions and whose windows have not
/// ended by the clock of the database, with an entry each. Returns what it found for each id.
///
/// It locks the rows first: their values cannot change between the comparison and the write.
const UPDATE_BATCH: &str = concat!(
    "WITH free AS MATERIALIZED (
         SELECT id, stock, version, fence FROM products WHERE id = ANY($1)
         FOR UPDATE SKIP LOCKED
     ), written AS (
         UPDATE products AS p SET
             name = coalesce(job.name, p.name),
             description = coalesce(job.description, p.description),
             price = coalesce(job.price, p.price),
             stock = coalesce(job.stock, p.stock),
             version = p.version + 1,
             fence = job.fence,
             updated_at = $8
         FROM free JOIN unnest($1, $2, $3, $4, $5, $6, $7, $9::text[], $10::timestamptz[],
                 $11::text[])
             AS job (id, fence, version, name, description, price, stock, request, deadline, caller)
             ON job.id = free.id
         WHERE p.id = job.id
             AND p.fence < job.fence
             AND p.version = coalesce(job.version, p.version)
             AND clock_timestamp() < coalesce(job.deadline, 'infinity')
         RETURNING p.*, p.stock - free.stock AS delta, job.request, job.caller
     ), booked AS (
         INSERT INTO ledger (product, version, id, reason, delta, stock_after, request,
             fence, at, caller)
         SELECT id, version, gen_random_uuid(), 'changed', delta, stock, request, fence, $8, caller
         FROM written
     )
     SELECT requested.id AS requested, free.version AS found_version, free.fence AS found_fence,
         EXISTS (SELECT FROM products AS p WHERE p.id = requested.id) AS is_present,
         clock_timestamp() AS clock, product.*
     FROM unnest($1) AS requested (id)
         LEFT JOIN free ON free.id = requested.id
         LEFT JOIN (SELECT ",
    with_clock!(product_columns),
    " FROM written AS products) AS product ON product.id = requested.id"
);

/// What a batch has found under an id.
pub(super) enum Found {
    /// The product was written.
    Written(Product),
    /// There is no such product.
    Nothing,
    /// The row is locked elsewhere.
    Locked,
    /// The row was not written. Its version and fence.
    Unwritten(i64, i64),
}

pub(super) type FoundRows = HashMap<i64, Found>;

/// Writes a batch in one statement, which is a transaction of its own.
pub(super) async fn write(
    connection: &mut PgConnection,
    rows: Rows,
    clock: DatabaseClock,
    tracker: CommitTracker,
) -> Result<FoundRows> {
    tracker.statement(update(connection, rows, &clock)).await
}

/// Writes a batch, and then the records of its responses, in one transaction. Returns `None`, and
/// nothing is written, if another transaction has used one of the idempotency keys, or if `deadline`
/// passes before the commit.
pub(super) async fn write_recorded(
    connection: &mut PgConnection,
    rows: Rows,
    record: impl FnOnce(&FoundRows) -> BTreeMap<IdempotencyKey, ResponseRecord>,
    clock: DatabaseClock,
    options: StorageOptions,
    deadline: Instant,
    tracker: CommitTracker,
) -> Result<Option<FoundRows>> {
    let mut transaction = row_locks::begin(connection).await?;
    let found = update(&mut transaction, rows, &clock).await?;
    failpoint::pause("transaction.begun").await;
    let records = record(&found);
    if records.is_empty() {
        transaction.rollback().await?;
        return Ok(Some(found));
    }
    // A refusal under a key belongs to an order, so to another request.
    let refusals = AcceptedRefusals::All;
    let inserted = records::insert(
        &mut transaction,
        records,
        BTreeMap::new(),
        refusals,
        options,
    );
    if !inserted.await? || deadline <= Instant::now() {
        transaction.rollback().await?;
        return Ok(None);
    }
    tracker.commit(transaction).await?;
    Ok(Some(found))
}

async fn update(
    connection: &mut PgConnection,
    rows: Rows,
    clock: &DatabaseClock,
) -> Result<FoundRows> {
    let found = sqlx::query(UPDATE_BATCH)
        .bind(rows.ids)
        .bind(rows.fences)
        .bind(rows.versions)
        .bind(rows.names)
        .bind(rows.descriptions)
        .bind(rows.prices)
        .bind(rows.stocks)
        .bind(now())
        .bind(rows.requests)
        .bind(rows.deadlines)
        .bind(rows.callers)
        .fetch_all(connection)
        .await?;
    if let Some(row) = found.last() {
        clock.note(row.try_get("clock")?);
    }
    let found = found.iter().map(|row| {
        let id = row.try_get("requested")?;
        Ok((id, Found::from_row(row)?))
    });
    found.collect()
}

impl FromRow<'_, PgRow> for Found {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let written: Option<i64> = row.try_get("id")?;
        let version: Option<i64> = row.try_get("found_version")?;
        Ok(match version {
            _ if written.is_some() => Self::Written(Product::from_row(row)?),
            Some(version) => Self::Unwritten(version, row.try_get("found_fence")?),
            None if row.try_get("is_present")? => Self::Locked,
            None => Self::Nothing,
        })
    }
}
