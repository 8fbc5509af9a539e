//! Purchases and reservations: all that arrived for a product while a transaction was under
//! way go into the next one, in their order (see [`settlement`](super::super::settlement)).
//!
//! A batch never waits for a product that somebody else has locked: it skips that one, whose
//! orders wait alone, and no longer than half the time that a call may take. A batch that failed
//! before its commit because a row broke a rule goes again, each order alone: one order's reason
//! is nobody else's. An order that has not begun within the time that a call may take never
//! does, and its caller hears so.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use super::super::sale::{Entry, Figures, Key, Order, Outcome, Recorded, Reservation};
use super::super::settlement::{Books, OnShelf, Shelf, settle};
use super::super::{Committing, Limits, Result, StorageError};
use super::pool::Database;
use super::records;
use crate::batch::{Ticket, Turn};
use crate::failpoint;

pub(super) struct Sale {
    pub(super) order: Order,
    pub(super) answer: oneshot::Sender<Result<Outcome>>,
    pub(super) ticket: Ticket,
}

/// What is done about a product that somebody else has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locked {
    Skip,
    Wait,
}

pub(super) async fn sell(database: Database, mut turns: Vec<Turn<Sale>>) {
    for turn in &mut turns {
        turn.jobs.retain(|sale| sale.ticket.begin());
    }
    let orders = orders(&turns);
    if orders.is_empty() {
        return;
    }
    match attempt(&database, &orders, Locked::Skip).await {
        Ok(mut outcomes) => {
            for turn in &mut turns {
                answer(&mut outcomes, turn);
            }
        }
        // Somebody's in it: nobody knows whose. Nothing is written.
        Err(error) if error.is_one_rows_fault() && !error.may_be_written() => {}
        Err(error) => return turns.iter_mut().for_each(|turn| fail(turn, &error)),
    }
    for turn in turns {
        if !turn.jobs.is_empty() {
            tokio::spawn(alone(database.clone(), turn));
        }
    }
}

/// Answers the orders of a turn, unless its product was skipped.
fn answer(outcomes: &mut HashMap<i64, Vec<Outcome>>, turn: &mut Turn<Sale>) {
    if let Some(outcomes) = outcomes.remove(&turn.key) {
        for (sale, outcome) in turn.jobs.drain(..).zip(outcomes) {
            let _ = sale.answer.send(Ok(outcome));
        }
    }
}

fn fail(turn: &mut Turn<Sale>, error: &StorageError) {
    for sale in turn.jobs.drain(..) {
        let _ = sale.answer.send(Err(error.clone()));
    }
}

fn orders(turns: &[Turn<Sale>]) -> Vec<Order> {
    let sales = turns.iter().flat_map(|turn| &turn.jobs);
    sales.map(|sale| sale.order.clone()).collect()
}

/// The orders of one product, which waits for whoever has locked it.
async fn alone(database: Database, mut turn: Turn<Sale>) {
    let place = timeout(database.limits.timeout, database.sales_alone.acquire()).await;
    let Ok(place) = place else {
        return fail(&mut turn, &StorageError::no_turn());
    };
    let all = orders(std::slice::from_ref(&turn));
    match attempt(&database, &all, Locked::Wait).await {
        Ok(mut outcomes) => answer(&mut outcomes, &mut turn),
        // One of several is to blame.
        Err(error) if error.is_one_rows_fault() && !error.may_be_written() && all.len() > 1 => {
            for sale in turn.jobs.drain(..) {
                let order = std::slice::from_ref(&sale.order);
                let outcome = attempt(&database, order, Locked::Wait).await;
                let outcome = outcome.and_then(|mut outcomes| {
                    let outcomes = outcomes.remove(&sale.order.product);
                    let outcome = outcomes.and_then(|mut outcomes| outcomes.pop());
                    outcome.ok_or_else(StorageError::closed)
                });
                let _ = sale.answer.send(outcome);
            }
        }
        Err(error) => fail(&mut turn, &error),
    }
    drop(place);
}

/// One transaction: the outcomes of each product's orders, of those products that were not
/// skipped. Tried a second time where it certainly had no effect and may fare better.
async fn attempt(
    database: &Database,
    orders: &[Order],
    locked: Locked,
) -> Result<HashMap<i64, Vec<Outcome>>> {
    let mut tries = 0;
    loop {
        tries += 1;
        let committing = Committing::default();
        let (commits, orders) = (committing.clone(), orders.to_vec());
        let limits = database.limits;
        let sold = database
            .run(|connection| Box::pin(transact(connection, orders, locked, limits, commits)))
            .await
            .map_err(|error| committing.note(error));
        match sold {
            Ok(Some(outcomes)) => return Ok(outcomes),
            // A key of theirs was used meanwhile, for another product: now it can be seen.
            Ok(None) if tries < 10 => {}
            Ok(None) => return Err(StorageError::closed()),
            // The connection was one that a restart of the database had left behind.
            Err(error) if error.is_broken_connection() && !error.may_be_written() && tries < 2 => {}
            Err(error) => return Err(error),
        }
    }
}

/// `None`, and nothing written, if a key was used by somebody else meanwhile.
async fn transact(
    connection: &mut PgConnection,
    orders: Vec<Order>,
    locked: Locked,
    limits: Limits,
    committing: Committing,
) -> Result<Option<HashMap<i64, Vec<Outcome>>>> {
    let mut transaction = connection.begin().await?;
    if locked == Locked::Wait {
        // Well before we give up on the connection: nobody else is to blame for that.
        let milliseconds = (limits.timeout / 2).as_millis().max(1);
        let text = format!("SET LOCAL lock_timeout = {milliseconds}");
        sqlx::raw_sql(AssertSqlSafe(text))
            .execute(&mut *transaction)
            .await?;
    }
    let wanted = orders
        .iter()
        .map(|order| order.product)
        .collect::<HashSet<_>>();
    let mut wanted = wanted.into_iter().collect::<Vec<_>>();
    wanted.sort_unstable();
    let products = lock(&mut transaction, &wanted, locked).await?;
    let skipped = match locked {
        Locked::Wait => HashSet::new(),
        Locked::Skip => missing(&mut transaction, &wanted, &products).await?,
    };
    let orders = orders
        .into_iter()
        .filter(|order| !skipped.contains(&order.product))
        .collect::<Vec<_>>();
    failpoint::pause("transaction.begun").await;
    let shelf = read(&mut transaction, &orders, products, limits).await?;
    let mut books = settle(&orders, shelf);
    let outcomes = std::mem::take(&mut books.outcomes);
    if books.are_empty() {
        transaction.rollback().await?;
    } else {
        let noted = write(&mut transaction, books, limits).await?;
        if !noted {
            transaction.rollback().await?;
            return Ok(None);
        }
        committing.commit(transaction).await?;
    }
    let mut of_products = HashMap::<i64, Vec<Outcome>>::new();
    for (order, outcome) in orders.iter().zip(outcomes) {
        of_products.entry(order.product).or_default().push(outcome);
    }
    Ok(Some(of_products))
}

type Locks = Vec<(i64, i64, i64, i64)>;

/// Locks the products, in the order of their ids: so nobody waits for somebody who waits for
/// them.
async fn lock(connection: &mut PgConnection, wanted: &[i64], locked: Locked) -> Result<Locks> {
    let skip = match locked {
        Locked::Skip => "SKIP LOCKED",
        Locked::Wait => "",
    };
    let text = format!(
        "SELECT id, price, stock, version FROM products WHERE id = ANY($1) ORDER BY id
         FOR UPDATE {skip}"
    );
    let query = sqlx::query_as(AssertSqlSafe(text)).bind(wanted);
    Ok(query.fetch_all(connection).await?)
}

/// Those of the products that exist and were skipped.
async fn missing(
    connection: &mut PgConnection,
    wanted: &[i64],
    locked: &Locks,
) -> Result<HashSet<i64>> {
    if locked.len() == wanted.len() {
        return Ok(HashSet::new());
    }
    let there: Vec<i64> = sqlx::query_scalar("SELECT id FROM products WHERE id = ANY($1)")
        .bind(wanted)
        .fetch_all(connection)
        .await?;
    let locked = locked
        .iter()
        .map(|product| product.0)
        .collect::<HashSet<_>>();
    Ok(there
        .into_iter()
        .filter(|id| !locked.contains(id))
        .collect())
}

/// After the products are locked, in statements of their own: each sees what was committed
/// before it began, and what the locks were waited for with it.
async fn read(
    connection: &mut PgConnection,
    orders: &[Order],
    products: Locks,
    limits: Limits,
) -> Result<Shelf> {
    let ids = products.iter().map(|product| product.0).collect::<Vec<_>>();
    let held: Vec<(Option<i64>, i64, DateTime<Utc>)> = sqlx::query_as(
        "SELECT wanted.id, coalesce(held.quantity, 0)::bigint, statement_timestamp()
         FROM (SELECT unnest($1::bigint[]) UNION ALL SELECT NULL) AS wanted (id)
             LEFT JOIN LATERAL (
                 SELECT sum(quantity) AS quantity FROM reservations
                 WHERE product = wanted.id AND state = 'held'
                     AND expires_at > statement_timestamp()
             ) AS held ON true",
    )
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let now = held.first().map_or_else(Utc::now, |(_, _, now)| *now);
    let held: HashMap<i64, i64> = held
        .into_iter()
        .filter_map(|(id, held, _)| Some((id?, held)))
        .collect();
    let on_shelf = |(id, price, stock, version): (i64, i64, i64, i64)| {
        let held = held.get(&id).copied().unwrap_or_default();
        let figures = Figures { stock, held };
        let product = OnShelf {
            price,
            version,
            figures,
        };
        (id, product)
    };
    Ok(Shelf {
        now,
        products: products.into_iter().map(on_shelf).collect(),
        reservations: reservations(connection, orders, now).await?,
        records: known(connection, orders, limits).await?,
    })
}

/// Those that orders name, and those of known callers who buy.
async fn reservations(
    connection: &mut PgConnection,
    orders: &[Order],
    now: DateTime<Utc>,
) -> Result<BTreeMap<Uuid, Reservation>> {
    let named = orders.iter().filter_map(|order| order.wish.reservation());
    let named = named.collect::<Vec<_>>();
    let (products, callers): (Vec<i64>, Vec<String>) = orders
        .iter()
        .filter_map(Order::buys_as)
        .map(|(product, caller)| (product, caller.to_owned()))
        .unzip();
    if named.is_empty() && products.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found: Vec<Reservation> = sqlx::query_as(
        "SELECT id, product, caller, quantity, state, expires_at, purchase, created_at
         FROM reservations WHERE id = ANY($1)
         UNION
         SELECT r.*
         FROM (SELECT DISTINCT * FROM unnest($2::bigint[], $3::text[])) AS buyer (product, caller)
             CROSS JOIN LATERAL (
                 SELECT id, product, caller, quantity, state, expires_at, purchase, created_at
                 FROM reservations AS r
                 WHERE r.product = buyer.product AND r.caller = buyer.caller
                     AND r.state = 'held' AND r.caller <> ''
                     -- As the sum had it: what counts as held is known to be its owner's.
                     AND r.expires_at > $4
                 OFFSET 0
             ) AS r",
    )
    .bind(named)
    .bind(products)
    .bind(callers)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|found| (found.id, found)).collect())
}

async fn known(
    connection: &mut PgConnection,
    orders: &[Order],
    limits: Limits,
) -> Result<HashMap<Key, Recorded>> {
    let keys = orders.iter().filter_map(|order| order.once.as_ref());
    let keys = keys.map(|once| once.key.clone()).collect::<Vec<_>>();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    records::find(connection, keys, limits).await
}

/// Whether all keys could be noted.
async fn write(connection: &mut PgConnection, books: Books, limits: Limits) -> Result<bool> {
    if !books.entries.is_empty() {
        book(connection, books.products, &books.entries).await?;
    }
    if !books.reservations.is_empty() {
        keep(connection, &books.reservations).await?;
    }
    records::note(connection, books.records, limits).await
}

async fn book(
    connection: &mut PgConnection,
    products: BTreeMap<i64, (i64, i64)>,
    entries: &[Entry],
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
             reservation, request, at)
         SELECT product, version, id, reason, delta, stock_after, unit_price, reservation,
             request, $4
         FROM unnest($5::bigint[], $6::bigint[], $7::uuid[], $8::text[], $9::bigint[],
                 $10::bigint[], $11::bigint[], $12::uuid[], $13::text[])
             AS entry (product, version, id, reason, delta, stock_after, unit_price,
                 reservation, request)",
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
    .execute(connection)
    .await?;
    Ok(())
}

async fn keep(connection: &mut PgConnection, reservations: &[Reservation]) -> Result<()> {
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

/// One field of all rows, as Postgres takes them.
fn column<'r, Row, T>(rows: &'r [Row], field: impl Fn(&'r Row) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}
