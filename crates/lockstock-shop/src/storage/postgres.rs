//! Products in Postgres.
//!
//! Point reads are combined: one statement reads all that were asked for while the one before
//! was under way. So are updates and sales, see the files of this folder.

mod pool;
mod records;
mod sales;
mod updates;

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Row};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::pool::Database;
use self::records::Find;
use self::sales::Sale;
use self::updates::{Change, Update, insert_entry, note_answer, recorded};
use super::sql::{self, Bind, ENTRY, RESERVATION};
use super::{
    Cause, Changes, Committing, Condition, Entries, Entry, Key, Limits, NewProduct, Order, Origin,
    Outcome, Product, Recorded, Reservation, Result, Selection, Storage, StorageError, Written,
    now, waited,
};
use crate::batch::{Combiner, Lanes};

/// Every column of a [`Product`].
const PRODUCT: &str = sql::product!("statement_timestamp()");

pub(super) struct Postgres {
    database: Database,
    gets: Combiner<Get>,
    finds: Combiner<Find>,
    updates: Combiner<Update>,
    sales: Combiner<Sale>,
}

/// One batch at a time, a second one beside a slow one.
const LANES: Lanes = Lanes { most: 2, jobs: 128 };
/// The more there are in one transaction, the less it costs each.
const SALES: Lanes = Lanes { most: 2, jobs: 512 };

struct Get {
    id: i64,
    answer: oneshot::Sender<Result<Option<Product>>>,
}

impl Postgres {
    pub(super) async fn open(url: &str, limits: Limits) -> anyhow::Result<Self> {
        let database = Database::connect(url, limits).await?;
        let (reading, finding) = (database.clone(), database.clone());
        let (writing, selling) = (database.clone(), database.clone());
        let updates = move |batch| updates::update(writing.clone(), batch);
        let sales = move |turns| sales::sell(selling.clone(), turns);
        Ok(Self {
            database,
            gets: Combiner::start(LANES, move |batch| get(reading.clone(), batch)),
            finds: Combiner::start(LANES, move |batch| {
                records::find_all(finding.clone(), batch)
            }),
            updates: Combiner::start(LANES, updates),
            sales: Combiner::start_in_turn(SALES, |sale: &Sale| sale.order.product, sales),
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

    async fn create(&self, new: NewProduct, cause: Cause) -> Result<Written<Product>> {
        let limits = self.database.limits;
        let committing = Committing::default();
        let commits = committing.clone();
        self.database
            .run(|connection| Box::pin(create(connection, new, cause, limits, commits)))
            .await
            .map_err(|error| committing.note(error))
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
        cause: Cause,
    ) -> Result<Written<Product>> {
        self.updates
            .ask(|answer| Update {
                id,
                changes,
                condition,
                cause,
                answer,
            })
            .await
            .unwrap_or_else(|| Err(StorageError::unanswered()))
    }

    async fn delete(
        &self,
        id: i64,
        condition: Condition,
        origin: Origin,
    ) -> Result<Written<Product>> {
        let cause = Cause { origin, once: None };
        updates::alone(&self.database, id, Change::Delete, condition, cause).await
    }

    async fn sell(&self, order: Order) -> Result<Outcome> {
        let patience = self.database.limits.timeout;
        let sold = self.sales.ask_within(patience, |answer, ticket| Sale {
            order,
            answer,
            ticket,
        });
        waited(sold.await)
    }

    async fn purchase(&self, id: Uuid) -> Result<Option<Entry>> {
        let text = format!(
            "SELECT {ENTRY} FROM ledger WHERE id = $1 AND reason IN ('purchase', 'confirmed')"
        );
        self.database
            .run(|connection| {
                Box::pin(async move {
                    let query = sqlx::query_as(AssertSqlSafe(text)).bind(id);
                    Ok(query.fetch_optional(connection).await?)
                })
            })
            .await
    }

    async fn reservation(&self, id: Uuid) -> Result<Option<(Reservation, bool)>> {
        let found: Option<(Reservation, DateTime<Utc>)> = self
            .database
            .run(|connection| {
                Box::pin(async move {
                    let text = format!(
                        "SELECT {RESERVATION}, statement_timestamp() FROM reservations
                         WHERE id = $1"
                    );
                    let query = sqlx::query(AssertSqlSafe(text)).bind(id);
                    let row = query.fetch_optional(connection).await?;
                    let found = row.map(|row| {
                        Ok::<_, sqlx::Error>((
                            Reservation::from_row(&row)?,
                            row.try_get("statement_timestamp")?,
                        ))
                    });
                    Ok(found.transpose()?)
                })
            })
            .await?;
        Ok(found.map(|(reservation, now)| {
            let is_held = reservation.is_held(now);
            (reservation, is_held)
        }))
    }

    async fn count_entries(&self, product: i64, which: Entries) -> Result<i64> {
        let text = sql::count_entries(which);
        self.database
            .run(|connection| {
                Box::pin(async move {
                    let query = sqlx::query_scalar(text).bind(product);
                    Ok(query.fetch_one(connection).await?)
                })
            })
            .await
    }

    async fn entries(
        &self,
        product: i64,
        which: Entries,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<Entry>> {
        let text = sql::entries(which, limit, offset);
        self.database
            .run(|connection| {
                Box::pin(async move {
                    let query = sqlx::query_as(AssertSqlSafe(text)).bind(product);
                    Ok(query.fetch_all(connection).await?)
                })
            })
            .await
    }

    async fn recorded(&self, key: &Key) -> Result<Option<Recorded>> {
        let key = key.clone();
        self.finds
            .ask(|answer| Find { key, answer })
            .await
            .unwrap_or_else(|| Err(StorageError::closed()))
    }

    async fn forget(&self, most: i64) -> Result<u64> {
        let limits = self.database.limits;
        self.database
            .run(|connection| Box::pin(records::forget(connection, limits, most)))
            .await
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

async fn insert(connection: &mut PgConnection, new: &NewProduct, cause: &Cause) -> Result<Product> {
    let text = format!(
        "INSERT INTO products (name, description, price, stock, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5) RETURNING {PRODUCT}"
    );
    let product: Product = sqlx::query_as(AssertSqlSafe(text))
        .bind(&new.name)
        .bind(&new.description)
        .bind(new.price)
        .bind(new.stock)
        .bind(now())
        .fetch_one(&mut *connection)
        .await?;
    insert_entry(connection, Entry::created(&product, &cause.origin)).await?;
    Ok(product)
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
            insert(&mut transaction, new, &Cause::default()).await?;
        }
    }
    transaction.commit().await?;
    Ok(!any)
}

/// Adds one, with the first line of its ledger.
async fn create(
    connection: &mut PgConnection,
    new: NewProduct,
    cause: Cause,
    limits: Limits,
    committing: Committing,
) -> Result<Written<Product>> {
    let mut transaction = connection.begin().await?;
    let product = insert(&mut transaction, &new, &cause).await?;
    if !note_answer(&mut transaction, &cause, &product, limits).await? {
        transaction.rollback().await?;
        let recorded = recorded(connection, &cause, limits).await?;
        return recorded
            .map(Written::Recorded)
            .ok_or_else(StorageError::closed);
    }
    committing.commit(transaction).await?;
    Ok(Written::Done(product))
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
