//! The statement that writes an update that is alone.
//!
//! It is that of a batch, with values in place of arrays, and without a word on rows that it does not
//! find. Postgres takes a sixth less time for it.

use sqlx::{FromRow, PgConnection, Row};

use super::super::super::error::CommitTracker;
use super::super::super::{Result, now};
use super::super::clock::DatabaseClock;
use super::super::with_clock;
use super::batched::{
    self, Found, FoundRows, Job, insert_entries, set_columns, update_jobs, written_products,
};

/// Updates one row. Returns what it found; nothing if the row does not exist, or is locked.
const UPDATE_ONE: &str = concat!(
    update_jobs!(
        "(VALUES ($1::bigint, $2::bigint, $3::bigint, $4::text, $5::text, $6::bigint, $7::bigint,
              $8::text, $9::timestamptz, $10::text))"
    ),
    "SELECT job.found_version, job.found_fence, clock_timestamp() AS clock, product.*
     FROM job LEFT JOIN ",
    written_products!(),
    " ON product.id = job.id"
);

/// Writes an update in one statement, which is a transaction of its own. If it finds no row that is
/// not locked, the statement of a batch finds out why.
pub(super) async fn write(
    connection: &mut PgConnection,
    job: Job,
    clock: DatabaseClock,
    tracker: CommitTracker,
) -> Result<FoundRows> {
    let query = sqlx::query(UPDATE_ONE)
        .bind(job.id)
        .bind(job.fence)
        .bind(job.version)
        .bind(&job.changes.name)
        .bind(&job.changes.description)
        .bind(job.changes.price)
        .bind(job.changes.stock)
        .bind(&job.request)
        .bind(job.deadline)
        .bind(&job.key_name)
        .bind(now());
    let execute = async { Ok(query.fetch_optional(&mut *connection).await?) };
    let Some(row) = tracker.statement(execute).await? else {
        return batched::write(connection, vec![job], clock, tracker).await;
    };
    clock.note(row.try_get("clock")?);
    Ok(FoundRows::from([(job.id, Found::from_row(&row)?)]))
}
