//! What was answered under idempotency keys.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::SqliteConnection;

use super::super::sale::{Key, Recorded};
use super::super::{Result, now};
use super::as_text;

pub(super) async fn find(
    reader: &mut SqliteConnection,
    keys: &[Key],
    forgotten: DateTime<Utc>,
) -> Result<HashMap<Key, Recorded>> {
    let wanted = keys.iter().map(|key| json!([&*key.caller, &*key.key]));
    let rows: Vec<(String, String, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT r.caller, r.key, r.fingerprint, r.answer
         FROM json_each($1) AS wanted JOIN idempotency AS r
             ON r.caller = wanted.value ->> 0 AND r.key = wanted.value ->> 1
         WHERE r.created_at > $2",
    )
    .bind(wanted.collect::<serde_json::Value>().to_string())
    .bind(as_text(forgotten))
    .fetch_all(reader)
    .await?;
    Ok(rows.into_iter().map(Recorded::of_row).collect())
}

/// Notes all answers, none of which [`find`] has found in this transaction: whatever is there
/// is forgotten.
pub(super) async fn note(
    writer: &mut SqliteConnection,
    records: BTreeMap<Key, Recorded>,
) -> Result<()> {
    for (key, recorded) in records {
        sqlx::query(
            "INSERT OR REPLACE INTO idempotency (caller, key, fingerprint, answer, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&*key.caller)
        .bind(&*key.key)
        .bind(&recorded.fingerprint[..])
        .bind(recorded.answer)
        .bind(as_text(now()))
        .execute(&mut *writer)
        .await?;
    }
    Ok(())
}

/// Forgets at most so many of those whose time is over.
pub(super) async fn forget(
    writer: &mut SqliteConnection,
    forgotten: DateTime<Utc>,
    most: i64,
) -> Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM idempotency WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency WHERE created_at <= $1
             ORDER BY created_at LIMIT $2
         )",
    )
    .bind(as_text(forgotten))
    .bind(most)
    .execute(writer)
    .await?;
    Ok(deleted.rows_affected())
}
