//! The writer: one connection, one transaction after the other, each for all that arrived
//! while the one before was under way.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::sql::INSERT_ENTRY;
use super::super::{
    Cause, Changes, Committing, Condition, Entry, Limits, NewProduct, Order, Outcome, Product,
    Recorded, Result, StorageError, Written, now,
};
use super::{PRODUCT, records, sales};
use crate::batch::Ticket;
use crate::failpoint;

pub(super) struct Write {
    pub(super) what: What,
    pub(super) answer: oneshot::Sender<Result<Did>>,
    pub(super) ticket: Ticket,
}

pub(super) enum What {
    Create(NewProduct, Cause),
    CreateIfEmpty(Vec<NewProduct>),
    Update(i64, Changes, Condition, Cause),
    Delete(i64, Condition, Cause),
    Sell(Order),
    /// The answers to so many keys.
    Forget(i64),
}

/// What became of a [`What`].
pub(super) enum Did {
    Write(Written<Product>),
    Sale(Outcome),
    Forget(u64),
}

/// The one connection that writes.
pub(super) struct Writer {
    options: SqliteConnectOptions,
    /// None once it failed: SQLite and sqlx may then be of two minds about whether a
    /// transaction is open.
    connection: Option<SqliteConnection>,
    limits: Limits,
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        limits: Limits,
    ) -> Self {
        Self {
            options,
            connection: Some(connection),
            limits,
        }
    }

    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.close().await;
        }
    }

    /// Carries out all of them in one transaction; or each in its own, if the database refused
    /// that one: the reason is nobody's but one's.
    ///
    /// A write that has not begun within the time that a call may take never does.
    pub(super) async fn write(&mut self, mut batch: Vec<Write>) {
        batch.retain(|write| write.ticket.begin());
        if batch.is_empty() {
            return;
        }
        match self.together(&batch).await {
            Ok(done) => {
                for (write, did) in batch.into_iter().zip(done) {
                    let _ = write.answer.send(Ok(did));
                }
            }
            Err(error)
                if batch.len() > 1 && error.is_one_rows_fault() && !error.may_be_written() =>
            {
                for write in batch {
                    let alone = [write];
                    let did = self.together(&alone).await.map(|mut did| did.pop());
                    let did = did.and_then(|did| did.ok_or_else(StorageError::closed));
                    let [write] = alone;
                    let _ = write.answer.send(did);
                }
            }
            Err(error) => {
                for write in batch {
                    let _ = write.answer.send(Err(error.clone()));
                }
            }
        }
    }

    async fn together(&mut self, batch: &[Write]) -> Result<Vec<Did>> {
        loop {
            let committing = Committing::default();
            match self.transaction(batch, &committing).await {
                Ok(Some(done)) => return Ok(done),
                // Somebody's turn ended on the way. Nothing is committed; the others go again.
                Ok(None) => {}
                Err(error) => {
                    self.connection = None;
                    return Err(committing.note(error));
                }
            }
        }
    }

    /// Carries out all of them in their order and commits. `None` if the turn of one that wrote
    /// was over before the commit, which then did not happen.
    async fn transaction(
        &mut self,
        batch: &[Write],
        committing: &Committing,
    ) -> Result<Option<Vec<Did>>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(SqliteConnection::connect_with(&self.options).await?),
        };
        // IMMEDIATE: a transaction that begins by reading could find another process ahead
        // of it when it wants to write, and would have to give up.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        failpoint::pause("transaction.begun").await;
        let mut done = Vec::with_capacity(batch.len());
        let mut earliest: Option<Instant> = None;
        let mut left = batch;
        while let [write, ..] = left {
            let did = write
                .what
                .carry_out(left, &mut transaction, self.limits)
                .await?;
            if let ([Did::Write(Written::Done(_))], Some(deadline)) =
                (&did[..], write.what.deadline())
            {
                earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
            }
            left = &left[did.len()..];
            done.extend(did);
        }
        if earliest.is_some_and(|earliest| earliest <= Instant::now()) {
            transaction.rollback().await?;
            return Ok(None);
        }
        committing.commit(transaction).await?;
        Ok(Some(done))
    }
}

impl What {
    fn order(&self) -> Option<&Order> {
        match self {
            Self::Sell(order) => Some(order),
            _ => None,
        }
    }

    /// Until when it has to be committed.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Update(_, _, condition, _) | Self::Delete(_, condition, _) => {
                Some(condition.turn.deadline)
            }
            Self::Create(..) | Self::CreateIfEmpty(_) | Self::Sell(_) | Self::Forget(_) => None,
        }
    }

    fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Create(_, cause) | Self::Update(_, _, _, cause) | Self::Delete(_, _, cause) => {
                Some(cause)
            }
            Self::CreateIfEmpty(_) | Self::Sell(_) | Self::Forget(_) => None,
        }
    }

    /// Carries out this, the first of `left`: and with a sale those sales that follow it at
    /// once, which cost hardly more together.
    async fn carry_out(
        &self,
        left: &[Write],
        writer: &mut SqliteConnection,
        limits: Limits,
    ) -> Result<Vec<Did>> {
        if let Some(recorded) = self.recorded(writer, limits).await? {
            return Ok(vec![Did::Write(Written::Recorded(recorded))]);
        }
        let written = match self {
            Self::Create(new, cause) => create(writer, new, cause).await?,
            Self::CreateIfEmpty(new) => create_if_empty(writer, new).await?,
            Self::Update(id, changes, condition, cause) => {
                update(writer, *id, changes, condition, cause).await?
            }
            Self::Delete(id, condition, cause) => delete(writer, *id, condition, cause).await?,
            Self::Sell(_) => {
                let orders = left.iter().map_while(|write| write.what.order());
                let orders = orders.collect::<Vec<_>>();
                let sold = sales::sell(writer, &orders, limits).await?;
                return Ok(sold.into_iter().map(Did::Sale).collect());
            }
            Self::Forget(most) => {
                let forgotten = records::forget(writer, limits.forgotten(), *most).await?;
                return Ok(vec![Did::Forget(forgotten)]);
            }
        };
        if let (Written::Done(product), Some(once)) =
            (&written, self.cause().and_then(|cause| cause.once.as_ref()))
        {
            let record = once.record(product);
            let records = record.map(|recorded| (once.key.clone(), recorded));
            records::note(writer, BTreeMap::from_iter(records)).await?;
        }
        Ok(vec![Did::Write(written)])
    }

    async fn recorded(
        &self,
        writer: &mut SqliteConnection,
        limits: Limits,
    ) -> Result<Option<Recorded>> {
        let Some(once) = self.cause().and_then(|cause| cause.once.as_ref()) else {
            return Ok(None);
        };
        let keys = std::slice::from_ref(&once.key);
        let found = records::find(writer, keys, limits.forgotten()).await?;
        Ok(found.into_values().next())
    }
}

async fn create_if_empty(
    writer: &mut SqliteConnection,
    new: &[NewProduct],
) -> Result<Written<Product>> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM products")
        .fetch_one(&mut *writer)
        .await?;
    let mut last = Written::Missing;
    if count == 0 {
        for new in new {
            last = create(&mut *writer, new, &Cause::default()).await?;
        }
    }
    Ok(last)
}

async fn create(
    writer: &mut SqliteConnection,
    new: &NewProduct,
    cause: &Cause,
) -> Result<Written<Product>> {
    let created: Product = sqlx::query_as(AssertSqlSafe(format!(
        "INSERT INTO products (name, description, price, stock, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5) RETURNING {PRODUCT}"
    )))
    .bind(&new.name)
    .bind(&new.description)
    .bind(new.price)
    .bind(new.stock)
    .bind(now())
    .fetch_one(&mut *writer)
    .await?;
    insert_entry(writer, Entry::created(&created, &cause.origin)).await?;
    Ok(Written::Done(created))
}

async fn update(
    writer: &mut SqliteConnection,
    id: i64,
    changes: &Changes,
    condition: &Condition,
    cause: &Cause,
) -> Result<Written<Product>> {
    let before = match found(writer, id, condition).await? {
        Ok(before) => before,
        Err(refused) => return Ok(refused),
    };
    if changes.is_empty() {
        return Ok(Written::Done(before));
    }
    let product: Product = sqlx::query_as(AssertSqlSafe(format!(
        "UPDATE products SET
             name = coalesce($1, name),
             description = coalesce($2, description),
             price = coalesce($3, price),
             stock = coalesce($4, stock),
             version = version + 1,
             fence = $5,
             updated_at = $6
         WHERE id = $7 RETURNING {PRODUCT}"
    )))
    .bind(&changes.name)
    .bind(&changes.description)
    .bind(changes.price)
    .bind(changes.stock)
    .bind(condition.turn.fence())
    .bind(now())
    .bind(id)
    .fetch_one(&mut *writer)
    .await?;
    let entry = Entry::changed(&product, before.stock, condition.turn, &cause.origin);
    insert_entry(writer, entry).await?;
    Ok(Written::Done(product))
}

async fn delete(
    writer: &mut SqliteConnection,
    id: i64,
    condition: &Condition,
    cause: &Cause,
) -> Result<Written<Product>> {
    let product = match found(writer, id, condition).await? {
        Ok(product) => product,
        Err(refused) => return Ok(refused),
    };
    sqlx::query("DELETE FROM products WHERE id = $1")
        .bind(id)
        .execute(&mut *writer)
        .await?;
    let entry = Entry::deleted(&product, condition.turn, &cause.origin);
    insert_entry(writer, entry).await?;
    Ok(Written::Done(product))
}

/// The product as it is, if the condition lets it be written to.
async fn found(
    writer: &mut SqliteConnection,
    id: i64,
    condition: &Condition,
) -> Result<std::result::Result<Product, Written<Product>>> {
    if condition.turn.is_over() {
        return Ok(Err(Written::Lost));
    }
    let text = format!(
        "SELECT {PRODUCT} FROM products
         WHERE id = $1 AND fence < $2 AND version = coalesce($3, version)"
    );
    let product: Option<Product> = sqlx::query_as(AssertSqlSafe(text))
        .bind(id)
        .bind(condition.turn.fence())
        .bind(condition.version)
        .fetch_optional(&mut *writer)
        .await?;
    if let Some(product) = product {
        return Ok(Ok(product));
    }
    let there = sqlx::query_as("SELECT version, fence FROM products WHERE id = $1")
        .bind(id)
        .fetch_optional(writer)
        .await?;
    Ok(Err(condition.refusal(there)))
}

/// Writes an entry that sells nothing.
async fn insert_entry(writer: &mut SqliteConnection, entry: Entry) -> Result<()> {
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
        .execute(writer)
        .await?;
    Ok(())
}
