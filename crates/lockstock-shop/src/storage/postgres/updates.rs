//! Updates: one statement writes all that arrived while the previous one ran, and accepts or
//! rejects each row on its own.
//!
//! The statement is a transaction of its own, in one round trip. Updates with idempotency keys have a
//! statement of their own, which records their responses too.
//!
//! A batch never waits for a row that is locked elsewhere: it skips the row, and that update is
//! tried again on its own until its window ends: see [`row_locks`](super::row_locks).

mod batched;
mod lone;
mod recorded;
pub(super) mod single;

use std::collections::HashSet;

use tokio::sync::oneshot;

use self::batched::{Found, FoundRows, Job};
use super::super::error::CommitTracker;
use super::super::{
    Changes, IdempotencyKey, Precondition, Product, Result, WriteContext, WriteOutcome,
};
use super::pool::Database;

/// The clock of the database may have been set back since it was read. The second comparison is with
/// its time in the reply to the first.
const MAX_TRIES: u32 = 2;

pub(super) struct Update {
    pub(super) id: i64,
    pub(super) changes: Changes,
    pub(super) precondition: Precondition,
    pub(super) context: WriteContext,
    pub(super) reply: oneshot::Sender<Result<WriteOutcome<Product>>>,
}

impl Update {
    fn key(&self) -> Option<&IdempotencyKey> {
        let idempotency = self.context.idempotency.as_ref();
        idempotency.map(|idempotency| &idempotency.key)
    }
}

/// Writes all updates that can be written together, and spawns the others. All have an idempotency key, or
/// none of them.
pub(super) async fn update_all(database: Database, updates: Vec<Update>) {
    let (mut ids, mut keys) = (HashSet::new(), HashSet::new());
    // At most one update of a product, because a second one would not find its version, and one
    // under a key.
    let (batch, single): (Vec<_>, Vec<_>) = updates.into_iter().partition(|update| {
        !update.changes.is_empty()
            && ids.insert(update.id)
            && update.key().is_none_or(|key| keys.insert(key.clone()))
    });
    single
        .into_iter()
        .for_each(|update| single::spawn(&database, update));
    write_together(&database, batch).await;
}

async fn write_together(database: &Database, mut batch: Vec<Update>) {
    for _ in 0..MAX_TRIES {
        let (ended, rest): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|update| update.precondition.window.has_ended());
        for update in ended {
            let _ = update.reply.send(Ok(WriteOutcome::Fenced));
        }
        batch = rest;
        if batch.is_empty() {
            return;
        }
        match write(database, &batch).await {
            Ok(mut found) => {
                let left = batch
                    .into_iter()
                    .filter_map(|update| reply(database, update, &mut found));
                batch = left.collect();
            }
            // The error does not name the row, or a table is locked. Nothing is written.
            Err(error)
                if (error.is_row_error() || error.is_lock_timeout()) && !error.commit_unknown() =>
            {
                break;
            }
            Err(error) => {
                for update in batch {
                    let _ = update.reply.send(Err(error.clone()));
                }
                return;
            }
        }
    }
    for update in batch {
        single::spawn(database, update);
    }
}

/// Writes the rows that can be written.
async fn write(database: &Database, batch: &[Update]) -> Result<FoundRows> {
    let tracker = CommitTracker::default();
    let (commit, clock, options) = (tracker.clone(), database.clock.clone(), database.options);
    let (mut plain, mut keyed) = (Vec::new(), Vec::new());
    for update in batch {
        let job = Job::new(update, &clock);
        match &update.context.idempotency {
            Some(idempotency) => keyed.push((job, idempotency.clone())),
            None => plain.push(job),
        }
    }
    let written = database.with_connection(|connection| {
        Box::pin(async move {
            if !keyed.is_empty() {
                recorded::write(connection, keyed, options, clock, commit).await
            } else if plain.len() == 1 {
                lone::write(connection, plain.remove(0), clock, commit).await
            } else {
                batched::write(connection, plain, clock, commit).await
            }
        })
    });
    let written = written.await;
    written.map_err(|error| tracker.mark(error))
}

/// Replies to an update, or spawns it. Returns it if it can be written only by the next try.
fn reply(database: &Database, update: Update, found: &mut FoundRows) -> Option<Update> {
    let precondition = update.precondition;
    let is_keyed = update.key().is_some();
    let outcome = match found.remove(&update.id) {
        Some(Found::Written(product)) => WriteOutcome::Done(product),
        Some(Found::Recorded(record)) => WriteOutcome::AlreadyRecorded(record),
        // The cause may be the effect of another request with the key, whose response is recorded.
        _ if is_keyed => {
            single::spawn(database, update);
            return None;
        }
        Some(Found::Nothing) => WriteOutcome::NotFound,
        Some(Found::Locked) | None => {
            single::spawn(database, update);
            return None;
        }
        Some(Found::Unwritten(version, fence)) => {
            let is_met = fence < precondition.window.fence()
                && precondition
                    .version
                    .is_none_or(|required| required == version);
            if is_met {
                // The window has ended by the clock of the database.
                return Some(update);
            }
            precondition.rejection(Some((version, fence)))
        }
    };
    let _ = update.reply.send(Ok(outcome));
    None
}
