//! Refusals under idempotency keys: a try that began before a refusal has no effect after it.
//!
//! One request may be tried at two servers. While the first try is still on its way to the
//! database, the second one is refused, for example because the product is sold out. The client
//! takes that for the outcome of its key. If the stock is raised now, the first try must not buy.
//! A try that begins after the refusal is a new attempt, and may.
//!
//! Whether a try began before a refusal is decided without clocks. Each transaction of orders
//! returns its snapshot, and a server keeps the newest one. A try carries the snapshot that its
//! server had when the request arrived, before the body was read and before anything was sent to
//! the database. If the snapshot contains the refusal, the refusal had committed before the try
//! began. Otherwise the try may have begun earlier: its response is `in_flight`, and it has no
//! effect. Its transaction has brought a snapshot that contains the refusal, so the next try at
//! this server runs. The server that refuses takes a new snapshot after its commit, before it
//! responds: the next try there runs at once.
//!
//! A sequence instead of snapshots would not do: a number is visible before the transaction that
//! drew it commits, and a try that began in between would count as later.
//!
//! Transaction ids are those of one server. After a failover, or a restore into another server, they
//! may be lower than before: a server forgets its snapshot when its connections break, and a refusal
//! whose transaction id has not been assigned yet is from another server, and earlier than every try.
//!
//! No try passes a refusal unseen. A refusal is a row of `idempotency`, as the record of an effect
//! is, so the primary key serializes all transactions that write under one key. The later one
//! waits for the commit of the earlier one and finds its row. It replaces that row only if it has
//! read and accepted it; otherwise it is rolled back, and runs again with the row in sight.
//!
//! Refusals are deleted after [`REFUSAL_RETENTION`]. No try is older when it commits: each
//! transaction checks the age of its requests by the monotonic clock (see [`Order::is_too_old`]),
//! and the database ends a transaction that is idle for longer than the timeout of a call.
//!
//! [`REFUSAL_RETENTION`]: super::super::idempotency::REFUSAL_RETENTION
//! [`Order::is_too_old`]: super::super::Order::is_too_old
//!
//! Updates and creations need no refusals. They are rejected for a state that does not come back:
//! versions and fences only rise, and the id of a deleted product is not reused.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;
use tokio::time::Instant;

use super::super::{KnownCommits, Result};

/// The newest snapshot that this server has received.
#[derive(Clone, Default)]
pub(super) struct NewestSnapshot(Arc<Mutex<Option<Arc<str>>>>);

impl NewestSnapshot {
    pub(super) fn known_commits(&self) -> KnownCommits {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        KnownCommits {
            snapshot: newest.clone(),
            as_of: Some(Instant::now()),
        }
    }

    /// Keeps a snapshot, in the text format of `pg_snapshot`, if it is newer.
    pub(super) fn keep(&self, snapshot: &str) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_deref().map(end) <= Some(end(snapshot)) {
            *newest = Some(snapshot.into());
        }
    }

    /// Forgets the snapshot: the next connection may be to another server, whose transaction ids are
    /// lower. Until an order brings another snapshot, every refusal counts as later.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes a snapshot that contains what this connection has committed.
    pub(super) async fn refresh(&self, connection: &mut PgConnection) -> Result<()> {
        let snapshot: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
            .fetch_one(connection)
            .await?;
        self.keep(&snapshot);
        Ok(())
    }
}

/// Returns the first transaction id that had not been assigned when the snapshot was taken.
fn end(snapshot: &str) -> u64 {
    let end = snapshot.split(':').nth(1);
    end.and_then(|end| end.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_snapshot_that_arrives_late_is_dropped() {
        let newest = NewestSnapshot::default();
        for (snapshot, kept) in [
            ("10:20:12,15", "10:20:12,15"),
            ("9:19:", "10:20:12,15"),
            ("12:20:15", "12:20:15"),
            ("100:100:", "100:100:"),
        ] {
            newest.keep(snapshot);
            assert_eq!(newest.known_commits().snapshot.as_deref(), Some(kept));
        }
    }
}
