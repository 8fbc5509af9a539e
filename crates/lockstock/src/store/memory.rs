//! Locks and values in the memory of this process, with the semantics of the Redis backend.
//!
//! The waiters of a lock are served in order of arrival, by the holder that releases. The end
//! of a lease is noticed by the waiters' own timers.

mod glob;
mod lock_table;
mod scan;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod sync;
mod topics;
mod values;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::lock_table::{EnqueueOutcome, Grant, LockTable, QueuedWaiter};
pub(super) use self::scan::Scan;
use self::sync::{Mutex, MutexGuard, sleep_until};
use self::topics::Topics;
pub(crate) use self::values::Apply;
use self::values::Values;
use super::request::{Outcome, ReleaseOutcome, Request};
use crate::inspect::{GrantKind, HolderId, Identity, LockInfo};
use crate::key::Keys;
use crate::token::Token;

#[derive(Clone)]
pub(super) struct Memory(Arc<Inner>);

/// The mutexes are not tokio's: each is locked for a few map operations, never across an await.
struct Inner {
    locks: Mutex<LockTable>,
    /// A mutex of its own: no lock depends on a value. Always std's, because the shuttle tests
    /// do not schedule accesses to values.
    values: std::sync::Mutex<Values>,
    topics: std::sync::Mutex<Topics>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// A lock held in a memory store.
#[derive(Debug)]
pub(crate) struct Holding {
    memory: Memory,
    pub(super) token: Token,
    pub(super) keys: Arc<Keys>,
    pub(super) lease: Duration,
    pub(super) fence: u64,
    pub(super) granted_deadline: Instant,
    pub(super) kind: GrantKind,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            locks: Mutex::new(LockTable::default()),
            values: std::sync::Mutex::default(),
            topics: std::sync::Mutex::default(),
        }))
    }

    /// Waits for the lock until the wait deadline. If the future is dropped, the request leaves
    /// the queue and gives back what it was granted.
    pub(super) async fn acquire(&self, request: &Request) -> Outcome<Holding> {
        let outcome = self.acquire_grant(request).await;
        outcome.map(|grant| Holding {
            memory: self.clone(),
            token: request.token,
            keys: request.keys.clone(),
            lease: request.lease,
            fence: grant.fence,
            granted_deadline: grant.deadline,
            kind: grant.kind,
        })
    }

    async fn acquire_grant(&self, request: &Request) -> Outcome<Grant> {
        let enqueued = {
            let mut locks = self.locks();
            // The clock is read under the mutex: an earlier reading would make a lease that
            // began in between look longer than it is.
            locks.acquire(request, Instant::now())
        };
        let mut waiter = match enqueued {
            EnqueueOutcome::Done(outcome) => return outcome,
            EnqueueOutcome::Queued(waiter) => waiter,
        };
        let dequeue = DequeueOnDrop {
            memory: self,
            request,
            disarmed: false,
        };
        loop {
            if let Some(outcome) = self.wait(request, &mut waiter).await {
                dequeue.disarm();
                return of_kind(outcome, GrantKind::Local);
            }
            let now = Instant::now();
            let (next_deadline, busy) = self.locks().busy(&request.keys, now);
            // The call above may have ended a lease and granted the lock to this request.
            if let Ok(outcome) = waiter.outcome.try_recv() {
                dequeue.disarm();
                return of_kind(outcome, GrantKind::Expired);
            }
            if request
                .wait_deadline
                .is_some_and(|deadline| deadline <= now)
            {
                return busy;
            }
            waiter.next_deadline = next_deadline;
        }
    }

    /// Waits for an outcome. Returns `None` when the lock has to be checked again.
    async fn wait(&self, request: &Request, waiter: &mut QueuedWaiter) -> Option<Outcome<Grant>> {
        let wait_deadline = request.wait_deadline.unwrap_or(waiter.next_deadline);
        tokio::select! {
            biased;
            outcome = &mut waiter.outcome => {
                Some(outcome.expect("a waiter gets an outcome before it is dropped"))
            }
            () = sleep_until(wait_deadline.min(waiter.next_deadline)) => None,
            () = waiter.deadline_moved.notified() => None,
        }
    }

    pub(super) fn inspect_all(&self) -> Vec<LockInfo> {
        self.locks().inspect_all(Instant::now())
    }

    pub(super) fn inspect(&self, keys: &Keys) -> Option<LockInfo> {
        self.locks().inspect(&keys.holder, Instant::now())
    }

    /// Takes the lock away from `holder`. Returns `false` if it did not hold the lock.
    pub(super) fn force_release(&self, keys: &Keys, holder: HolderId) -> bool {
        match holder.0 {
            Identity::Client(token) => self.locks().force_release(keys, token, Instant::now()),
            Identity::Foreign(_) => false,
        }
    }

    fn locks(&self) -> MutexGuard<'_, LockTable> {
        // Poisoning is ignored: no change of the table can panic halfway.
        self.0.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn topics(&self) -> std::sync::MutexGuard<'_, Topics> {
        self.0.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn values(&self) -> std::sync::MutexGuard<'_, Values> {
        self.0.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_kind(outcome: Outcome<Grant>, kind: GrantKind) -> Outcome<Grant> {
    outcome.map(|grant| Grant { kind, ..grant })
}

impl Holding {
    pub(super) fn release(&self) -> ReleaseOutcome {
        let mut locks = self.memory.locks();
        match locks.release(&self.keys, self.token, Instant::now()) {
            true => ReleaseOutcome::Released,
            false => ReleaseOutcome::NotHeld,
        }
    }

    /// Returns `false` if the lock was lost before.
    pub(super) fn keep(&self) -> bool {
        let mut locks = self.memory.locks();
        locks.keep(&self.keys, self.token, Instant::now())
    }

    /// Gives the holder another token. Returns `false` if the lock was lost before.
    pub(super) fn rename(&self, token: Token) -> bool {
        let mut locks = self.memory.locks();
        locks.rename(&self.keys, self.token, token, Instant::now())
    }

    /// Returns `false` if the lock was lost before.
    pub(super) fn renew(&self, remaining: Duration) -> bool {
        let mut locks = self.memory.locks();
        let now = Instant::now();
        locks.renew(&self.keys, self.token, now + remaining, now)
    }
}

/// Removes a waiter from the queue if its future is dropped, and gives back a lock that was
/// granted to it at that moment.
struct DequeueOnDrop<'a> {
    memory: &'a Memory,
    request: &'a Request,
    disarmed: bool,
}

impl DequeueOnDrop<'_> {
    fn disarm(mut self) {
        self.disarmed = true;
    }
}

impl Drop for DequeueOnDrop<'_> {
    fn drop(&mut self) {
        if !self.disarmed {
            let Request { keys, token, .. } = self.request;
            self.memory.locks().withdraw(keys, *token, Instant::now());
        }
    }
}
