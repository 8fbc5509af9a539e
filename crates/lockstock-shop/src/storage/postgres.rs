//! Products in Postgres.
//!
//! Point reads and updates are combined: one statement reads or writes all that arrived
//! while the one before was under way, and each row is refused or written for itself. Such
//! a batch never waits for a row that somebody else has locked: it skips it, and that one
//! update waits alone, for no longer than its lock is held.

mod pool;

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use self::pool::Database;
use super::sql::{self, Bind, PRODUCT};
use super::{
    Changes, Committing, Condition, Limits, NewProduct, Product, Result, Selection, Storage,
    StorageError, Written, now,
};
use crate::combine::{Combiner, Lanes};

pub(super) struct Postgres {
    database: Database,
    gets: Combiner<Get>,
    updates: Combiner<Update>,
}

/// One batch at a time, a second one beside a slow one.
const LANES: Lanes = Lanes { most: 2, jobs: 128 };
struct Get {
    id: i64,
    answer: oneshot::Sender<Result<Option<Product>>>,
}

struct Update {
    id: i64,
    changes: Changes,
    condition: Condition,
    answer: oneshot::Sender<Result<Written<Product>>>,
}

impl Postgres {
    pub(super) async fn open(url: &str, limits: Limits) -> anyhow::Result<Self> {
        let database = Database::connect(url, limits).await?;
        let (reading, writing) = (database.clone(), database.clone());
        Ok(Self {
            database,
            gets: Combiner::start(LANES, move |batch| get(reading.clone(), batch)),
            updates: Combiner::start(LANES, move |batch| update(writing.clone(), batch)),
        })
    }
}

#[async_trait]
impl Storage for Postgres {
    async fn get(&self, id: i64) -> Result<Option<Product>> {
        self.gets
            .ask(|answer| Get { id, answer })
            .await
            .unwrap_or_else(|| Err(StorageError::closed()))
    }

    async fn count(&self, selection: &Selection) -> Result<i64> {
        let (filter, binds) = sql::filter(selection);
        let text = format!("SELECT count(*) FROM products{filter}");
        self.database
            .run(|connection| {
                Box::pin(async move {
                    let mut query = sqlx::query_scalar(AssertSqlSafe(text));
                    for bind in binds {
                        query = match bind {
                            Bind::Number(number) => query.bind(number),
                            Bind::Text(text) => query.bind(text),
                        };
                    }
                    Ok(query.fetch_one(connection).await?)
                })
            })
            .await
    }

    async fn list(&self, selection: &Selection, limit: i64, offset: i64) -> Result<Vec<Product>> {
        let (filter, binds) = sql::filter(selection);
        let order = sql::order(selection);
        let text =
            format!("SELECT {PRODUCT} FROM products{filter}{order} LIMIT {limit} OFFSET {offset}");
        self.database
            .run(|connection| {
                Box::pin(async move {
                    let mut query = sqlx::query_as(AssertSqlSafe(text));
                    for bind in binds {
                        query = match bind {
                            Bind::Number(number) => query.bind(number),
                            Bind::Text(text) => query.bind(text),
                        };
                    }
                    Ok(query.fetch_all(connection).await?)
                })
            })
            .await
    }

    async fn create(&self, new: NewProduct) -> Result<Product> {
        self.database
            .run(|connection| Box::pin(async move { insert(connection, &new).await }))
            .await
    }

    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool> {
        let new = new.to_vec();
        self.database
            .run(|connection| Box::pin(insert_if_empty(connection, new)))
            .await
    }

    async fn update(
        &self,
        id: i64,
        changes: Changes,
        condition: Condition,
    ) -> Result<Written<Product>> {
        self.updates
            .ask(|answer| Update {
                id,
                changes,
                condition,
                answer,
            })
            .await
            .unwrap_or_else(|| Err(StorageError::closed()))
    }

    async fn delete(&self, id: i64, condition: Condition) -> Result<Written<Product>> {
        alone(&self.database, id, Change::Delete, condition).await
    }

    async fn ping(&self) -> Result<()> {
        self.database
            .run(|connection| Box::pin(async move { Ok(connection.ping().await?) }))
            .await
    }

    async fn close(&self) {
        self.database.pool.close().await;
    }
}

async fn insert(connection: &mut PgConnection, new: &NewProduct) -> Result<Product> {
    let text = format!(
        "INSERT INTO products (name, description, price, stock, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5) RETURNING {PRODUCT}"
    );
    Ok(sqlx::query_as(AssertSqlSafe(text))
        .bind(&new.name)
        .bind(&new.description)
        .bind(new.price)
        .bind(new.stock)
        .bind(now())
        .fetch_one(connection)
        .await?)
}

async fn insert_if_empty(connection: &mut PgConnection, new: Vec<NewProduct>) -> Result<bool> {
    let mut transaction = connection.begin().await?;
    // Another replica may be starting at the same moment. Readers are let through.
    sqlx::raw_sql("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM products)")
        .fetch_one(&mut *transaction)
        .await?;
    if !any {
        for new in &new {
            insert(&mut transaction, new).await?;
        }
    }
    transaction.commit().await?;
    Ok(!any)
}

async fn get(database: Database, batch: Vec<Get>) {
    let ids = batch.iter().map(|get| get.id).collect::<Vec<_>>();
    let found: Result<Vec<Product>> = database
        .run(|connection| {
            Box::pin(async move {
                let text = format!("SELECT {PRODUCT} FROM products WHERE id = ANY($1)");
                Ok(sqlx::query_as(AssertSqlSafe(text))
                    .bind(ids)
                    .fetch_all(connection)
                    .await?)
            })
        })
        .await;
    match found {
        Ok(found) => {
            let found: HashMap<i64, Product> = found
                .into_iter()
                .map(|product| (product.id, product))
                .collect();
            for get in batch {
                let _ = get.answer.send(Ok(found.get(&get.id).cloned()));
            }
        }
        Err(error) => {
            for get in batch {
                let _ = get.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Writes all that can be written at once; whatever cannot goes alone, on its own time.
async fn update(database: Database, batch: Vec<Update>) {
    let mut taken = HashSet::new();
    // One row, one writer: a second update of the same product would not find its version.
    let (mut together, apart): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .partition(|job| !job.changes.is_empty() && taken.insert(job.id));
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
            Err(error) if error.is_the_database_speaking() && !error.may_be_written() => {
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
    let written: Vec<Product> = sqlx::query_as(
        "WITH free AS MATERIALIZED (
             SELECT id FROM products WHERE id = ANY($1) FOR UPDATE SKIP LOCKED
         )
         UPDATE products AS p SET
             name = coalesce(job.name, p.name),
             description = coalesce(job.description, p.description),
             price = coalesce(job.price, p.price),
             stock = coalesce(job.stock, p.stock),
             version = p.version + 1,
             fence = job.fence,
             updated_at = $8
         FROM free JOIN unnest($1, $2, $3, $4, $5, $6, $7)
             AS job (id, fence, version, name, description, price, stock) ON job.id = free.id
         WHERE p.id = job.id
             AND p.fence < job.fence
             AND p.version = coalesce(job.version, p.version)
         RETURNING p.id, p.name, p.description, p.price, p.stock, p.version, p.created_at,
             p.updated_at",
    )
    .bind(rows.ids)
    .bind(rows.fences)
    .bind(rows.versions)
    .bind(rows.names)
    .bind(rows.descriptions)
    .bind(rows.prices)
    .bind(rows.stocks)
    .bind(now())
    .fetch_all(&mut *transaction)
    .await?;
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        transaction.rollback().await?;
        return Ok(None);
    }
    committing.begin();
    transaction.commit().await?;
    Ok(Some(
        written
            .into_iter()
            .map(|product| (product.id, product))
            .collect(),
    ))
}

enum Change {
    Update(Changes),
    Delete,
}

fn go_alone(database: &Database, job: Update) {
    let database = database.clone();
    tokio::spawn(async move {
        let change = Change::Update(job.changes);
        let _ = job
            .answer
            .send(alone(&database, job.id, change, job.condition).await);
    });
}

/// Changes one row, waiting for whoever has locked it, but not beyond the end of the turn.
async fn alone(
    database: &Database,
    id: i64,
    change: Change,
    condition: Condition,
) -> Result<Written<Product>> {
    let turn = condition.turn;
    let Ok(place) = timeout_at(turn.deadline, database.alone.acquire()).await else {
        return Ok(Written::Lost);
    };
    let committing = Committing::default();
    let commits = committing.clone();
    let written = database
        .run(|connection| Box::pin(write_alone(connection, id, change, condition, commits)))
        .await
        .map_err(|error| committing.note(error));
    drop(place);
    match written {
        Err(error) if turn.is_over() && !error.may_be_written() => Ok(Written::Lost),
        written => written,
    }
}

async fn write_alone(
    connection: &mut PgConnection,
    id: i64,
    change: Change,
    condition: Condition,
    committing: Committing,
) -> Result<Written<Product>> {
    let left = condition
        .turn
        .deadline
        .saturating_duration_since(Instant::now());
    let mut transaction = connection.begin().await?;
    let text = format!("SET LOCAL lock_timeout = {}", left.as_millis().max(1));
    sqlx::raw_sql(AssertSqlSafe(text))
        .execute(&mut *transaction)
        .await?;
    let locked: Option<(i64, i64)> =
        sqlx::query_as("SELECT version, fence FROM products WHERE id = $1 FOR UPDATE")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
    let fits = locked.is_some_and(|(version, fence)| {
        fence < condition.turn.fence() && condition.version.is_none_or(|seen| seen == version)
    });
    if !fits {
        transaction.rollback().await?;
        return Ok(condition.refusal(locked));
    }
    let product: Product = match change {
        Change::Delete => {
            let text = format!("DELETE FROM products WHERE id = $1 RETURNING {PRODUCT}");
            sqlx::query_as(AssertSqlSafe(text))
                .bind(id)
                .fetch_one(&mut *transaction)
                .await?
        }
        Change::Update(changes) if changes.is_empty() => {
            let text = format!("SELECT {PRODUCT} FROM products WHERE id = $1");
            sqlx::query_as(AssertSqlSafe(text))
                .bind(id)
                .fetch_one(&mut *transaction)
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
                .bind(changes.name)
                .bind(changes.description)
                .bind(changes.price)
                .bind(changes.stock)
                .bind(condition.turn.fence())
                .bind(now())
                .bind(id)
                .fetch_one(&mut *transaction)
                .await?
        }
    };
    if condition.turn.is_over() {
        transaction.rollback().await?;
        return Ok(Written::Lost);
    }
    committing.begin();
    transaction.commit().await?;
    Ok(Written::Done(product))
}
