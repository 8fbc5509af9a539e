//! Local queues: the waiters of one lock in one process. Only the queue head talks to Redis.
//! While it holds the lock, the lock is handed over to the next local waiter without Redis
//! (cohort locking: Dice, Marathe, Shavit 2012, "Lock cohorting").
//!
//! Four bounds keep local hand-overs fair and safe:
//!
//! - One grant serves at most [`MAX_LOCAL_HANDOVERS`] holders, none of which begins later than
//!   [`MAX_LOCAL_HANDOVER_TIME`] after the grant. Waiters of other processes are passed over
//!   for no longer than that.
//! - Each holder has the same lease and finds nine tenths of it left. Nothing has to be
//!   renewed, and a holder that crashes blocks the lock for no longer than its own lease.
//! - Each holder has a fence of its own, from a block that was minted with the grant.
//! - No hand-over follows a broken connection: Redis may have forgotten the grant.

mod queue_head;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

pub(super) use self::queue_head::{NextWaiter, QueueHead};
use super::attempt::{Attempt, Grant, Ownership};
use super::notifications::Notifications;
use crate::inspect::GrantKind;
use crate::key::Keys;
use crate::lease::MAX_LEASE;
use crate::token::Token;

/// Maximum number of holders that one grant serves.
const MAX_LOCAL_HANDOVERS: u64 = 128;
/// How long after a grant it is handed over.
const MAX_LOCAL_HANDOVER_TIME: Duration = Duration::from_millis(5);
/// Grace period after the end of a lease before the next waiter is promoted: Redis may expire
/// it that late.
const LEASE_GRACE: Duration = Duration::from_millis(1);
/// Grace period before a silent head counts as stuck. Promoting the next waiter too early is
/// harmless: it asks Redis itself.
const WAKE_GRACE: Duration = Duration::from_millis(100);

/// Local queues of all locks. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LocalQueues(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    notifications: Notifications,
    reply_timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Arc<Keys>, LocalQueue>,
    /// The generation of the newest head of any queue.
    last_generation: u64,
}

#[derive(Debug, Default)]
struct LocalQueue {
    /// Generation of the current head. A head with an older generation has been superseded.
    generation: u64,
    /// The lock, while the head holds it.
    grant: Option<LocalGrant>,
    /// End of the lease of a kept lock, once the head knows it.
    kept_until: Option<Instant>,
    /// When the head wakes at the latest: it waits for a reply, or in Redis' queue.
    wakes_at: Option<Instant>,
    /// The waiters behind the head.
    waiters: VecDeque<Waiter>,
    /// Number of waiters at which those that left are removed.
    sweep_at: usize,
    watchdog: Option<Watchdog>,
}

/// A task that promotes the next waiter if the head is stuck. Ends with the queue.
#[derive(Debug)]
struct Watchdog {
    wakes_at: Instant,
    task: AbortHandle,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A grant that can be handed over within this process.
#[derive(Debug, Clone)]
pub(super) struct LocalGrant {
    pub(super) ownership: Ownership,
    pub(super) lease: Duration,
    pub(super) deadline: Instant,
    pub(super) granted_at: Instant,
    /// Fences of the grant that no holder has used.
    pub(super) unused_fences: std::ops::RangeInclusive<u64>,
    /// Number of disconnects at the time of the grant.
    pub(super) disconnects: u64,
}

#[derive(Debug)]
struct Waiter {
    attempt: Arc<Attempt>,
    outcome: oneshot::Sender<LocalOutcome>,
}

/// Result of joining a local queue.
pub(super) enum Joined {
    First(QueueHead),
    Waiting(LocalWaiter),
    /// The lock is kept until then, which is after the wait deadline.
    Kept(Instant),
}

/// A waiter's side of its position in a local queue. [`leave`](Self::leave) it before dropping
/// it: the lock may just have been handed over.
pub(super) struct LocalWaiter(oneshot::Receiver<LocalOutcome>);

/// How a wait in a local queue ended.
#[derive(Debug)]
pub(super) enum LocalOutcome {
    /// The waiter is the head now, and asks Redis.
    First(QueueHead),
    /// The previous head handed the lock over.
    HandedOver(Grant, QueueHead),
    /// The lock is kept until then, which is after the wait deadline.
    Kept(Instant),
    /// The store did not reply to the head.
    Failed(String),
}

impl LocalWaiter {
    /// Waits for an outcome. Returns `None` if the wait deadline passes first.
    pub(super) async fn outcome(&mut self, wait_deadline: Option<Instant>) -> Option<LocalOutcome> {
        match wait_deadline {
            None => (&mut self.0).await.ok(),
            Some(deadline) => tokio::select! {
                biased;
                outcome = &mut self.0 => outcome.ok(),
                () = sleep_until(deadline) => self.leave(),
            },
        }
    }

    /// Leaves the queue, and returns the outcome if there is one at this moment.
    pub(super) fn leave(&mut self) -> Option<LocalOutcome> {
        self.0.close();
        self.0.try_recv().ok()
    }
}

impl LocalQueue {
    /// Removes the waiters that left. Runs whenever the queue has doubled, so that they never
    /// outnumber the others by much and joining costs constant time on average.
    fn sweep(&mut self) {
        if self.waiters.len() >= self.sweep_at {
            self.waiters.retain(|waiter| !waiter.outcome.is_closed());
            self.sweep_at = (self.waiters.len() * 2).max(64);
        }
    }

    /// Returns whether every waiter has left.
    fn is_empty(&self) -> bool {
        self.waiters.iter().all(|waiter| waiter.outcome.is_closed())
    }

    /// Returns when the head is certain to do nothing more for the waiters: its lease has
    /// ended; or it is overdue, because its future is not polled.
    fn head_ends_at(&self) -> Option<Instant> {
        match &self.grant {
            Some(grant) => Some(grant.deadline + LEASE_GRACE),
            None => self.wakes_at.map(|wakes_at| wakes_at + WAKE_GRACE),
        }
    }

    /// Returns the grant to hand over to `waiter`, `None` if that would be unfair or unsafe.
    fn grant_for(&mut self, waiter: &Waiter, disconnects: u64, now: Instant) -> Option<Grant> {
        let grant = self.grant.as_mut()?;
        let remaining = grant.deadline.saturating_duration_since(now);
        let fair = now < grant.granted_at + MAX_LOCAL_HANDOVER_TIME;
        let lease = waiter.attempt.request.lease;
        let safe = lease == grant.lease && remaining >= lease * 9 / 10 && remaining <= lease;
        if !fair || !safe || grant.disconnects != disconnects {
            return None;
        }
        Some(Grant {
            ownership: grant.ownership,
            fence: grant.unused_fences.next()?,
            deadline: grant.deadline,
            kind: GrantKind::Local,
        })
    }
}

impl LocalQueues {
    /// Creates empty queues. `forced_releases` yields the token of each lock of this process that is taken away.
    pub(super) fn new(
        notifications: Notifications,
        mut forced_releases: mpsc::Receiver<Token>,
        call_timeout: Duration,
    ) -> Self {
        let queues = Self(Arc::new(Inner {
            state: Mutex::default(),
            notifications,
            // A head subscribes and then asks.
            reply_timeout: call_timeout.saturating_mul(2).min(MAX_LEASE),
        }));
        // The queues keep the sender, so the task ends with them.
        let inner = Arc::downgrade(&queues.0);
        tokio::spawn(async move {
            while let Some(token) = forced_releases.recv().await
                && let Some(inner) = inner.upgrade()
            {
                Self(inner).on_forced_release(token);
            }
        });
        queues
    }

    /// Returns after which time a head has received the reply that it waits for, or failed.
    pub(super) fn reply_timeout(&self) -> Duration {
        self.0.reply_timeout
    }

    /// Promotes the next waiter if the head held the lock by `token`. The holder may be stuck
    /// and not notice its loss.
    fn on_forced_release(&self, token: Token) {
        let mut state = self.state();
        let lost = |queue: &LocalQueue| {
            let grant = queue.grant.as_ref();
            grant.is_some_and(|grant| grant.ownership.token == token)
        };
        let queue = state.queues.iter().find(|(_, queue)| lost(queue));
        let queue = queue.map(|(keys, queue)| (keys.clone(), queue.generation));
        if let Some((keys, generation)) = queue {
            let next = self.next(&mut state, &keys, generation);
            drop(state);
            next.map(NextWaiter::promote);
        }
    }

    /// Returns whether a caller of this process holds the lock or waits for it, and is in a queue.
    pub(super) fn has(&self, keys: &Arc<Keys>) -> bool {
        self.state().queues.contains_key(keys)
    }

    /// Joins the queue of the lock.
    pub(super) fn join(&self, attempt: &Arc<Attempt>) -> Joined {
        let request = &attempt.request;
        let mut state = self.state();
        let state = &mut *state;
        let Some(queue) = state.queues.get_mut(&request.keys) else {
            state.last_generation += 1;
            let queue = LocalQueue {
                generation: state.last_generation,
                wakes_at: Some(request.requested_at + self.0.reply_timeout),
                ..LocalQueue::default()
            };
            state.queues.insert(request.keys.clone(), queue);
            return Joined::First(self.head(&request.keys, state.last_generation));
        };
        if let Some(kept_until) = queue.kept_until
            && Instant::now() < kept_until
            && request
                .wait_deadline
                .is_some_and(|deadline| deadline < kept_until)
        {
            return Joined::Kept(kept_until);
        }
        let (sender, outcome) = oneshot::channel();
        queue.sweep();
        queue.waiters.push_back(Waiter {
            attempt: attempt.clone(),
            outcome: sender,
        });
        self.watch(&request.keys, queue);
        Joined::Waiting(LocalWaiter(outcome))
    }

    /// Makes sure that the waiters do not wait longer than the lease of a head that is stuck.
    fn watch(&self, keys: &Arc<Keys>, queue: &mut LocalQueue) {
        let Some(wakes_at) = queue.head_ends_at() else {
            return;
        };
        // A watchdog that wakes too early sleeps again.
        let watched = queue
            .watchdog
            .as_ref()
            .is_some_and(|watchdog| watchdog.wakes_at <= wakes_at);
        if watched || queue.waiters.is_empty() {
            return;
        }
        let (queues, keys) = (self.clone(), keys.clone());
        let task = tokio::spawn(async move {
            let mut next = Some(wakes_at);
            while let Some(wakes_at) = next {
                sleep_until(wakes_at).await;
                next = queues.recheck(&keys);
            }
        });
        queue.watchdog = Some(Watchdog {
            wakes_at,
            task: task.abort_handle(),
        });
    }

    /// Promotes the next waiter if the head has ended. Returns when to check again.
    fn recheck(&self, keys: &Arc<Keys>) -> Option<Instant> {
        let mut state = self.state();
        let queue = state.queues.get_mut(keys)?;
        match (queue.head_ends_at(), &mut queue.watchdog) {
            (Some(ends_at), Some(watchdog)) if ends_at > Instant::now() => {
                watchdog.wakes_at = ends_at;
                Some(ends_at)
            }
            (ends_at, watchdog) => {
                // The next head gets a watchdog of its own.
                *watchdog = None;
                ends_at?;
                let generation = queue.generation;
                let next = self.next(&mut state, keys, generation);
                drop(state);
                next.map(NextWaiter::promote);
                None
            }
        }
    }

    /// Makes the next waiter the head, unless the head of `generation` has been superseded. If
    /// the result is dropped, the waiter behind it is promoted.
    fn next(&self, state: &mut State, keys: &Arc<Keys>, generation: u64) -> Option<NextWaiter> {
        let queue = state.queues.get_mut(keys)?;
        if queue.generation != generation {
            return None;
        }
        queue.grant = None;
        queue.wakes_at = Some(Instant::now() + self.0.reply_timeout);
        while let Some(waiter) = queue.waiters.pop_front() {
            if !waiter.outcome.is_closed() {
                state.last_generation += 1;
                queue.generation = state.last_generation;
                let head = self.head(keys, queue.generation);
                return Some(NextWaiter { waiter, head });
            }
        }
        state.queues.remove(keys);
        None
    }

    fn head(&self, keys: &Arc<Keys>, generation: u64) -> QueueHead {
        QueueHead {
            queues: Some(self.clone()),
            keys: keys.clone(),
            generation,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Locked for a few map operations, never across an await.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
