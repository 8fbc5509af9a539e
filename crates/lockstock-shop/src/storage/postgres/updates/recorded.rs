//! The statements that write updates with idempotency keys, and record their responses.
//!
//! A response has every field of the product, so it can be rendered only if the whole row is known. It
//! is read first, without a lock: the update lock already keeps other updates away. One statement, which
//! is a transaction of its own, then writes the products that are still as they were read, with their
//! entries and the responses that were rendered beforehand. All others are written one by one.

use std::collections::HashMap;

use sqlx::{PgConnection, Row};

use super::super::super::error::CommitTracker;
use super::super::super::sql::held_units;
use super::super::super::{IdempotentWrite, Product, ResponseRecord, Result, StorageOptions, now};
use super::super::clock::DatabaseClock;
use super::super::records::{key_columns, requested_record};
use super::super::row_locks::lock_timeout;
use super::super::{read_product, with_clock};
use super::batched::{Columns, Found, FoundRows, Job, insert_entries, set_columns};
use crate::failpoint;

/// Updates the rows that are not locked, have the version and the held units that were read, a lower
/// fence, and whose windows have not ended by the clock of the database, with an entry and a record
/// each. Returns the ids that it has written. Fails, and writes nothing, if there is a row under one of
/// the keys: a record, even an expired one, or a refusal.
///
/// All conditions are those of `met`, whose rows are locked: a record is never without its effect.
///
/// Deadlock-free because it waits for no row, and inserts the records, for whose keys it may wait, in
/// the order of [`records::insert`](super::super::records::insert), when all rows are locked. It waits
/// for no longer than [`row_locks`](super::super::row_locks) permits: `set_config` is in force until the
/// end of the statement.
const UPDATE_RECORDED: &str = concat!(
    "WITH job AS MATERIALIZED (
         SELECT job.*, p.stock AS found_stock, p.version AS found_version, p.fence AS found_fence
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8::text[], $9::timestamptz[], $10::text[],
             $12::bigint[], $13::text[], $14::text[], $15::bytea[], $16::bytea[])
             AS job (id, fence, version, name, description, price, stock, request, deadline,
                 key_name, held, caller, key, fingerprint, answer)
             JOIN products AS p ON p.id = job.id
         WHERE (SELECT set_config('lock_timeout', '",
    lock_timeout!(),
    "', true)) IS NOT NULL
         FOR UPDATE OF p SKIP LOCKED
     ), met AS MATERIALIZED (
         SELECT * FROM job
         WHERE found_fence < fence
             AND found_version = version
             AND clock_timestamp() < coalesce(deadline, 'infinity')
             AND held = ",
    held_units!("job.id", "statement_timestamp()"),
    "
     ), written AS (
         UPDATE products AS p SET ",
    set_columns!(),
    "
         FROM met AS job
         WHERE p.id = job.id
         RETURNING p.id, p.version, p.stock, p.fence, p.stock - job.found_stock AS delta,
             job.request, job.key_name
     ), booked AS (",
    insert_entries!(),
    "), recorded AS (
         INSERT INTO idempotency (caller, key, fingerprint, answer, created_at)
         SELECT caller, key, fingerprint, answer, statement_timestamp() FROM met
         ORDER BY caller COLLATE \"C\", key COLLATE \"C\"
     )
     SELECT id, clock_timestamp() AS clock FROM written"
);

/// Returns the products of the updates and the records under their keys.
const SELECT: &str = concat!(
    "SELECT requested.id AS requested, r.fingerprint, r.answer, product.*
     FROM unnest($1, $2::text[], $3::text[]) AS requested (id, caller, key)
         LEFT JOIN LATERAL (SELECT ",
    with_clock!(product_columns),
    " FROM products WHERE products.id = requested.id) AS product ON true
         LEFT JOIN ",
    requested_record!("$4"),
    " ON true"
);

/// Writes the products that are as they are read now, with the records of their responses. Those that it
/// has not written and has found no record of are not in the result.
pub(super) async fn write(
    connection: &mut PgConnection,
    jobs: Vec<(Job, IdempotentWrite<Product>)>,
    options: StorageOptions,
    clock: DatabaseClock,
    tracker: CommitTracker,
) -> Result<FoundRows> {
    let mut found = find(connection, &jobs, options).await?;
    failpoint::pause("update.read").await;
    let now = now();
    let (mut columns, mut held) = (Columns::default(), Vec::new());
    let (mut callers, mut keys) = (Vec::new(), Vec::new());
    let (mut fingerprints, mut responses) = (Vec::new(), Vec::new());
    let mut changed = HashMap::new();
    for (job, idempotency) in jobs {
        let Some(product) = found.products.get(&job.id) else {
            continue;
        };
        if job
            .version
            .is_some_and(|version| version != product.version)
        {
            continue;
        }
        let after = job.changes.applied_to(product, now);
        let Some(record) = idempotency.record(&after) else {
            continue;
        };
        changed.insert(job.id, after);
        held.push(product.held);
        callers.push(idempotency.key.caller.to_string());
        keys.push(idempotency.key.key.to_string());
        fingerprints.push(record.fingerprint.to_vec());
        responses.push(record.response);
        columns.push(Job {
            version: Some(product.version),
            ..job
        });
    }
    if changed.is_empty() {
        return Ok(found.outcomes);
    }
    let query = columns
        .bind(sqlx::query(UPDATE_RECORDED))
        .bind(now)
        .bind(held)
        .bind(callers)
        .bind(keys)
        .bind(fingerprints)
        .bind(responses);
    let execute = async { Ok(query.fetch_all(connection).await?) };
    let rows = tracker.statement(execute).await?;
    if let Some(row) = rows.last() {
        clock.note(row.try_get("clock")?);
    }
    for row in rows {
        let id = row.try_get("id")?;
        if let Some(product) = changed.remove(&id) {
            found.outcomes.insert(id, Found::Written(product));
        }
    }
    Ok(found.outcomes)
}

/// What the updates find before they write.
#[derive(Default)]
struct Before {
    /// The products whose updates have no record.
    products: HashMap<i64, Product>,
    outcomes: FoundRows,
}

async fn find(
    connection: &mut PgConnection,
    jobs: &[(Job, IdempotentWrite<Product>)],
    options: StorageOptions,
) -> Result<Before> {
    let ids = jobs.iter().map(|(job, _)| job.id).collect::<Vec<_>>();
    let (callers, keys) = key_columns(jobs.iter().map(|(_, idempotency)| &idempotency.key));
    let rows = sqlx::query(SELECT)
        .bind(ids)
        .bind(callers)
        .bind(keys)
        .bind(options.key_retention.as_secs_f64())
        .fetch_all(connection)
        .await?;
    let mut before = Before::default();
    for row in rows {
        let id: i64 = row.try_get("requested")?;
        let fingerprint: Option<Vec<u8>> = row.try_get("fingerprint")?;
        if let Some(fingerprint) = fingerprint {
            let record = ResponseRecord::new(fingerprint, row.try_get("answer")?);
            before.outcomes.insert(id, Found::Recorded(record));
        } else if let Ok(product) = read_product(&row) {
            before.products.insert(id, product);
        }
    }
    Ok(before)
}
