//! Products in Postgres.
//!
//! Reads by id are batched: one statement reads all products requested while the previous one
//! ran. Updates and orders are batched too; see [`updates`] and [`orders`].

mod advice;
mod clock;
pub(super) mod examination;
pub(super) mod export;
pub(super) mod import;
mod orders;
mod pool;
mod records;
mod refusals;
mod row_locks;
mod session;
mod updates;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Connection, FromRow, PgConnection, Row};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use self::orders::PendingOrder;
use self::pool::Database;
use self::records::Find;
use self::row_locks::Attempts;
use self::updates::Update;
use self::updates::single::{self, Change, find_record, insert_entry, insert_record};
use super::error::{CommitTracker, written};
use super::sql::{SELECT_PURCHASE, reservation_columns};
use super::{
    Changes, Connections, EntryFilter, IdempotencyKey, KnownCommits, LedgerEntry, NewProduct,
    Order, OrderOutcome, Precondition, Product, ProductQuery, RequestContext, Reservation,
    ResponseRecord, Result, Storage, StorageError, StorageOptions, WriteContext, WriteOutcome, now,
    sql,
};
use crate::batch::{BatchLimits, Batcher, Fifo, Keyed};
use crate::health::Health;

/// Applies a macro of [`sql`] to the clock of Postgres.
macro_rules! with_clock {
    ($($sql:ident)::+) => {
        $crate::storage::sql::$($sql)::+!("statement_timestamp()")
    };
}
use with_clock;

const SELECT_PRODUCTS: &str = concat!("SELECT ", with_clock!(product_columns), " FROM products");

pub(super) struct Postgres {
    database: Database,
    gets: Batcher<Fifo<Get>>,
    finds: Batcher<Fifo<Find>>,
    updates: Batcher<Fifo<Update>>,
    keyed_updates: Batcher<Fifo<Update>>,
    orders: Batcher<Keyed<PendingOrder>>,
}

/// A few clients would wait for each other.
const fn reads(name: &'static str) -> BatchLimits {
    BatchLimits {
        small: 2,
        ..BatchLimits::new(name, 2, 128)
    }
}
/// A few clients would wait for each other's commits.
const UPDATE_LIMITS: BatchLimits = BatchLimits {
    small: 3,
    ..reads("updates")
};
/// A batch reads before it writes, and the database has time for another one meanwhile.
const KEYED_UPDATE_LIMITS: BatchLimits = BatchLimits {
    name: "keyed_updates",
    large: 16,
    ..UPDATE_LIMITS
};
/// Larger, because the cost of a transaction hardly depends on the number of its orders.
const ORDER_LIMITS: BatchLimits = BatchLimits::new("orders", 2, 512);

struct Get {
    id: i64,
    reply: oneshot::Sender<Result<Option<Product>>>,
}

impl Postgres {
    pub(super) async fn open(url: &str, options: StorageOptions) -> anyhow::Result<Self> {
        let database = Database::connect(url, options).await?;
        let [gets, finds, updates, keyed_updates, orders] =
            std::array::from_fn(|_| database.clone());
        Ok(Self {
            database,
            gets: Batcher::new(reads("reads"), move |batch| get_all(gets.clone(), batch)),
            finds: Batcher::new(reads("records"), move |batch| {
                records::find_all(finds.clone(), batch)
            }),
            updates: Batcher::new(UPDATE_LIMITS, move |batch| {
                updates::update_all(updates.clone(), batch)
            }),
            keyed_updates: Batcher::new(KEYED_UPDATE_LIMITS, move |batch| {
                updates::update_all(keyed_updates.clone(), batch)
            }),
            orders: Batcher::keyed(
                ORDER_LIMITS,
                |pending: &PendingOrder| pending.order.product,
                move |batches| orders::execute(orders.clone(), batches),
            ),
        })
    }

    /// Waits for a batched read. While the database hangs, the batch before it takes the whole
    /// timeout; this read then does not take another one.
    async fn read_in_time<T>(&self, read: impl Future<Output = Option<Result<T>>>) -> Result<T> {
        let limit = self.database.options.timeout;
        match timeout(limit, read).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(StorageError::read_lost()),
            Err(_) => Err(StorageError::timeout(limit)),
        }
    }
}

#[async_trait]
impl Storage for Postgres {
    async fn get(&self, id: i64) -> Result<Option<Product>> {
        let found = self.gets.submit(|reply| Get { id, reply });
        self.read_in_time(found).await
    }

    async fn count(&self, query: &ProductQuery) -> Result<i64> {
        let mut query = sql::count_products(query);
        self.database
            .with_connection(|connection| {
                Box::pin(async move { Ok(query.build_query_scalar().fetch_one(connection).await?) })
            })
            .await
    }

    async fn list(&self, query: &ProductQuery, limit: i64, offset: i64) -> Result<Vec<Product>> {
        let mut query = sql::list_products(SELECT_PRODUCTS, query, limit, offset);
        self.database
            .with_connection(|connection| {
                Box::pin(async move { Ok(query.build_query_as().fetch_all(connection).await?) })
            })
            .await
    }

    async fn create(
        &self,
        new: NewProduct,
        context: WriteContext,
    ) -> Result<WriteOutcome<Product>> {
        if let Some(idempotency) = &context.idempotency
            && let Some(record) = self.find_record(&idempotency.key).await?
        {
            return Ok(WriteOutcome::AlreadyRecorded(record));
        }
        let options = self.database.options;
        let mut attempts = Attempts::until(Instant::now() + options.timeout / 2);
        loop {
            let (new, context) = (new.clone(), context.clone());
            let tracker = CommitTracker::default();
            let commit = tracker.clone();
            let created = self
                .database
                .with_connection(|connection| {
                    Box::pin(create(connection, new, context, options, commit))
                })
                .await
                .map_err(|error| tracker.mark(error));
            match created {
                // Another transaction is using the key.
                Err(error) if error.is_lock_timeout() && attempts.pause().await => {}
                created => return created,
            }
        }
    }

    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool> {
        let new = new.to_vec();
        self.database
            .with_connection(|connection| Box::pin(create_if_empty(connection, new)))
            .await
    }

    async fn update(
        &self,
        id: i64,
        changes: Changes,
        precondition: Precondition,
        context: WriteContext,
    ) -> Result<WriteOutcome<Product>> {
        let batcher = match context.idempotency {
            Some(_) => &self.keyed_updates,
            None => &self.updates,
        };
        batcher
            .submit(|reply| Update {
                id,
                changes,
                precondition,
                context,
                reply,
            })
            .await
            .unwrap_or_else(|| Err(StorageError::write_lost()))
    }

    async fn delete(
        &self,
        id: i64,
        precondition: Precondition,
        request: RequestContext,
    ) -> Result<WriteOutcome<Product>> {
        let context = WriteContext {
            request,
            idempotency: None,
        };
        single::write_single(&self.database, id, Change::Delete, precondition, context).await
    }

    fn known_commits(&self) -> KnownCommits {
        self.database.newest_snapshot.known_commits()
    }

    async fn submit_order(&self, order: Order) -> Result<OrderOutcome> {
        let timeout = self.database.options.timeout;
        let reply = self
            .orders
            .submit_within(timeout, |reply, start| PendingOrder {
                order,
                reply,
                start,
            });
        written(reply.await)
    }

    async fn purchase(&self, id: Uuid) -> Result<Option<LedgerEntry>> {
        self.database
            .with_connection(|connection| {
                Box::pin(async move {
                    let query = sqlx::query_as(SELECT_PURCHASE).bind(id);
                    Ok(query.fetch_optional(connection).await?)
                })
            })
            .await
    }

    async fn reservation(&self, id: Uuid) -> Result<Option<(Reservation, bool)>> {
        const SELECT: &str = concat!(
            "SELECT ",
            reservation_columns!(),
            ", statement_timestamp() AS now,
               EXISTS (SELECT FROM products WHERE id = reservations.product) AS has_product
             FROM reservations WHERE id = $1"
        );
        self.database
            .with_connection(|connection| {
                Box::pin(async move {
                    let query = sqlx::query(SELECT).bind(id);
                    let Some(row) = query.fetch_optional(connection).await? else {
                        return Ok(None);
                    };
                    let reservation = Reservation::from_row(&row)?;
                    let now: DateTime<Utc> = row.try_get("now")?;
                    // Earlier versions deleted products with reservations.
                    let is_held = reservation.is_held(now) && row.try_get("has_product")?;
                    Ok(Some((reservation, is_held)))
                })
            })
            .await
    }

    async fn count_entries(&self, product: i64, filter: EntryFilter) -> Result<i64> {
        let text = sql::count_entries(filter);
        self.database
            .with_connection(|connection| {
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
        filter: EntryFilter,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<LedgerEntry>> {
        let mut query = sql::list_entries(product, filter, limit, offset);
        self.database
            .with_connection(|connection| {
                Box::pin(async move { Ok(query.build_query_as().fetch_all(connection).await?) })
            })
            .await
    }

    async fn find_record(&self, key: &IdempotencyKey) -> Result<Option<ResponseRecord>> {
        let key = key.clone();
        let found = self.finds.submit(|reply| Find { key, reply });
        self.read_in_time(found).await
    }

    async fn delete_expired_records(&self, max: i64) -> Result<u64> {
        let options = self.database.options;
        self.database
            .with_connection(|connection| {
                Box::pin(records::delete_expired(connection, options, max))
            })
            .await
    }

    fn connections(&self) -> Connections {
        self.database.connections()
    }

    fn health(&self) -> &Arc<Health> {
        self.database.health()
    }

    async fn check(&self, limit: Duration) {
        self.database.check(limit).await;
    }

    async fn close(&self) {
        self.database.close().await;
    }
}

/// Inserts a product and the first entry of its ledger.
async fn insert(
    connection: &mut PgConnection,
    new: &NewProduct,
    request: &RequestContext,
) -> Result<Product> {
    let product: Product = sqlx::query_as(with_clock!(insert_product))
        .bind(&new.name)
        .bind(&new.description)
        .bind(new.price)
        .bind(new.stock)
        .bind(now())
        .fetch_one(&mut *connection)
        .await?;
    insert_entry(connection, LedgerEntry::created(&product, request)).await?;
    Ok(product)
}

async fn create_if_empty(connection: &mut PgConnection, new: Vec<NewProduct>) -> Result<bool> {
    let mut transaction = connection.begin().await?;
    // Another server may be starting at the same moment. The lock does not block readers.
    sqlx::raw_sql("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM products)")
        .fetch_one(&mut *transaction)
        .await?;
    if !any {
        for new in &new {
            insert(&mut transaction, new, &RequestContext::default()).await?;
        }
    }
    transaction.commit().await?;
    Ok(!any)
}

async fn create(
    connection: &mut PgConnection,
    new: NewProduct,
    context: WriteContext,
    options: StorageOptions,
    tracker: CommitTracker,
) -> Result<WriteOutcome<Product>> {
    let mut transaction = row_locks::begin(connection).await?;
    let product = insert(&mut transaction, &new, &context.request).await?;
    if !insert_record(&mut transaction, &context, &product, options).await? {
        transaction.rollback().await?;
        let record = find_record(connection, &context, options).await?;
        return record
            .map(WriteOutcome::AlreadyRecorded)
            .ok_or_else(StorageError::conflicting_record_expired);
    }
    tracker.commit(transaction).await?;
    Ok(WriteOutcome::Done(product))
}

async fn get_all(database: Database, batch: Vec<Get>) {
    let ids = batch.iter().map(|get| get.id).collect::<Vec<_>>();
    let found = database
        .with_connection(|connection| Box::pin(find_products(connection, ids)))
        .await;
    match found {
        Ok(found) => {
            for get in batch {
                let _ = get.reply.send(found.get(&get.id).cloned().transpose());
            }
        }
        Err(error) => {
            for get in batch {
                let _ = get.reply.send(Err(error.clone()));
            }
        }
    }
}

/// Returns the products that exist, by their ids. A row that cannot be read is the error of one product.
async fn find_products(
    connection: &mut PgConnection,
    ids: Vec<i64>,
) -> Result<HashMap<i64, Result<Product>>> {
    const SELECT: &str = concat!(
        "SELECT ",
        with_clock!(product_columns),
        " FROM products WHERE id = ANY($1)"
    );
    // Postgres takes a twentieth less time for a value than for an array.
    const SELECT_ONE: &str = concat!(
        "SELECT ",
        with_clock!(product_columns),
        " FROM products WHERE id = $1"
    );
    let query = match ids[..] {
        [id] => sqlx::query(SELECT_ONE).bind(id),
        _ => sqlx::query(SELECT).bind(ids),
    };
    let rows = query.fetch_all(connection).await?;
    let found = rows
        .iter()
        .map(|row| Ok((row.try_get("id")?, read_product(row))));
    found.collect()
}

fn read_product(row: &PgRow) -> Result<Product> {
    // sqlx panics at a time that it cannot represent, like `infinity`.
    catch_unwind(AssertUnwindSafe(|| Product::from_row(row)))
        .map_err(|_| StorageError::bug("a row cannot be read"))
        .and_then(|product| Ok(product?))
}
