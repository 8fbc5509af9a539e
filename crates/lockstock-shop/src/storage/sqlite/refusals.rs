//! Refusals under idempotency keys, if several servers share the file: a try that began before a
//! refusal has no effect after it.
//!
//! As in Postgres (see `postgres/refusals.rs`), but simpler, because SQLite runs one writing
//! transaction at a time: refusals are numbered in the order of their commits. A try carries the
//! highest position that its server knew when the request arrived. A server that has the file for
//! itself needs no refusals: it processes one try of a key at a time, and no try outlives it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::SqliteConnection;
use tokio::time::Instant;

use super::super::{IdempotencyKey, KnownCommits, Order, Result, now};
use super::as_text;

/// The highest position of a committed refusal that this server has read.
#[derive(Clone, Default)]
pub(super) struct NewestPosition(Arc<AtomicI64>);

impl NewestPosition {
    pub(super) fn known_commits(&self) -> KnownCommits {
        let position = self.0.load(Ordering::SeqCst).to_string();
        KnownCommits {
            snapshot: Some(position.into()),
            as_of: Some(Instant::now()),
        }
    }

    /// Reads the highest position. Called before the transaction writes a refusal, or after it has
    /// ended: the number of a refusal that is rolled back is used again.
    pub(super) async fn refresh(&self, connection: &mut SqliteConnection) -> Result<()> {
        let query = sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'refusals'");
        let position: Option<i64> = query.fetch_optional(connection).await?;
        self.0
            .fetch_max(position.unwrap_or_default(), Ordering::SeqCst);
        Ok(())
    }
}

/// Returns the keys whose refusals their order may have begun before.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    orders: &[&Order],
) -> Result<HashSet<IdempotencyKey>> {
    let requested = orders.iter().filter_map(|order| {
        let key = &order.idempotency.as_ref()?.key;
        let known = order.request.known_commits.snapshot.as_deref();
        let position: i64 = known.unwrap_or_default().parse().unwrap_or_default();
        Some(json!([&*key.caller, &*key.key, position]))
    });
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT r.caller, r.key
         FROM json_each($1) AS requested JOIN refusals AS r
             ON r.caller = requested.value ->> 0 AND r.key = requested.value ->> 1
         WHERE r.position > requested.value ->> 2",
    )
    .bind(requested.collect::<Value>().to_string())
    .fetch_all(connection)
    .await?;
    let keys = rows.into_iter().map(|(caller, key)| IdempotencyKey {
        caller: caller.into(),
        key: key.into(),
    });
    Ok(keys.collect())
}

/// Inserts refusals. Those under the same keys are replaced.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    refusals: BTreeMap<IdempotencyKey, [u8; 32]>,
) -> Result<()> {
    if refusals.is_empty() {
        return Ok(());
    }
    let keys = refusals.keys().map(|key| json!([&*key.caller, &*key.key]));
    sqlx::query(
        "INSERT OR REPLACE INTO refusals (caller, key, created_at)
         SELECT value ->> 0, value ->> 1, $2 FROM json_each($1)",
    )
    .bind(keys.collect::<Value>().to_string())
    .bind(as_text(now()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes up to `max` refusals that were recorded at or before `expired_at`. Returns how many.
pub(super) async fn delete_expired(
    connection: &mut SqliteConnection,
    expired_at: DateTime<Utc>,
    max: i64,
) -> Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM refusals WHERE position IN (
             SELECT position FROM refusals WHERE created_at <= $1 ORDER BY created_at LIMIT $2
         )",
    )
    .bind(as_text(expired_at))
    .bind(max)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
