//! State of a memory store: the holders and the waiters of each lock, and every transition.
//!
//! Nothing here waits or reads the monotonic clock: the time is a parameter, and waiters are
//! notified through channels.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::inspect::{GrantKind, HolderId, HolderInfo, Identity, LockInfo, WaiterInfo, minted_at};
use crate::key::{Keys, LockKind};
use crate::store::request::{HoldState, Mode, Outcome, Request};
use crate::token::Token;

#[derive(Default)]
pub(super) struct LockTable {
    /// By the holder's key.
    locks: HashMap<Vec<u8>, LockState>,
    /// Number of locks at which the expired ones are removed.
    sweep_at: usize,
    /// One counter for all names: it rises for each of them, and no name has to be remembered.
    last_fence: u64,
}

#[derive(Default)]
struct LockState {
    holders: Vec<Holder>,
    /// In order of arrival.
    waiters: VecDeque<Waiter>,
}

struct Holder {
    token: Token,
    mode: Mode,
    deadline: Instant,
    state: HoldState,
    fence: u64,
}

struct Waiter {
    requested: Requested,
    arrived_at: Instant,
    wait_deadline: Option<Instant>,
    outcome: oneshot::Sender<Outcome<Grant>>,
    /// Notified when a lease ends earlier than the waiter assumes.
    deadline_moved: Arc<Notify>,
}

/// The part of a request that a grant depends on.
#[derive(Clone, Copy)]
struct Requested {
    token: Token,
    mode: Mode,
    lease: Duration,
}

#[derive(Debug)]
pub(super) struct Grant {
    pub(super) fence: u64,
    pub(super) deadline: Instant,
    pub(super) kind: GrantKind,
}

/// Outcome of [`LockTable::acquire`].
pub(super) enum EnqueueOutcome {
    Done(Outcome<Grant>),
    Queued(QueuedWaiter),
}

/// The waiter's side of its position in the queue.
pub(super) struct QueuedWaiter {
    pub(super) outcome: oneshot::Receiver<Outcome<Grant>>,
    pub(super) deadline_moved: Arc<Notify>,
    /// When the lock may become free.
    pub(super) next_deadline: Instant,
}

impl LockTable {
    /// Grants the lock, or queues the request unless its wait cannot succeed.
    pub(super) fn acquire(&mut self, request: &Request, now: Instant) -> EnqueueOutcome {
        let key = &request.keys.holder;
        self.expire(key, now);
        let requested = Requested {
            token: request.token,
            mode: request.mode,
            lease: request.lease,
        };
        let Some(lock) = self.locks.get_mut(key) else {
            self.sweep(now);
            self.locks.insert(key.clone(), LockState::default());
            return EnqueueOutcome::Done(self.grant(key, requested, now));
        };
        if lock.waiters.is_empty() && lock.admits(requested.mode) {
            return EnqueueOutcome::Done(self.grant(key, requested, now));
        }
        if lock.outlasts(request.wait_deadline, now) {
            return EnqueueOutcome::Done(lock.busy(now));
        }
        let (sender, outcome) = oneshot::channel();
        let deadline_moved = Arc::new(Notify::new());
        lock.waiters.push_back(Waiter {
            requested,
            arrived_at: now,
            wait_deadline: request.wait_deadline,
            outcome: sender,
            deadline_moved: deadline_moved.clone(),
        });
        EnqueueOutcome::Queued(QueuedWaiter {
            outcome,
            deadline_moved,
            next_deadline: lock.next_deadline(now),
        })
    }

    /// Returns when a waiter has to check again, and its outcome if it stops waiting now.
    pub(super) fn busy(&mut self, keys: &Keys, now: Instant) -> (Instant, Outcome<Grant>) {
        self.expire(&keys.holder, now);
        match self.locks.get(&keys.holder) {
            Some(lock) => (lock.next_deadline(now), lock.busy(now)),
            // The lock has just been granted to the waiter: else the waiter would be in there.
            None => (now, LockState::default().busy(now)),
        }
    }

    /// Removes a waiter from the queue, and gives back what was granted to it at that moment.
    pub(super) fn withdraw(&mut self, keys: &Keys, token: Token, now: Instant) {
        if let Some(lock) = self.locks.get_mut(&keys.holder) {
            lock.waiters
                .retain(|waiter| waiter.requested.token != token);
        }
        if !self.release(keys, token, now)
            && let Some(lock) = self.locks.get(&keys.holder)
        {
            // It may have blocked the waiters behind it: a writer before readers, say.
            let assumed = lock.next_deadline(now);
            self.hand_over(&keys.holder, assumed, now);
        }
    }

    /// Returns `false` if the lock was lost before.
    pub(super) fn release(&mut self, keys: &Keys, token: Token, now: Instant) -> bool {
        let Some(lock) = self.lock_held_by(keys, token, now) else {
            return false;
        };
        let assumed = lock.next_deadline(now);
        lock.holders.retain(|holder| holder.token != token);
        self.hand_over(&keys.holder, assumed, now);
        true
    }

    /// Takes the lock away from a holder, also a kept lock. Returns `false` if the token does
    /// not hold it.
    pub(super) fn force_release(&mut self, keys: &Keys, token: Token, now: Instant) -> bool {
        self.expire(&keys.holder, now);
        let Some(lock) = self.locks.get_mut(&keys.holder) else {
            return false;
        };
        let (assumed, holders) = (lock.next_deadline(now), lock.holders.len());
        lock.holders.retain(|holder| holder.token != token);
        let released = lock.holders.len() < holders;
        self.hand_over(&keys.holder, assumed, now);
        released
    }

    /// Returns the holders and the waiters of one lock, `None` if it has neither.
    pub(super) fn inspect(&mut self, key: &[u8], now: Instant) -> Option<LockInfo> {
        self.expire(key, now);
        let lock = self.locks.get(key)?;
        let (kind, name) = Keys::parse(key)?;
        let mut holders = lock.holders.iter().collect::<Vec<_>>();
        holders.sort_by_key(|holder| holder.deadline);
        let holders = holders.into_iter().map(|holder| HolderInfo {
            id: HolderId(Identity::Client(holder.token)),
            access: holder.mode.access(),
            acquired_at: Some(minted_at(holder.fence)),
            remaining: Some(holder.deadline.saturating_duration_since(now)),
            kept: holder.state == HoldState::Kept,
            permits: holder.mode.permits(),
            fence: Some(holder.fence),
        });
        // A waiter whose future is gone is skipped at the next hand-over.
        let waiters = lock
            .waiters
            .iter()
            .filter(|waiter| !waiter.outcome.is_closed());
        let waiters = waiters.map(|waiter| WaiterInfo {
            client_id: waiter.requested.token.client_id(),
            access: waiter.requested.mode.access(),
            permits: waiter.requested.mode.permits(),
            waited: now.saturating_duration_since(waiter.arrived_at),
            timeout_in: waiter
                .wait_deadline
                .map(|deadline| deadline.saturating_duration_since(now)),
            lease: waiter.requested.lease,
        });
        Some(LockInfo {
            kind,
            name,
            holders: holders.collect(),
            waiters: waiters.collect(),
            observed_at: SystemTime::now(),
        })
    }

    pub(super) fn inspect_all(&mut self, now: Instant) -> Vec<LockInfo> {
        let keys = self.locks.keys().cloned().collect::<Vec<_>>();
        let locks = keys.iter().filter_map(|key| self.inspect(key, now));
        locks.collect()
    }

    /// Keeps the lock, and notifies the waiters whose wait ends before the lease. Returns
    /// `false` if the lock was lost before.
    pub(super) fn keep(&mut self, keys: &Keys, token: Token, now: Instant) -> bool {
        let Some(lock) = self.lock_held_by(keys, token, now) else {
            return false;
        };
        // A permit or a reader stays to the end of its lease without any mark.
        if keys.kind == LockKind::Lock {
            for holder in &mut lock.holders {
                holder.state = HoldState::Kept;
            }
            let kept_until = lock.next_deadline(now);
            let outlasted = |waiter: &Waiter| {
                let deadline = waiter.wait_deadline;
                deadline.is_some_and(|deadline| deadline < kept_until)
            };
            let (losing, waiting) = std::mem::take(&mut lock.waiters)
                .into_iter()
                .partition::<VecDeque<_>, _>(outlasted);
            lock.waiters = waiting;
            for loser in losing {
                let _ = loser.outcome.send(lock.busy(now));
            }
        }
        true
    }

    /// Sets the deadline of a holder. Returns `false` if the lock was lost before.
    pub(super) fn renew(
        &mut self,
        keys: &Keys,
        token: Token,
        deadline: Instant,
        now: Instant,
    ) -> bool {
        let Some(lock) = self.lock_held_by(keys, token, now) else {
            return false;
        };
        let assumed = lock.next_deadline(now);
        for holder in &mut lock.holders {
            if holder.token == token {
                holder.deadline = deadline;
            }
        }
        // A later deadline needs no notification: the waiters check again at the old one.
        lock.notify_if_earlier(assumed, now);
        true
    }

    /// Gives a holder another token. Returns `false` if the lock was lost before.
    pub(super) fn rename(&mut self, keys: &Keys, token: Token, new: Token, now: Instant) -> bool {
        let Some(lock) = self.lock_held_by(keys, token, now) else {
            return false;
        };
        for holder in &mut lock.holders {
            if holder.token == token {
                holder.token = new;
            }
        }
        true
    }

    fn lock_held_by(&mut self, keys: &Keys, token: Token, now: Instant) -> Option<&mut LockState> {
        self.expire(&keys.holder, now);
        let lock = self.locks.get_mut(&keys.holder)?;
        let held = lock
            .holders
            .iter()
            .any(|holder| holder.token == token && holder.state == HoldState::Held);
        held.then_some(lock)
    }

    /// Removes the holders whose lease has ended.
    fn expire(&mut self, key: &[u8], now: Instant) {
        if let Some(lock) = self.locks.get_mut(key)
            && lock.holders.iter().any(|holder| holder.deadline <= now)
        {
            lock.holders.retain(|holder| holder.deadline > now);
            // The other waiters' timers fire for this deadline.
            self.hand_over(key, now, now);
        }
    }

    /// Grants what is free to the first waiters. The remaining waiters assume that nothing
    /// becomes free before `assumed`.
    fn hand_over(&mut self, key: &[u8], assumed: Instant, now: Instant) {
        while let Some(lock) = self.locks.get_mut(key) {
            let Some(first) = lock.waiters.front() else {
                if lock.holders.is_empty() {
                    self.locks.remove(key);
                }
                return;
            };
            // A waiter whose deadline has just passed still takes the lock while it listens.
            let gone = first.outcome.is_closed();
            if !gone && !lock.admits(first.requested.mode) {
                return lock.notify_if_earlier(assumed, now);
            }
            let first = lock.waiters.pop_front().expect("checked above");
            if !gone {
                let granted = self.grant(key, first.requested, now);
                // If its future is dropped at this moment, `DequeueOnDrop` waits for the mutex
                // and then gives this grant back.
                let _ = first.outcome.send(granted);
            }
        }
    }

    fn grant(&mut self, key: &[u8], requested: Requested, now: Instant) -> Outcome<Grant> {
        let micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        let clock_us = u64::try_from(micros).unwrap_or_default();
        self.last_fence = clock_us.max(self.last_fence + 1);
        let deadline = now + requested.lease;
        if let Some(lock) = self.locks.get_mut(key) {
            lock.holders.push(Holder {
                token: requested.token,
                mode: requested.mode,
                deadline,
                state: HoldState::Held,
                fence: self.last_fence,
            });
        }
        Outcome::Acquired(Grant {
            fence: self.last_fence,
            deadline,
            kind: GrantKind::Free,
        })
    }

    /// Removes expired locks without waiters. Runs whenever the table has doubled, so that
    /// they never outnumber the others by much and an insertion costs constant time on average.
    fn sweep(&mut self, now: Instant) {
        if self.locks.len() >= self.sweep_at {
            self.locks.retain(|_, lock| {
                !lock.waiters.is_empty() || lock.holders.iter().any(|holder| holder.deadline > now)
            });
            self.sweep_at = (self.locks.len() * 2).max(64);
        }
    }
}

impl LockState {
    fn admits(&self, mode: Mode) -> bool {
        let shared = |holder: &Holder| holder.mode != Mode::Exclusive;
        match mode {
            Mode::Exclusive => self.holders.is_empty(),
            Mode::Read => self.holders.iter().all(shared),
            Mode::Permits { max, taken } => {
                let held = self.holders.iter().map(|holder| holder.mode.permits());
                // As u64: holders may have been admitted by a larger number.
                let held = held.map(u64::from).sum::<u64>();
                held + u64::from(taken.get()) <= u64::from(max.get())
                    && self.holders.iter().all(shared)
            }
        }
    }

    /// Returns the earliest deadline of a holder.
    fn next_deadline(&self, now: Instant) -> Instant {
        let deadlines = self.holders.iter().map(|holder| holder.deadline);
        deadlines.min().unwrap_or(now)
    }

    fn notify_if_earlier(&self, assumed: Instant, now: Instant) {
        if self.next_deadline(now) < assumed {
            let waiters = self.waiters.iter();
            waiters.for_each(|waiter| waiter.deadline_moved.notify_one());
        }
    }

    fn is_kept(&self) -> bool {
        self.holders
            .iter()
            .any(|holder| holder.state == HoldState::Kept)
    }

    /// Returns whether a wait until `wait_deadline` is over or certain to fail.
    fn outlasts(&self, wait_deadline: Option<Instant>, now: Instant) -> bool {
        wait_deadline.is_some_and(|deadline| {
            deadline <= now || (self.is_kept() && deadline < self.next_deadline(now))
        })
    }

    fn busy(&self, now: Instant) -> Outcome<Grant> {
        Outcome::Busy {
            remaining: Some(self.next_deadline(now).saturating_duration_since(now)),
            state: if self.is_kept() {
                HoldState::Kept
            } else {
                HoldState::Held
            },
        }
    }
}
