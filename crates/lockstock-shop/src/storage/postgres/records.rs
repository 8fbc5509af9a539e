//! What was answered under idempotency keys. How long ago that was is told by the database's
//! clock: it is the same for all servers.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;
use tokio::sync::oneshot;

use super::super::sale::{Key, Recorded};
use super::super::{Limits, Result};
use super::pool::Database;

pub(super) struct Find {
    pub(super) key: Key,
    pub(super) answer: oneshot::Sender<Result<Option<Recorded>>>,
}

/// Looks for all that were asked for while the statement before was under way.
pub(super) async fn find_all(database: Database, batch: Vec<Find>) {
    let keys = batch.iter().map(|find| find.key.clone()).collect();
    let limits = database.limits;
    let found = database
        .run(|connection| Box::pin(find(connection, keys, limits)))
        .await;
    for find in batch {
        let found = found.as_ref().map(|found| found.get(&find.key).cloned());
        let _ = find.answer.send(found.map_err(Clone::clone));
    }
}

pub(super) async fn find(
    connection: &mut PgConnection,
    keys: Vec<Key>,
    limits: Limits,
) -> Result<HashMap<Key, Recorded>> {
    let (callers, names): (Vec<String>, Vec<String>) = keys
        .iter()
        .map(|key| (key.caller.to_string(), key.key.to_string()))
        .unzip();
    let rows: Vec<(String, String, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        // Looked up one by one, in the index: a join would be planned by statistics of a table
        // that was empty a moment ago.
        "SELECT r.caller, r.key, r.fingerprint, r.answer
         FROM unnest($1::text[], $2::text[]) AS wanted (caller, key)
             CROSS JOIN LATERAL (
                 SELECT * FROM idempotency AS r
                 WHERE r.caller = wanted.caller AND r.key = wanted.key
                     AND r.created_at > statement_timestamp() - make_interval(secs => $3)
                 LIMIT 1
             ) AS r",
    )
    .bind(callers)
    .bind(names)
    .bind(limits.key_retention.as_secs_f64())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Recorded::of_row).collect())
}

/// Notes all answers; whether it could. It cannot if somebody else has used one of the keys
/// meanwhile.
///
/// In the order of the keys, and when all products are locked: whoever waits here for another
/// one's key has nothing that the other waits for.
pub(super) async fn note(
    connection: &mut PgConnection,
    records: BTreeMap<Key, Recorded>,
    limits: Limits,
) -> Result<bool> {
    if records.is_empty() {
        return Ok(true);
    }
    let count = records.len();
    let (mut callers, mut names) = (Vec::new(), Vec::new());
    let (mut fingerprints, mut answers) = (Vec::new(), Vec::new());
    for (key, recorded) in records {
        callers.push(key.caller.to_string());
        names.push(key.key.to_string());
        fingerprints.push(recorded.fingerprint.to_vec());
        answers.push(recorded.answer);
    }
    let noted = sqlx::query(
        "INSERT INTO idempotency AS old (caller, key, fingerprint, answer, created_at)
         SELECT *, statement_timestamp() FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[])
         ON CONFLICT (caller, key) DO UPDATE SET fingerprint = excluded.fingerprint,
             answer = excluded.answer, created_at = excluded.created_at
             WHERE old.created_at <= statement_timestamp() - make_interval(secs => $5)",
    )
    .bind(callers)
    .bind(names)
    .bind(fingerprints)
    .bind(answers)
    .bind(limits.key_retention.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(usize::try_from(noted.rows_affected()).is_ok_and(|noted| noted == count))
}

/// Forgets at most so many of those whose time is over.
pub(super) async fn forget(
    connection: &mut PgConnection,
    limits: Limits,
    most: i64,
) -> Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM idempotency WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency WHERE created_at <= statement_timestamp() - make_interval(secs => $1)
             ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
    )
    .bind(limits.key_retention.as_secs_f64())
    .bind(most)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
