//! Purchases and reservations: consecutive orders of a transaction take a few statements
//! together, independent of their number. See [`settlement`](super::super::settlement).
//!
//! SQLite has no arrays, but reads JSON.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::super::settlement::{ProductState, Snapshot, settle};
use super::super::sql::reservation_columns;
use super::super::{
    LedgerEntry, Order, OrderOutcome, Reservation, Result, StockLevels, StorageError,
    StorageOptions, now,
};
use super::{as_text, records, refusals};

/// Carries out orders. Returns their outcomes in the same order.
pub(super) async fn execute(
    connection: &mut SqliteConnection,
    orders: &[&Order],
    options: StorageOptions,
) -> Result<Vec<OrderOutcome>> {
    if orders.iter().any(|order| order.is_too_old()) {
        return Err(StorageError::not_started());
    }
    let snapshot = read(connection, orders, options).await?;
    let writes = settle(orders.iter().copied(), snapshot);
    if !writes.entries.is_empty() {
        write_sales(connection, writes.products, &writes.entries).await?;
    }
    if !writes.reservations.is_empty() {
        write_reservations(connection, &writes.reservations).await?;
    }
    records::insert(connection, writes.records).await?;
    if !options.exclusive {
        refusals::insert(connection, writes.refusals).await?;
    }
    Ok(writes.outcomes)
}

async fn read(
    connection: &mut SqliteConnection,
    orders: &[&Order],
    options: StorageOptions,
) -> Result<Snapshot> {
    let now = now();
    let ids = orders
        .iter()
        .map(|order| order.product)
        .collect::<HashSet<_>>();
    let products: Vec<(i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT p.id, p.price, p.version, p.stock,
             (SELECT coalesce(sum(quantity), 0) FROM reservations AS r
              WHERE r.product = p.id AND r.state = 'held' AND r.expires_at > $2)
         FROM json_each($1) AS requested JOIN products AS p ON p.id = requested.value",
    )
    .bind(json!(ids).to_string())
    .bind(as_text(now))
    .fetch_all(&mut *connection)
    .await?;
    let products = products
        .into_iter()
        .map(|(id, price, version, stock, held)| {
            let levels = StockLevels { stock, held };
            let product = ProductState {
                price,
                version,
                levels,
            };
            (id, product)
        });
    let writes = orders.iter().filter_map(|order| order.idempotency.as_ref());
    let keys = writes.map(|write| write.key.clone()).collect::<Vec<_>>();
    let records = match keys.is_empty() {
        true => HashMap::new(),
        false => records::find(connection, &keys, options.expired_at()).await?,
    };
    let refused = match keys.is_empty() || options.exclusive {
        true => HashSet::new(),
        false => refusals::find(connection, orders).await?,
    };
    Ok(Snapshot {
        now,
        products: products.collect(),
        reservations: read_reservations(connection, orders, now).await?,
        records,
        refused,
    })
}

/// Returns the reservations that orders name, and the reservations of known callers that buy.
async fn read_reservations(
    connection: &mut SqliteConnection,
    orders: &[&Order],
    now: DateTime<Utc>,
) -> Result<BTreeMap<Uuid, Reservation>> {
    const SELECT_NAMED: &str = concat!(
        "SELECT ",
        reservation_columns!(),
        " FROM reservations WHERE id IN (SELECT unhex(value) FROM json_each($1))"
    );
    const SELECT_OWNED: &str = concat!(
        "SELECT ",
        reservation_columns!(),
        " FROM reservations
          WHERE state = 'held' AND caller <> '' AND expires_at > $2 AND (product, caller) IN
              (SELECT value ->> 0, value ->> 1 FROM json_each($1))"
    );
    let named = orders.iter().filter_map(|order| order.kind.reservation());
    let named = named.map(hex).collect::<Vec<_>>();
    let buyers = orders.iter().filter_map(|order| order.purchase_by());
    let buyers = buyers.map(|buyer| json!(buyer)).collect::<Vec<_>>();
    let mut found: Vec<Reservation> = Vec::new();
    if !named.is_empty() {
        let query = sqlx::query_as(SELECT_NAMED).bind(Value::from(named).to_string());
        found.extend(query.fetch_all(&mut *connection).await?);
    }
    if !buyers.is_empty() {
        let query = sqlx::query_as(SELECT_OWNED)
            .bind(Value::from(buyers).to_string())
            .bind(as_text(now));
        found.extend(query.fetch_all(&mut *connection).await?);
    }
    Ok(found.into_iter().map(|found| (found.id, found)).collect())
}

async fn write_sales(
    connection: &mut SqliteConnection,
    products: BTreeMap<i64, (i64, i64)>,
    entries: &[LedgerEntry],
) -> Result<()> {
    let at = entries.first().map(|entry| entry.at);
    let products = products
        .into_iter()
        .map(|(id, (stock, version))| json!([id, stock, version]));
    sqlx::query(
        "UPDATE products SET stock = now.value ->> 1, version = now.value ->> 2, updated_at = $2
         FROM json_each($1) AS now WHERE products.id = now.value ->> 0",
    )
    .bind(products.collect::<Value>().to_string())
    .bind(at)
    .execute(&mut *connection)
    .await?;
    let entries = entries.iter().map(|entry| {
        json!([
            entry.product,
            entry.version,
            hex(entry.id),
            entry.reason.name(),
            entry.delta,
            entry.stock_after,
            entry.unit_price,
            entry.reservation.map(hex),
            entry.request,
            entry.caller,
        ])
    });
    sqlx::query(
        "INSERT INTO ledger (product, version, id, reason, delta, stock_after, unit_price,
             reservation, request, caller, at)
         SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4,
             value ->> 5, value ->> 6, unhex(value ->> 7), value ->> 8, value ->> 9, $2
         FROM json_each($1)",
    )
    .bind(entries.collect::<Value>().to_string())
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_reservations(
    connection: &mut SqliteConnection,
    reservations: &[Reservation],
) -> Result<()> {
    let rows = reservations.iter().map(|reservation| {
        json!([
            hex(reservation.id),
            reservation.product,
            reservation.caller,
            reservation.quantity,
            reservation.state.name(),
            as_text(reservation.expires_at),
            reservation.purchase.map(hex),
            as_text(reservation.created_at),
        ])
    });
    sqlx::query(
        "INSERT INTO reservations (id, product, caller, quantity, state, expires_at, purchase,
             created_at)
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4,
             value ->> 5, unhex(value ->> 6), value ->> 7
         FROM json_each($1)
         -- Without it, SQLite parses ON CONFLICT as the condition of a join.
         WHERE true
         ON CONFLICT (id) DO UPDATE SET quantity = excluded.quantity, state = excluded.state,
             expires_at = excluded.expires_at, purchase = excluded.purchase",
    )
    .bind(rows.collect::<Value>().to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Formats an id for the `unhex` of SQLite.
fn hex(id: Uuid) -> String {
    id.simple().to_string()
}
