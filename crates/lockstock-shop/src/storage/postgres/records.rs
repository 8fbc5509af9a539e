//! The responses recorded under idempotency keys. They expire by the clock of the database, which
//! all servers share.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, Row};
use tokio::sync::oneshot;

use super::super::idempotency::REFUSAL_RETENTION;
use super::super::{
    IdempotencyKey, IdempotentWrite, Order, ResponseRecord, Result, StorageOptions,
};
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

/// The record under the key of `requested` that has not expired. Ignores refusals.
///
/// One index scan for each key: a join would be planned by the statistics of a table that was empty a
/// moment ago.
macro_rules! requested_record {
    ($retention:literal) => {
        concat!(
            "LATERAL (
                 SELECT * FROM idempotency AS r
                 WHERE r.caller = requested.caller AND r.key = requested.key
                     AND r.created_at > statement_timestamp() - make_interval(secs => ",
            $retention,
            ")
                     AND r.refused IS NULL
                 LIMIT 1
             ) AS r"
        )
    };
}
pub(super) use requested_record;

/// Returns the callers and the keys, as arrays for `unnest`.
pub(super) fn key_columns<'a>(
    keys: impl IntoIterator<Item = &'a IdempotencyKey>,
) -> (Vec<String>, Vec<String>) {
    keys.into_iter()
        .map(|key| (key.caller.to_string(), key.key.to_string()))
        .unzip()
}

/// Returns the records under `keys` that have not expired. Ignores refusals.
pub(super) async fn find(
    connection: &mut PgConnection,
    keys: Vec<IdempotencyKey>,
    options: StorageOptions,
) -> Result<HashMap<IdempotencyKey, ResponseRecord>> {
    const SELECT: &str = concat!(
        "SELECT r.caller, r.key, r.fingerprint, r.answer
         FROM unnest($1::text[], $2::text[]) AS requested (caller, key) CROSS JOIN ",
        requested_record!("$3")
    );
    let (callers, names) = key_columns(&keys);
    let rows: Vec<(String, String, Vec<u8>, Vec<u8>)> = sqlx::query_as(SELECT)
        .bind(callers)
        .bind(names)
        .bind(options.key_retention.as_secs_f64())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(ResponseRecord::from_row).collect())
}

/// What orders find under their keys.
#[derive(Default)]
pub(super) struct Found {
    pub(super) records: HashMap<IdempotencyKey, ResponseRecord>,
    /// The keys whose refusals their order may have begun before.
    pub(super) refused: HashSet<IdempotencyKey>,
    pub(super) accepted: AcceptedRefusals,
}

/// The refusals that a transaction may replace.
pub(super) enum AcceptedRefusals {
    All,
    /// Those that these transactions have written.
    Of(Vec<String>),
}

impl Default for AcceptedRefusals {
    fn default() -> Self {
        Self::Of(Vec::new())
    }
}

/// Returns the records under the keys of orders, and their refusals.
pub(super) async fn find_of(
    connection: &mut PgConnection,
    orders: &[Order],
    options: StorageOptions,
) -> Result<Found> {
    let mut found = Found::default();
    let (mut callers, mut names, mut snapshots) = (Vec::new(), Vec::new(), Vec::new());
    for order in orders {
        if let Some(IdempotentWrite { key, .. }) = &order.idempotency {
            callers.push(key.caller.to_string());
            names.push(key.key.to_string());
            snapshots.push(order.request.known_commits.snapshot.as_deref());
        }
    }
    if callers.is_empty() {
        return Ok(found);
    }
    let rows = sqlx::query(
        // One index scan for each key, as in [`requested_record`].
        "SELECT r.caller, r.key, r.fingerprint, r.answer, r.refused::text AS refused,
             coalesce(pg_visible_in_snapshot(r.refused, requested.snapshot::pg_snapshot), false)
                 OR r.refused >= pg_snapshot_xmax(pg_current_snapshot()) AS is_earlier
         FROM unnest($1::text[], $2::text[], $3::text[]) AS requested (caller, key, snapshot)
             CROSS JOIN LATERAL (
                 SELECT * FROM idempotency AS r
                 WHERE r.caller = requested.caller AND r.key = requested.key
                     AND (r.created_at > statement_timestamp() - make_interval(secs => $4)
                         OR r.refused IS NOT NULL)
                 LIMIT 1
             ) AS r",
    )
    .bind(callers)
    .bind(names)
    .bind(snapshots)
    .bind(options.key_retention.as_secs_f64())
    .fetch_all(connection)
    .await?;
    let mut accepted = Vec::new();
    for row in rows {
        let record = (
            row.try_get("caller")?,
            row.try_get("key")?,
            row.try_get("fingerprint")?,
            row.try_get("answer")?,
        );
        let (key, record) = ResponseRecord::from_row(record);
        let refused: Option<String> = row.try_get("refused")?;
        match refused {
            None => drop(found.records.insert(key, record)),
            Some(transaction) if row.try_get("is_earlier")? => accepted.push(transaction),
            Some(_) => drop(found.refused.insert(key)),
        }
    }
    found.accepted = AcceptedRefusals::Of(accepted);
    Ok(found)
}

/// Inserts all records and refusals. Returns false if another transaction has used one of the keys
/// since [`find`] or [`find_of`].
///
/// Deadlock-free because every transaction inserts in the order of the keys, and only after its
/// products are locked: a transaction that waits here holds no key that the other one waits for.
pub(super) async fn insert(
    connection: &mut PgConnection,
    records: BTreeMap<IdempotencyKey, ResponseRecord>,
    refusals: BTreeMap<IdempotencyKey, [u8; 32]>,
    accepted: AcceptedRefusals,
    options: StorageOptions,
) -> Result<bool> {
    let refusals = refusals.into_iter().map(|(key, fingerprint)| {
        let record = ResponseRecord {
            fingerprint,
            response: Vec::new(),
        };
        (key, (record, true))
    });
    let records = records
        .into_iter()
        .map(|(key, record)| (key, (record, false)));
    // Together, in the order of the keys. No key is in both.
    let rows = records.chain(refusals).collect::<BTreeMap<_, _>>();
    if rows.is_empty() {
        return Ok(true);
    }
    let count = rows.len();
    let (mut callers, mut names) = (Vec::new(), Vec::new());
    let (mut fingerprints, mut responses, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (key, (record, is_refusal)) in rows {
        callers.push(key.caller.to_string());
        names.push(key.key.to_string());
        fingerprints.push(record.fingerprint.to_vec());
        responses.push(record.response);
        refused.push(is_refusal);
    }
    let accepted = match accepted {
        AcceptedRefusals::All => None,
        AcceptedRefusals::Of(transactions) => Some(transactions),
    };
    let inserted = sqlx::query(
        "INSERT INTO idempotency AS old (caller, key, fingerprint, answer, created_at, refused)
         SELECT caller, key, fingerprint, answer, statement_timestamp(),
             CASE WHEN is_refusal THEN pg_current_xact_id() END
         FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::boolean[])
             AS new (caller, key, fingerprint, answer, is_refusal)
         ON CONFLICT (caller, key) DO UPDATE SET fingerprint = excluded.fingerprint,
             answer = excluded.answer, created_at = excluded.created_at,
             refused = excluded.refused
             WHERE CASE
                 WHEN old.refused IS NOT NULL
                     THEN $7::text[] IS NULL OR old.refused::text = ANY($7::text[])
                 ELSE old.created_at <= statement_timestamp() - make_interval(secs => $6)
             END",
    )
    .bind(callers)
    .bind(names)
    .bind(fingerprints)
    .bind(responses)
    .bind(refused)
    .bind(options.key_retention.as_secs_f64())
    .bind(accepted)
    .execute(connection)
    .await?;
    Ok(usize::try_from(inserted.rows_affected()).is_ok_and(|inserted| inserted == count))
}

/// Deletes up to `max` expired records and refusals. Returns how many.
pub(super) async fn delete_expired(
    connection: &mut PgConnection,
    options: StorageOptions,
    max: i64,
) -> Result<u64> {
    let records = sqlx::query(
        "DELETE FROM idempotency WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency
             WHERE created_at <= statement_timestamp() - make_interval(secs => $1)
                 AND refused IS NULL
             ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
    )
    .bind(options.key_retention.as_secs_f64())
    .bind(max)
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let refusals = sqlx::query(
        "DELETE FROM idempotency WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency
             WHERE created_at <= statement_timestamp() - make_interval(secs => $1)
                 AND refused IS NOT NULL
             ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
    )
    .bind(REFUSAL_RETENTION.as_secs_f64())
    .bind(max)
    .execute(connection)
    .await?
    .rows_affected();
    Ok(records + refusals)
}
