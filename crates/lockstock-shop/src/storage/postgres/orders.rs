//! Purchases and reservations: all orders of a product that arrived while a transaction ran are
//! carried out by the next one, in order of arrival. See
//! [`settlement`](super::super::settlement).
//!
//! A batch never waits for a product that is locked elsewhere: it skips the product, whose orders
//! are tried again on their own, for at most half the timeout of a call: see
//! [`row_locks`](super::row_locks). If a batch fails before its commit because a row violates a
//! constraint, its orders run again, one by one. An order that has not started within the timeout
//! of a call is dropped, and its caller receives an error.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::error::CommitTracker;
use super::super::settlement::{ProductState, Snapshot, Writes, settle};
use super::super::sql::reservation_columns;
use super::super::{
    LedgerEntry, Order, OrderOutcome, Reservation, Result, StockLevels, StorageError,
    StorageOptions,
};
use super::pool::Database;
use super::records::AcceptedRefusals;
use super::row_locks::{Attempts, LockedRows};
use super::{records, row_locks};
use crate::batch::{KeyBatch, StartToken};
use crate::failpoint;

pub(super) struct PendingOrder {
    pub(super) order: Order,
    pub(super) reply: oneshot::Sender<Result<OrderOutcome>>,
    pub(super) start: StartToken,
}

/// Maximum number of tries. Each conflict means that another transaction has committed a record,
/// which the next try finds; only a stream of new records could use up all tries.
const MAX_TRIES: u32 = 10;

/// Carries out batches of orders, one batch for each product.
pub(super) async fn execute(database: Database, mut batches: Vec<KeyBatch<PendingOrder>>) {
    for batch in &mut batches {
        batch.jobs.retain(|pending| pending.start.start());
    }
    let orders = orders(&batches);
    if orders.is_empty() {
        return;
    }
    match transact(&database, &orders, LockedRows::Skip).await {
        Ok(mut outcomes) => {
            for batch in &mut batches {
                reply(&mut outcomes, batch);
            }
        }
        // The error does not name the order, and nothing is written.
        Err(error) if error.is_row_error() && !error.commit_unknown() => {}
        // Another transaction is using a key of an order, or has locked a table.
        Err(error) if error.is_lock_timeout() && !error.commit_unknown() => {}
        Err(error) => return batches.iter_mut().for_each(|batch| fail(batch, &error)),
    }
    for batch in batches {
        if !batch.jobs.is_empty() {
            tokio::spawn(execute_single(database.clone(), batch));
        }
    }
}

/// Replies to the orders of a product, unless it was skipped.
fn reply(outcomes: &mut HashMap<i64, Vec<OrderOutcome>>, batch: &mut KeyBatch<PendingOrder>) {
    if let Some(outcomes) = outcomes.remove(&batch.key) {
        for (pending, outcome) in batch.jobs.drain(..).zip(outcomes) {
            let _ = pending.reply.send(Ok(outcome));
        }
    }
}

fn fail(batch: &mut KeyBatch<PendingOrder>, error: &StorageError) {
    for pending in batch.jobs.drain(..) {
        let _ = pending.reply.send(Err(error.clone()));
    }
}

fn orders(batches: &[KeyBatch<PendingOrder>]) -> Vec<Order> {
    let pending = batches.iter().flat_map(|batch| &batch.jobs);
    pending.map(|pending| pending.order.clone()).collect()
}

/// Carries out the orders of one product. While it is locked elsewhere, tries again.
async fn execute_single(database: Database, mut batch: KeyBatch<PendingOrder>) {
    let all = orders(std::slice::from_ref(&batch));
    match transact_single(&database, &all).await {
        Ok(outcomes) => {
            for (pending, outcome) in batch.jobs.drain(..).zip(outcomes) {
                let _ = pending.reply.send(Ok(outcome));
            }
        }
        Err(error) if error.is_row_error() && !error.commit_unknown() && all.len() > 1 => {
            for pending in batch.jobs.drain(..) {
                let order = std::slice::from_ref(&pending.order);
                let outcome = transact_single(&database, order).await;
                let outcome = outcome.and_then(|mut outcomes| {
                    let outcome = outcomes.pop();
                    outcome.ok_or_else(|| StorageError::bug("an order has no outcome"))
                });
                let _ = pending.reply.send(outcome);
            }
        }
        Err(error) => fail(&mut batch, &error),
    }
}

/// Carries out orders of one product in one transaction.
async fn transact_single(database: &Database, orders: &[Order]) -> Result<Vec<OrderOutcome>> {
    // Half of the timeout: the attempts and their last transaction take no longer than a call.
    let mut attempts = Attempts::until(Instant::now() + database.options.timeout / 2);
    loop {
        let (locked_rows, permit) = attempts.begin(database);
        let settled = transact(database, orders, locked_rows).await;
        drop(permit);
        match settled.map(|outcomes| outcomes.into_values().next()) {
            Ok(Some(outcomes)) => return Ok(outcomes),
            Ok(None) => {}
            Err(error) if error.is_lock_timeout() && !error.commit_unknown() => {}
            Err(error) => return Err(error),
        }
        if !attempts.pause().await {
            return Err(StorageError::rows_locked());
        }
    }
}

/// Carries out orders in one transaction. Returns the outcomes of each product that was not
/// skipped. If the transaction certainly had no effect and may succeed now, runs it again.
async fn transact(
    database: &Database,
    orders: &[Order],
    locked_rows: LockedRows,
) -> Result<HashMap<i64, Vec<OrderOutcome>>> {
    let mut tries = 0;
    loop {
        tries += 1;
        let tracker = CommitTracker::default();
        let (commit, orders) = (tracker.clone(), orders.to_vec());
        let settling = database.clone();
        let settled = database
            .with_connection(|connection| {
                Box::pin(try_transact(
                    connection,
                    orders,
                    locked_rows,
                    settling,
                    commit,
                ))
            })
            .await
            .map_err(|error| tracker.mark(error));
        match settled {
            Ok(Some(outcomes)) => return Ok(outcomes),
            // The conflicting record is committed: the next try finds it.
            Ok(None) if tries < MAX_TRIES => {}
            Ok(None) => return Err(StorageError::key_conflicts()),
            // A restart of the database has broken the connection.
            Err(error) if error.is_broken_connection() && !error.commit_unknown() && tries < 2 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns `None`, and nothing is written, if another transaction has used one of the idempotency
/// keys meanwhile.
async fn try_transact(
    connection: &mut PgConnection,
    orders: Vec<Order>,
    locked_rows: LockedRows,
    database: Database,
    tracker: CommitTracker,
) -> Result<Option<HashMap<i64, Vec<OrderOutcome>>>> {
    let mut transaction = row_locks::begin(connection).await?;
    let ids = orders
        .iter()
        .map(|order| order.product)
        .collect::<HashSet<_>>();
    let mut ids = ids.into_iter().collect::<Vec<_>>();
    ids.sort_unstable();
    let locked = lock(&mut transaction, &ids, locked_rows).await?;
    let skipped = match locked_rows {
        LockedRows::Wait => HashSet::new(),
        LockedRows::Skip => find_skipped(&mut transaction, &ids, &locked).await?,
    };
    let orders = orders
        .into_iter()
        .filter(|order| !skipped.contains(&order.product))
        .collect::<Vec<_>>();
    if orders.is_empty() {
        transaction.rollback().await?;
        return Ok(Some(HashMap::new()));
    }
    failpoint::pause("transaction.begun").await;
    if orders.iter().any(Order::is_too_old) {
        return Err(StorageError::not_started());
    }
    let (snapshot, accepted) = read(&mut transaction, &orders, locked, &database).await?;
    let mut writes = settle(&orders, snapshot);
    let outcomes = std::mem::take(&mut writes.outcomes);
    if writes.are_empty() {
        transaction.rollback().await?;
    } else {
        let refuses = !writes.refusals.is_empty();
        if !write(&mut transaction, writes, accepted, database.options).await? {
            transaction.rollback().await?;
            return Ok(None);
        }
        tracker.commit(transaction).await?;
        // If it fails, the next try at this server gets `in_flight` once more than it has to.
        if refuses && let Err(error) = database.newest_snapshot.refresh(connection).await {
            tracing::debug!(%error, "no snapshot after a refusal");
        }
    }
    let mut by_product = HashMap::<i64, Vec<OrderOutcome>>::new();
    for (order, outcome) in orders.iter().zip(outcomes) {
        outcome.count(order.kind);
        by_product.entry(order.product).or_default().push(outcome);
    }
    Ok(Some(by_product))
}

/// A row of id, price, stock and version.
type LockedProduct = (i64, i64, i64, i64);

/// Locks products in the order of their ids, so that transactions cannot deadlock.
async fn lock(
    connection: &mut PgConnection,
    ids: &[i64],
    locked_rows: LockedRows,
) -> Result<Vec<LockedProduct>> {
    let text = match locked_rows {
        LockedRows::Skip => {
            "SELECT id, price, stock, version FROM products WHERE id = ANY($1) ORDER BY id
             FOR UPDATE SKIP LOCKED"
        }
        LockedRows::Wait => {
            "SELECT id, price, stock, version FROM products WHERE id = ANY($1) ORDER BY id
             FOR UPDATE"
        }
    };
    let query = sqlx::query_as(text).bind(ids);
    Ok(query.fetch_all(connection).await?)
}

/// Returns the products that exist, but were skipped.
async fn find_skipped(
    connection: &mut PgConnection,
    ids: &[i64],
    locked: &[LockedProduct],
) -> Result<HashSet<i64>> {
    if locked.len() == ids.len() {
        return Ok(HashSet::new());
    }
    let existing: Vec<i64> = sqlx::query_scalar("SELECT id FROM products WHERE id = ANY($1)")
        .bind(ids)
        .fetch_all(connection)
        .await?;
    let locked = locked
        .iter()
        .map(|product| product.0)
        .collect::<HashSet<_>>();
    Ok(existing
        .into_iter()
        .filter(|id| !locked.contains(id))
        .collect())
}

/// A row of product, held units, time and snapshot. One row has no product; it has the snapshot.
type HeldUnits = (Option<i64>, i64, DateTime<Utc>, Option<String>);

/// Reads the data that the orders depend on. Called after the products are locked: each statement
/// sees everything that the previous lock owners have committed.
async fn read(
    connection: &mut PgConnection,
    orders: &[Order],
    locked: Vec<LockedProduct>,
    database: &Database,
) -> Result<(Snapshot, AcceptedRefusals)> {
    let ids = locked.iter().map(|product| product.0).collect::<Vec<_>>();
    let held: Vec<HeldUnits> = sqlx::query_as(
        "SELECT requested.id, coalesce(held.quantity, 0)::bigint, statement_timestamp(),
             CASE WHEN requested.id IS NULL THEN pg_current_snapshot()::text END
         FROM (SELECT unnest($1::bigint[]) UNION ALL SELECT NULL) AS requested (id)
             LEFT JOIN LATERAL (
                 SELECT sum(quantity) AS quantity FROM reservations
                 WHERE product = requested.id AND state = 'held'
                     AND expires_at > statement_timestamp()
             ) AS held ON true",
    )
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let now = held.first().map_or_else(Utc::now, |row| row.2);
    if let Some(snapshot) = held.iter().find_map(|row| row.3.as_deref()) {
        database.newest_snapshot.keep(snapshot);
    }
    let held: HashMap<i64, i64> = held
        .into_iter()
        .filter_map(|row| Some((row.0?, row.1)))
        .collect();
    let products = locked.into_iter().map(|(id, price, stock, version)| {
        let held = held.get(&id).copied().unwrap_or_default();
        let levels = StockLevels { stock, held };
        let product = ProductState {
            price,
            version,
            levels,
        };
        (id, product)
    });
    let reservations = read_reservations(connection, orders, now).await?;
    let found = records::find_of(connection, orders, database.options).await?;
    let snapshot = Snapshot {
        now,
        products: products.collect(),
        reservations,
        records: found.records,
        refused: found.refused,
    };
    Ok((snapshot, found.accepted))
}

/// Returns the reservations that orders name, and the reservations of known callers that buy.
async fn read_reservations(
    connection: &mut PgConnection,
    orders: &[Order],
    now: DateTime<Utc>,
) -> Result<BTreeMap<Uuid, Reservation>> {
    const SELECT: &str = concat!(
        "SELECT ",
        reservation_columns!(),
        " FROM reservations WHERE id = ANY($1)
         UNION
         SELECT r.*
         FROM (SELECT DISTINCT * FROM unnest($2::bigint[], $3::text[])) AS buyer (product, caller)
             CROSS JOIN LATERAL (
                 SELECT ",
        reservation_columns!(),
        "
                 FROM reservations AS r
                 WHERE r.product = buyer.product AND r.caller = buyer.caller
                     AND r.state = 'held' AND r.caller <> ''
                     -- The time of the sum: whatever it counts as held is read here too.
                     AND r.expires_at > $4
                 OFFSET 0
             ) AS r"
    );
    let named = orders.iter().filter_map(|order| order.kind.reservation());
    let named = named.collect::<Vec<_>>();
    let (products, callers): (Vec<i64>, Vec<String>) = orders
        .iter()
        .filter_map(Order::purchase_by)
        .map(|(product, caller)| (product, caller.to_owned()))
        .unzip();
    if named.is_empty() && products.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found: Vec<Reservation> = sqlx::query_as(SELECT)
        .bind(named)
        .bind(products)
        .bind(callers)
        .bind(now)
        .fetch_all(connection)
        .await?;
    Ok(found.into_iter().map(|found| (found.id, found)).collect())
}

/// Writes everything. Returns false if another transaction has used one of the idempotency keys.
async fn write(
    connection: &mut PgConnection,
    writes: Writes,
    accepted: AcceptedRefusals,
    options: StorageOptions,
) -> Result<bool> {
    if !writes.entries.is_empty() {
        write_sales(connection, writes.products, &writes.entries).await?;
    }
    if !writes.reservations.is_empty() {
        write_reservations(connection, &writes.reservations).await?;
    }
    let (records, refusals) = (writes.records, writes.refusals);
    records::insert(connection, records, refusals, accepted, options).await
}

async fn write_sales(
    connection: &mut PgConnection,
    products: BTreeMap<i64, (i64, i64)>,
    entries: &[LedgerEntry],
) -> Result<()> {
    let ids = products.keys().copied().collect::<Vec<_>>();
    let (stocks, versions): (Vec<_>, Vec<_>) = products.into_values().unzip();
    let at = entries.first().map(|entry| entry.at);
    sqlx::query(
        "WITH sold AS (
             UPDATE products AS p SET stock = now.stock, version = now.version, updated_at = $4
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS now (id, stock, version)
             WHERE p.id = now.id
         )
         INSERT INTO ledger (product, version, id, reason, delta, stock_after, unit_price,
             reservation, request, caller, at)
         SELECT product, version, id, reason, delta, stock_after, unit_price, reservation,
             request, caller, $4
         FROM unnest($5::bigint[], $6::bigint[], $7::uuid[], $8::text[], $9::bigint[],
                 $10::bigint[], $11::bigint[], $12::uuid[], $13::text[], $14::text[])
             AS entry (product, version, id, reason, delta, stock_after, unit_price,
                 reservation, request, caller)",
    )
    .bind(ids)
    .bind(stocks)
    .bind(versions)
    .bind(at)
    .bind(column(entries, |entry| entry.product))
    .bind(column(entries, |entry| entry.version))
    .bind(column(entries, |entry| entry.id))
    .bind(column(entries, |entry| entry.reason.name()))
    .bind(column(entries, |entry| entry.delta))
    .bind(column(entries, |entry| entry.stock_after))
    .bind(column(entries, |entry| entry.unit_price))
    .bind(column(entries, |entry| entry.reservation))
    .bind(column(entries, |entry| entry.request.clone()))
    .bind(column(entries, |entry| entry.caller.clone()))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_reservations(
    connection: &mut PgConnection,
    reservations: &[Reservation],
) -> Result<()> {
    sqlx::query(
        "INSERT INTO reservations (id, product, caller, quantity, state, expires_at, purchase,
             created_at)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::text[],
             $6::timestamptz[], $7::uuid[], $8::timestamptz[])
         ON CONFLICT (id) DO UPDATE SET quantity = excluded.quantity, state = excluded.state,
             expires_at = excluded.expires_at, purchase = excluded.purchase",
    )
    .bind(column(reservations, |reservation| reservation.id))
    .bind(column(reservations, |reservation| reservation.product))
    .bind(column(reservations, |reservation| {
        reservation.caller.clone()
    }))
    .bind(column(reservations, |reservation| reservation.quantity))
    .bind(column(reservations, |reservation| reservation.state.name()))
    .bind(column(reservations, |reservation| reservation.expires_at))
    .bind(column(reservations, |reservation| reservation.purchase))
    .bind(column(reservations, |reservation| reservation.created_at))
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns one field of all rows, as an array for `unnest`.
fn column<'r, Row, T>(rows: &'r [Row], field: impl Fn(&'r Row) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}
