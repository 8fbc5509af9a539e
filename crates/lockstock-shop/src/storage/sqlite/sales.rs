//! Purchases and reservations: those that follow one another in a transaction take a few
//! statements together, however many there are (see [`settlement`](super::super::settlement)). SQLite has
//! no arrays, but reads JSON.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, SqliteConnection};
use uuid::Uuid;

use super::super::sale::{Entry, Figures, Order, Outcome, Reservation};
use super::super::settlement::{OnShelf, Shelf, settle};
use super::super::sql::RESERVATION;
use super::super::{Limits, Result, now};
use super::{as_text, records};

/// What becomes of the orders, in their order.
pub(super) async fn sell(
    writer: &mut SqliteConnection,
    orders: &[&Order],
    limits: Limits,
) -> Result<Vec<Outcome>> {
    let shelf = read(writer, orders, limits).await?;
    let books = settle(orders.iter().copied(), shelf);
    if !books.entries.is_empty() {
        book(writer, books.products, &books.entries).await?;
    }
    if !books.reservations.is_empty() {
        keep(writer, &books.reservations).await?;
    }
    records::note(writer, books.records).await?;
    Ok(books.outcomes)
}

async fn read(writer: &mut SqliteConnection, orders: &[&Order], limits: Limits) -> Result<Shelf> {
    let now = now();
    let wanted = orders
        .iter()
        .map(|order| order.product)
        .collect::<HashSet<_>>();
    let products: Vec<(i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT p.id, p.price, p.version, p.stock,
             (SELECT coalesce(sum(quantity), 0) FROM reservations AS r
              WHERE r.product = p.id AND r.state = 'held' AND r.expires_at > $2)
         FROM json_each($1) AS wanted JOIN products AS p ON p.id = wanted.value",
    )
    .bind(json!(wanted).to_string())
    .bind(as_text(now))
    .fetch_all(&mut *writer)
    .await?;
    let on_shelf = |(id, price, version, stock, held)| {
        let figures = Figures { stock, held };
        let product = OnShelf {
            price,
            version,
            figures,
        };
        (id, product)
    };
    let keys = orders.iter().filter_map(|order| order.once.as_ref());
    let keys = keys.map(|once| once.key.clone()).collect::<Vec<_>>();
    let records = match keys.is_empty() {
        true => HashMap::new(),
        false => records::find(writer, &keys, limits.forgotten()).await?,
    };
    Ok(Shelf {
        now,
        products: products.into_iter().map(on_shelf).collect(),
        reservations: reservations(writer, orders, now).await?,
        records,
    })
}

/// Those that orders name, and those of known callers who buy.
async fn reservations(
    writer: &mut SqliteConnection,
    orders: &[&Order],
    now: DateTime<Utc>,
) -> Result<BTreeMap<Uuid, Reservation>> {
    let named = orders.iter().filter_map(|order| order.wish.reservation());
    let named = named.map(hex).collect::<Vec<_>>();
    let buyers = orders.iter().filter_map(|order| order.buys_as());
    let buyers = buyers.map(|buyer| json!(buyer)).collect::<Vec<_>>();
    let mut found: Vec<Reservation> = Vec::new();
    if !named.is_empty() {
        let text = format!(
            "SELECT {RESERVATION} FROM reservations
             WHERE id IN (SELECT unhex(value) FROM json_each($1))"
        );
        let query = sqlx::query_as(AssertSqlSafe(text)).bind(Value::from(named).to_string());
        found.extend(query.fetch_all(&mut *writer).await?);
    }
    if !buyers.is_empty() {
        let text = format!(
            "SELECT {RESERVATION} FROM reservations
             WHERE state = 'held' AND caller <> '' AND expires_at > $2 AND (product, caller) IN
                 (SELECT value ->> 0, value ->> 1 FROM json_each($1))"
        );
        let query = sqlx::query_as(AssertSqlSafe(text))
            .bind(Value::from(buyers).to_string())
            .bind(as_text(now));
        found.extend(query.fetch_all(&mut *writer).await?);
    }
    Ok(found.into_iter().map(|found| (found.id, found)).collect())
}

async fn book(
    writer: &mut SqliteConnection,
    products: BTreeMap<i64, (i64, i64)>,
    entries: &[Entry],
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
    .execute(&mut *writer)
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
        ])
    });
    sqlx::query(
        "INSERT INTO ledger (product, version, id, reason, delta, stock_after, unit_price,
             reservation, request, at)
         SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4,
             value ->> 5, value ->> 6, unhex(value ->> 7), value ->> 8, $2
         FROM json_each($1)",
    )
    .bind(entries.collect::<Value>().to_string())
    .bind(at)
    .execute(writer)
    .await?;
    Ok(())
}

async fn keep(writer: &mut SqliteConnection, reservations: &[Reservation]) -> Result<()> {
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
         -- Without it SQLite would read ON CONFLICT as a condition of a join.
         WHERE true
         ON CONFLICT (id) DO UPDATE SET quantity = excluded.quantity, state = excluded.state,
             expires_at = excluded.expires_at, purchase = excluded.purchase",
    )
    .bind(rows.collect::<Value>().to_string())
    .execute(writer)
    .await?;
    Ok(())
}

/// As SQLite's `unhex` reads it.
fn hex(id: Uuid) -> String {
    id.simple().to_string()
}
