//! Updates: one statement writes all that arrived while the one before was under way, and each
//! row is refused or written for itself. Such a batch never waits for a row that somebody else
//! has locked: it skips it, and that one update waits alone, for no longer than its lock is
//! held. So does one with a key, whose answer is recorded in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::super::sql::INSERT_ENTRY;
use super::super::{
    Cause, Changes, Committing, Condition, Entry, Limits, Product, Recorded, Result, StorageError,
    Written, now,
};
use super::pool::Database;
use super::{PRODUCT, records};
use crate::failpoint;

pub(super) struct Update {
    pub(super) id: i64,
    pub(super) changes: Changes,
    pub(super) condition: Condition,
    pub(super) cause: Cause,
    pub(super) answer: oneshot::Sender<Result<Written<Product>>>,
}

/// Writes all that can be written at once; whatever cannot goes alone, on its own time.
pub(super) async fn update(database: Database, batch: Vec<Update>) {
    let mut taken = HashSet::new();
    // One row, one writer: a second update of the same product would not find its version.
    let (mut together, apart): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| {
        !job.changes.is_empty() && job.cause.once.is_none() && taken.insert(job.id)
    });
    for job in apart {
        go_alone(&database, job);
    }
    loop {
        let (over, rest): (Vec<_>, Vec<_>) = together
            .into_iter()
            .partition(|job| job.condition.turn.is_over());
        for job in over {
            let _ = job.answer.send(Ok(Written::Lost));
        }
        together = rest;
        if together.is_empty() {
            return;
        }
        let rows = Rows::of(&together);
        let deadline = together.iter().map(|job| job.condition.turn.deadline).min();
        let committing = Committing::default();
        let commits = committing.clone();
        let written = database
            .run(|connection| Box::pin(write_together(connection, rows, deadline, commits)))
            .await
            .map_err(|error| committing.note(error));
        match written {
            // Somebody's turn ended on the way. Nothing is committed; the others go again.
            Ok(None) => {}
            Ok(Some(mut written)) => {
                for job in together {
                    match written.remove(&job.id) {
                        Some(product) => drop(job.answer.send(Ok(Written::Done(product)))),
                        None => go_alone(&database, job),
                    }
                }
                return;
            }
            // One of them breaks a rule of the tables, nobody knows which, and none is written.
            Err(error) if error.is_one_rows_fault() && !error.may_be_written() => {
                for job in together {
                    go_alone(&database, job);
                }
                return;
            }
            Err(error) => {
                for job in together {
                    let _ = job.answer.send(Err(error.clone()));
                }
                return;
            }
        }
    }
}

/// The columns of a batch, as Postgres takes them.
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
    fn of(jobs: &[Update]) -> Self {
        let mut rows = Self::default();
        for job in jobs {
            rows.ids.push(job.id);
            rows.fences.push(job.condition.turn.fence());
            rows.versions.push(job.condition.version);
            rows.names.push(job.changes.name.clone());
            rows.descriptions.push(job.changes.description.clone());
            rows.prices.push(job.changes.price);
            rows.stocks.push(job.changes.stock);
            rows.requests.push(job.cause.origin.request.to_string());
        }
        rows
    }
}

/// Writes the rows that are there, unlocked and fit their conditions. `None`, and nothing
/// written, if the `deadline` came before the commit.
async fn write_together(
    connection: &mut PgConnection,
    rows: Rows,
    deadline: Option<Instant>,
    committing: Committing,
) -> Result<Option<HashMap<i64, Product>>> {
    let mut transaction = connection.begin().await?;
    let text = format!(
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
         SELECT {PRODUCT} FROM written AS products"
    );
    let written: Vec<Product> = sqlx::query_as(AssertSqlSafe(text))
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
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        transaction.rollback().await?;
        return Ok(None);
    }
    committing.commit(transaction).await?;
    Ok(Some(
        written
            .into_iter()
            .map(|product| (product.id, product))
            .collect(),
    ))
}

pub(super) enum Change {
    Update(Changes),
    Delete,
}

fn go_alone(database: &Database, job: Update) {
    let database = database.clone();
    tokio::spawn(async move {
        let change = Change::Update(job.changes);
        let written = alone(&database, job.id, change, job.condition, job.cause).await;
        let _ = job.answer.send(written);
    });
}

/// Changes one row, waiting for whoever has locked it, but not beyond the end of the turn.
pub(super) async fn alone(
    database: &Database,
    id: i64,
    change: Change,
    condition: Condition,
    cause: Cause,
) -> Result<Written<Product>> {
    let turn = condition.turn;
    let Ok(place) = timeout_at(turn.deadline, database.changes_alone.acquire()).await else {
        return Ok(Written::Lost);
    };
    let committing = Committing::default();
    let job = Alone {
        id,
        change,
        condition,
        cause,
        limits: database.limits,
        committing: committing.clone(),
    };
    let written = database
        .run(|connection| Box::pin(job.write(connection)))
        .await
        .map_err(|error| committing.note(error));
    drop(place);
    match written {
        Err(error) if turn.is_over() && !error.may_be_written() => Ok(Written::Lost),
        written => written,
    }
}

/// A change in a transaction of its own.
struct Alone {
    id: i64,
    change: Change,
    condition: Condition,
    cause: Cause,
    limits: Limits,
    committing: Committing,
}

impl Alone {
    async fn write(self, connection: &mut PgConnection) -> Result<Written<Product>> {
        let turn = self.condition.turn;
        let left = turn.deadline.saturating_duration_since(Instant::now());
        let mut transaction = connection.begin().await?;
        // Rounded up: when it fires the turn is over.
        let text = format!("SET LOCAL lock_timeout = {}", left.as_millis() + 1);
        sqlx::raw_sql(AssertSqlSafe(text))
            .execute(&mut *transaction)
            .await?;
        let locked: Option<(i64, i64, i64)> =
            sqlx::query_as("SELECT version, fence, stock FROM products WHERE id = $1 FOR UPDATE")
                .bind(self.id)
                .fetch_optional(&mut *transaction)
                .await?;
        // With the product locked: whoever used the key for it before us has committed.
        if let Some(recorded) = recorded(&mut transaction, &self.cause, self.limits).await? {
            transaction.rollback().await?;
            return Ok(Written::Recorded(recorded));
        }
        let fits = locked.is_some_and(|(version, fence, _)| {
            fence < turn.fence() && self.condition.version.is_none_or(|seen| seen == version)
        });
        let Some((version, _, stock)) = locked.filter(|_| fits) else {
            transaction.rollback().await?;
            let found = locked.map(|(version, fence, _)| (version, fence));
            return Ok(self.condition.refusal(found));
        };
        failpoint::pause("transaction.begun").await;
        let product = self.change(&mut transaction).await?;
        let noted = note_answer(&mut transaction, &self.cause, &product, self.limits).await?;
        if !noted {
            transaction.rollback().await?;
            // By another request, which came in between with the same key.
            let recorded = recorded(connection, &self.cause, self.limits).await?;
            return recorded
                .map(Written::Recorded)
                .ok_or_else(StorageError::closed);
        }
        let origin = &self.cause.origin;
        let entry = match self.change {
            Change::Delete => Some(Entry::deleted(&product, turn, origin)),
            Change::Update(_) if product.version == version => None,
            Change::Update(_) => Some(Entry::changed(&product, stock, turn, origin)),
        };
        if let Some(entry) = entry {
            insert_entry(&mut transaction, entry).await?;
        }
        if turn.is_over() {
            transaction.rollback().await?;
            return Ok(Written::Lost);
        }
        self.committing.commit(transaction).await?;
        Ok(Written::Done(product))
    }

    async fn change(&self, connection: &mut PgConnection) -> Result<Product> {
        let product = match &self.change {
            Change::Delete => {
                let text = format!("DELETE FROM products WHERE id = $1 RETURNING {PRODUCT}");
                sqlx::query_as(AssertSqlSafe(text))
                    .bind(self.id)
                    .fetch_one(connection)
                    .await?
            }
            Change::Update(changes) if changes.is_empty() => {
                let text = format!("SELECT {PRODUCT} FROM products WHERE id = $1");
                sqlx::query_as(AssertSqlSafe(text))
                    .bind(self.id)
                    .fetch_one(connection)
                    .await?
            }
            Change::Update(changes) => {
                let text = format!(
                    "UPDATE products SET
                         name = coalesce($1, name),
                         description = coalesce($2, description),
                         price = coalesce($3, price),
                         stock = coalesce($4, stock),
                         version = version + 1,
                         fence = $5,
                         updated_at = $6
                     WHERE id = $7 RETURNING {PRODUCT}"
                );
                sqlx::query_as(AssertSqlSafe(text))
                    .bind(&changes.name)
                    .bind(&changes.description)
                    .bind(changes.price)
                    .bind(changes.stock)
                    .bind(self.condition.turn.fence())
                    .bind(now())
                    .bind(self.id)
                    .fetch_one(connection)
                    .await?
            }
        };
        Ok(product)
    }
}

/// What is recorded under the key, if there is one.
pub(super) async fn recorded(
    connection: &mut PgConnection,
    cause: &Cause,
    limits: Limits,
) -> Result<Option<Recorded>> {
    let Some(once) = &cause.once else {
        return Ok(None);
    };
    let found = records::find(connection, vec![once.key.clone()], limits).await?;
    Ok(found.into_values().next())
}

/// Whether the answer could be noted under the key, if there is one.
pub(super) async fn note_answer(
    connection: &mut PgConnection,
    cause: &Cause,
    product: &Product,
    limits: Limits,
) -> Result<bool> {
    let record = cause.once.as_ref().and_then(|once| {
        let recorded = once.record(product)?;
        Some((once.key.clone(), recorded))
    });
    records::note(connection, BTreeMap::from_iter(record), limits).await
}

/// Writes an entry that sells nothing.
pub(super) async fn insert_entry(connection: &mut PgConnection, entry: Entry) -> Result<()> {
    sqlx::query(INSERT_ENTRY)
        .bind(entry.product)
        .bind(entry.version)
        .bind(entry.id)
        .bind(entry.reason.name())
        .bind(entry.delta)
        .bind(entry.stock_after)
        .bind(entry.request)
        .bind(entry.fence)
        .bind(entry.at)
        .execute(connection)
        .await?;
    Ok(())
}
