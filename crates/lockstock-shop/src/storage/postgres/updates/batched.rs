//! The statement that writes all updates of a batch.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, PgConnection, Postgres, Row};

use super::super::super::error::CommitTracker;
use super::super::super::{Changes, Product, ResponseRecord, Result, now};
use super::super::clock::DatabaseClock;
use super::super::with_clock;
use super::Update;

/// What one row of a batch is to become, and under which conditions.
pub(super) struct Job {
    pub(super) id: i64,
    pub(super) fence: i64,
    /// The version that the product has to have; any if `None`.
    pub(super) version: Option<i64>,
    pub(super) changes: Changes,
    pub(super) request: String,
    /// The name of the API key.
    pub(super) key_name: Option<String>,
    /// The end of the window, by the clock of the database.
    pub(super) deadline: Option<DateTime<Utc>>,
}

impl Job {
    pub(super) fn new(update: &Update, clock: &DatabaseClock) -> Self {
        let window = update.precondition.window;
        Self {
            id: update.id,
            fence: window.fence(),
            version: update.precondition.version,
            changes: update.changes.clone(),
            request: update.context.request.request_id.to_string(),
            key_name: update.context.request.key_name(),
            deadline: clock.at(window.deadline),
        }
    }
}

/// The columns of a batch, as arrays for `unnest`.
#[derive(Default)]
pub(super) struct Columns {
    ids: Vec<i64>,
    fences: Vec<i64>,
    versions: Vec<Option<i64>>,
    names: Vec<Option<String>>,
    descriptions: Vec<Option<String>>,
    prices: Vec<Option<i64>>,
    stocks: Vec<Option<i64>>,
    requests: Vec<String>,
    deadlines: Vec<Option<DateTime<Utc>>>,
    key_names: Vec<Option<String>>,
}

impl Columns {
    pub(super) fn push(&mut self, job: Job) {
        self.ids.push(job.id);
        self.fences.push(job.fence);
        self.versions.push(job.version);
        self.names.push(job.changes.name);
        self.descriptions.push(job.changes.description);
        self.prices.push(job.changes.price);
        self.stocks.push(job.changes.stock);
        self.requests.push(job.request);
        self.deadlines.push(job.deadline);
        self.key_names.push(job.key_name);
    }

    /// Binds `$1` to `$10`.
    pub(super) fn bind(
        self,
        query: Query<'static, Postgres, PgArguments>,
    ) -> Query<'static, Postgres, PgArguments> {
        query
            .bind(self.ids)
            .bind(self.fences)
            .bind(self.versions)
            .bind(self.names)
            .bind(self.descriptions)
            .bind(self.prices)
            .bind(self.stocks)
            .bind(self.requests)
            .bind(self.deadlines)
            .bind(self.key_names)
    }
}

/// Sets the columns of the product `p` as `job` says, at `$11`.
macro_rules! set_columns {
    () => {
        "name = coalesce(job.name, p.name),
         description = coalesce(job.description, p.description),
         price = coalesce(job.price, p.price),
         stock = coalesce(job.stock, p.stock),
         version = p.version + 1,
         fence = job.fence,
         updated_at = $11"
    };
}
pub(super) use set_columns;

/// Inserts the ledger entries of `written`.
macro_rules! insert_entries {
    () => {
        "INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, fence, at,
             caller)
         SELECT id, version, gen_random_uuid(), 'changed', delta, stock, request, fence, $11,
             key_name
         FROM written"
    };
}
pub(super) use insert_entries;

/// Updates the rows of the jobs in `$source` that are not locked, meet their preconditions and whose
/// windows have not ended by the clock of the database, with an entry each.
///
/// It locks the rows first: their values cannot change between the comparison and the write.
macro_rules! update_jobs {
    ($source:literal) => {
        concat!(
            "WITH job AS MATERIALIZED (
                 SELECT job.*, p.stock AS found_stock, p.version AS found_version,
                     p.fence AS found_fence
                 FROM ",
            $source,
            " AS job (id, fence, version, name, description, price, stock, request, deadline,
                     key_name)
                     JOIN products AS p ON p.id = job.id
                 FOR UPDATE OF p SKIP LOCKED
             ), written AS (
                 UPDATE products AS p SET ",
            set_columns!(),
            "
                 FROM job
                 WHERE p.id = job.id
                     AND job.found_fence < job.fence
                     AND job.found_version = coalesce(job.version, job.found_version)
                     AND clock_timestamp() < coalesce(job.deadline, 'infinity')
                 RETURNING p.*, p.stock - job.found_stock AS delta, job.request, job.key_name
             ), booked AS (",
            insert_entries!(),
            ") "
        )
    };
}
pub(super) use update_jobs;

/// The products that [`update_jobs`] has written.
macro_rules! written_products {
    () => {
        concat!(
            "(SELECT ",
            with_clock!(product_columns),
            " FROM written AS products) AS product"
        )
    };
}
pub(super) use written_products;

/// Updates a batch. Returns what it found for each id.
///
/// Whether a row that it has not found exists is looked up by a subquery of one row, because Postgres
/// may plan `EXISTS` as a scan of the whole table.
const UPDATE_BATCH: &str = concat!(
    update_jobs!("unnest($1, $2, $3, $4, $5, $6, $7, $8::text[], $9::timestamptz[], $10::text[])"),
    "SELECT requested.id AS requested, job.found_version, job.found_fence,
         job.id IS NOT NULL
             OR (SELECT p.id FROM products AS p WHERE p.id = requested.id) IS NOT NULL
             AS is_present,
         clock_timestamp() AS clock, product.*
     FROM unnest($1) AS requested (id)
         LEFT JOIN job ON job.id = requested.id
         LEFT JOIN ",
    written_products!(),
    " ON product.id = requested.id"
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
    /// Another request has used the key of the update, with this response.
    Recorded(ResponseRecord),
}

pub(super) type FoundRows = HashMap<i64, Found>;

/// Writes a batch in one statement, which is a transaction of its own.
pub(super) async fn write(
    connection: &mut PgConnection,
    jobs: Vec<Job>,
    clock: DatabaseClock,
    tracker: CommitTracker,
) -> Result<FoundRows> {
    let mut columns = Columns::default();
    jobs.into_iter().for_each(|job| columns.push(job));
    let query = columns.bind(sqlx::query(UPDATE_BATCH)).bind(now());
    let execute = async { Ok(query.fetch_all(connection).await?) };
    let found = tracker.statement(execute).await?;
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
