//! The responses recorded under idempotency keys.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use super::super::{IdempotencyKey, ResponseRecord, Result, StorageOptions, now};
use super::{Readers, as_text};

pub(super) struct Find {
    pub(super) key: IdempotencyKey,
    pub(super) reply: oneshot::Sender<Result<Option<ResponseRecord>>>,
}

/// Finds all records of a batch in one statement.
pub(super) async fn find_all(readers: Readers, batch: Vec<Find>, options: StorageOptions) {
    let keys = batch.iter().map(|find| find.key.clone());
    let keys = keys.collect::<Vec<_>>();
    let found = async {
        let mut reader = readers.pool()?.acquire().await?;
        find(&mut reader, &keys, options.expired_at()).await
    };
    let found = found.await;
    for find in batch {
        let found = found.as_ref().map(|found| found.get(&find.key).cloned());
        let _ = find.reply.send(found.map_err(Clone::clone));
    }
}

/// Returns the records under `keys` that have not expired.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    keys: &[IdempotencyKey],
    expired_at: DateTime<Utc>,
) -> Result<HashMap<IdempotencyKey, ResponseRecord>> {
    let requested = keys.iter().map(|key| json!([&*key.caller, &*key.key]));
    let rows: Vec<(String, String, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT r.caller, r.key, r.fingerprint, r.answer
         FROM json_each($1) AS requested JOIN idempotency AS r
             ON r.caller = requested.value ->> 0 AND r.key = requested.value ->> 1
         WHERE r.created_at > $2",
    )
    .bind(requested.collect::<serde_json::Value>().to_string())
    .bind(as_text(expired_at))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(ResponseRecord::from_row).collect())
}

/// Inserts records that [`find`] has not found in this transaction, so that an existing row has
/// expired.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    records: BTreeMap<IdempotencyKey, ResponseRecord>,
) -> Result<()> {
    for (key, record) in records {
        sqlx::query(
            "INSERT OR REPLACE INTO idempotency (caller, key, fingerprint, answer, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&*key.caller)
        .bind(&*key.key)
        .bind(&record.fingerprint[..])
        .bind(record.response)
        .bind(as_text(now()))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Deletes up to `max` expired records. Returns how many.
pub(super) async fn delete_expired(
    connection: &mut SqliteConnection,
    expired_at: DateTime<Utc>,
    max: i64,
) -> Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM idempotency WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency WHERE created_at <= $1
             ORDER BY created_at LIMIT $2
         )",
    )
    .bind(as_text(expired_at))
    .bind(max)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
