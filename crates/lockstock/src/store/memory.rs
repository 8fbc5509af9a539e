//! Locks and values in the memory of this process, with the semantics of the Redis store.
//!
//! Waiters of one name stand in a queue and are granted the lock in order, by whoever
//! releases it; when a lease ends, the waiters' own timers see to it.

mod lock_table;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod sync;
mod values;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::lock_table::{EnqueueOutcome, LockTable, Queued};
use self::sync::{Mutex, MutexGuard, sleep_until};
use self::values::Values;
use super::request::{Handover, Outcome, Request};
use crate::inspect::{HolderId, LockInfo, Who};
use crate::key::Keys;
use crate::token::Token;

/// No mutexes of tokio's: they are held for a few map operations and never across an await.
#[derive(Clone)]
pub(super) struct Memory {
    rooms: Arc<Mutex<LockTable>>,
    /// Apart: nothing of a lock depends on a value. Not the schedules' mutex, for that.
    values: Arc<std::sync::Mutex<Values>>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            rooms: Arc::new(Mutex::new(LockTable::default())),
            values: Arc::default(),
        }
    }

    pub(super) async fn acquire(&self, attempt: &Request) -> Outcome {
        let entered = {
            let mut rooms = self.rooms();
            // Looked at the clock now that nobody else is at it: else a lease just begun had
            // more left than it has.
            rooms.enter(attempt, Instant::now())
        };
        let mut queued = match entered {
            EnqueueOutcome::Answered(answer) => return answer,
            EnqueueOutcome::Queued(queued) => queued,
        };
        let leaving = DequeueOnDrop {
            memory: self,
            attempt,
            stayed: false,
        };
        loop {
            if let Some(answer) = self.wait(attempt, &mut queued).await {
                leaving.stayed();
                return count(answer, Handover::Local);
            }
            let now = Instant::now();
            let (next_end, busy) = self.rooms().look(&attempt.keys, now);
            // The look may have been what ended a lease, and the lock be ours now.
            if let Ok(answer) = queued.answer.try_recv() {
                leaving.stayed();
                return count(answer, Handover::Expiry);
            }
            if attempt.until.is_some_and(|until| until <= now) {
                return busy;
            }
            queued.next_end = next_end;
        }
    }

    /// Waits for an answer, or until it is time to look.
    async fn wait(&self, attempt: &Request, queued: &mut Queued) -> Option<Outcome> {
        let until = attempt.until.unwrap_or(queued.next_end);
        tokio::select! {
            biased;
            answer = &mut queued.answer => {
                Some(answer.expect("a waiter is answered before it is dropped"))
            }
            () = sleep_until(until.min(queued.next_end)) => None,
            () = queued.sooner.notified() => None,
        }
    }

    pub(super) fn release(&self, keys: &Keys, token: Token) -> bool {
        self.rooms().release(keys, token, Instant::now())
    }

    pub(super) fn keep(&self, keys: &Keys, token: Token) -> bool {
        self.rooms().keep(keys, token, Instant::now())
    }

    pub(super) fn renew(&self, keys: &Keys, token: Token, left: Duration) -> bool {
        let mut rooms = self.rooms();
        let now = Instant::now();
        rooms.renew(keys, token, now + left, now)
    }

    pub(super) fn locks(&self) -> Vec<LockInfo> {
        self.rooms().all_seen(Instant::now())
    }

    pub(super) fn look(&self, keys: &Keys) -> Option<LockInfo> {
        self.rooms().seen(&keys.holder, Instant::now())
    }

    /// Takes a lock away. Whether that holder had it.
    pub(super) fn force(&self, keys: &Keys, holder: HolderId) -> bool {
        match holder.0 {
            Who::Ours(token) => self.rooms().force(keys, token, Instant::now()),
            Who::Foreign(_) => false,
        }
    }

    fn rooms(&self) -> MutexGuard<'_, LockTable> {
        // Nothing in there panics halfway through a change.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn values(&self) -> std::sync::MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(answer: Outcome, how: Handover) -> Outcome {
    if matches!(answer, Outcome::Granted(_)) {
        how.count();
    }
    answer
}

/// Takes a waiter out of the queue when its future is dropped, and gives back a lock that
/// was granted to it in that very moment.
struct DequeueOnDrop<'a> {
    memory: &'a Memory,
    attempt: &'a Request,
    stayed: bool,
}

impl DequeueOnDrop<'_> {
    fn stayed(mut self) {
        self.stayed = true;
    }
}

impl Drop for DequeueOnDrop<'_> {
    fn drop(&mut self) {
        if !self.stayed {
            let Request { keys, token, .. } = self.attempt;
            self.memory.rooms().leave(keys, *token, Instant::now());
        }
    }
}
