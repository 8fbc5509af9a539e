//! The responses recorded under idempotency keys. They expire by the clock of the database, which
//! all servers share.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;
use tokio::sync::oneshot;

use super::super::{IdempotencyKey, ResponseRecord, Result, StorageOptions};
use super::pool::Database;

pub(super) struct Find {
    pub(super) key: IdempotencyKey,
    pub(super) reply: oneshot::Sender<Result<Option<ResponseRecord>>>,
}

/// Finds all records of a batch in one statement.
pub(super) async fn find_all(database: Database, batch: Vec<Find>) {
    let keys = batch.iter().map(|find| find.key.clone()).collect();
    let options = database.options;
    let found = database
        .with_connection(|connection| Box::pin(find(connection, keys, options)))
        .await;
    for find in batch {
        let found = found.as_ref().map(|found| found.get(&find.key).cloned());
        let _ = find.reply.send(found.map_err(Clone::clone));
    }
}

/// Returns the records under `keys` that have not expired.
pub(super) async fn find(
    connection: &mut PgConnection,
    keys: Vec<IdempotencyKey>,
    options: StorageOptions,
) -> Result<HashMap<IdempotencyKey, ResponseRecord>> {
    let (callers, names): (Vec<String>, Vec<String>) = keys
        .iter()
        .map(|key| (key.caller.to_string(), key.key.to_string()))
        .unzip();
    let rows: Vec<(String, String, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        // One index scan for each key: a join would be planned by the statistics of a table that
        // was empty a moment ago.
        "SELECT r.caller, r.key, r.fingerprint, r.answer
         FROM unnest($1::text[], $2::text[]) AS requested (caller, key)
             CROSS JOIN LATERAL (
                 SELECT * FROM idempotency AS r
                 WHERE r.caller = requested.caller AND r.key = requested.key
                     AND r.created_at > statement_timestamp() - make_interval(secs => $3)
                 LIMIT 1
             ) AS r",
    )
    .bind(callers)
    .bind(names)
    .bind(options.key_retention.as_secs_f64())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(ResponseRecord::from_row).collect())
}

/// Inserts all records. Returns false if another transaction has used one of the keys since
/// [`find`].
///
/// Deadlock-free because every transaction inserts in the order of the keys, and only after its
/// products are locked: a transaction that waits here holds no key that the other one waits for.
pub(super) async fn insert(
    connection: &mut PgConnection,
    records: BTreeMap<IdempotencyKey, ResponseRecord>,
    options: StorageOptions,
) -> Result<bool> {
    if records.is_empty() {
        return Ok(true);
    }
    let count = records.len();
    let (mut callers, mut names) = (Vec::new(), Vec::new());
    let (mut fingerprints, mut responses) = (Vec::new(), Vec::new());
    for (key, record) in records {
        callers.push(key.caller.to_string());
        names.push(key.key.to_string());
        fingerprints.push(record.fingerprint.to_vec());
        responses.push(record.response);
    }
    let inserted = sqlx::query(
        "INSERT INTO idempotency AS old (caller, key, fingerprint, answer, created_at)
         SELECT *, statement_timestamp() FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[])
         ON CONFLICT (caller, key) DO UPDATE SET fingerprint = excluded.fingerprint,
             answer = excluded.answer, created_at = excluded.created_at
             WHERE old.created_at <= statement_timestamp() - make_interval(secs => $5)",
    )
    .bind(callers)
    .bind(names)
    .bind(fingerprints)
    .bind(responses)
    .bind(options.key_retention.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(usize::try_from(inserted.rows_affected()).is_ok_and(|inserted| inserted == count))
}

/// Deletes up to `max` expired records. Returns how many.
pub(super) async fn delete_expired(
    connection: &mut PgConnection,
    options: StorageOptions,
    max: i64,
) -> Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM idempotency WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency WHERE created_at <= statement_timestamp() - make_interval(secs => $1)
             ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
    )
    .bind(options.key_retention.as_secs_f64())
    .bind(max)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
