//! Locks in the memory of this process, with the semantics of the Redis store.
//!
//! Waiters of one name stand in a queue and are granted the lock in order, by whoever
//! releases it; when a lease ends, the waiters' own timers see to it. Names whose lease has
//! ended with nobody waiting are forgotten now and then, so that they never outnumber the
//! others by much.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{Answer, Attempt, How};
use crate::key::Keys;
use crate::token::Token;

/// std's mutex, not tokio's: it is held for a few map operations and never across an await.
#[derive(Clone)]
pub(super) struct Memory(Arc<Mutex<State>>);

struct State {
    locks: HashMap<Vec<u8>, Entry>,
    /// How many names there may be before those whose lease has ended are looked for.
    sweep_at: usize,
    /// One counter for all names: strictly rising for each of them, and nothing to forget.
    last_fence: u64,
}

struct Entry {
    token: Token,
    ends: Instant,
    how: How,
    waiters: VecDeque<Waiter>,
}

struct Waiter {
    token: Token,
    lease: Duration,
    until: Option<Instant>,
    answer: oneshot::Sender<Answer>,
    /// Told when the lease that it waits for ends sooner than it believes.
    sooner: Arc<Notify>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            locks: HashMap::new(),
            sweep_at: 0,
            last_fence: 0,
        })))
    }

    pub(super) async fn acquire(&self, attempt: &Attempt) -> Answer {
        let &Attempt {
            ref keys,
            token,
            lease,
            until,
            ..
        } = attempt;
        let (answer, mut granted, sooner, mut holder_ends) = {
            let mut state = self.state();
            // Now that nobody else is at it: else a lease just begun had more left than it has.
            let now = Instant::now();
            state.hand_over_if_ended(&keys.holder, now);
            if !state.locks.contains_key(&keys.holder) {
                return state.grant(&keys.holder, token, lease, VecDeque::new(), None);
            }
            let state = &mut *state;
            let entry = state.locks.get_mut(&keys.holder).expect("just looked up");
            if !entry.can_be_waited_for(until, now) {
                return entry.busy(now);
            }
            let (answer, granted) = oneshot::channel();
            let sooner = Arc::new(Notify::new());
            entry.waiters.push_back(Waiter {
                token,
                lease,
                until,
                answer,
                sooner: sooner.clone(),
            });
            let leaving = Leaving::new(self, keys, token);
            (leaving, granted, sooner, entry.ends)
        };
        loop {
            let wake = until.map_or(holder_ends, |until| until.min(holder_ends));
            tokio::select! {
                biased;
                granted = &mut granted => {
                    answer.stayed();
                    return granted.expect("a waiter is answered before it is dropped");
                }
                () = sleep_until(wake) => {}
                () = sooner.notified() => {}
            }
            let mut state = self.state();
            let now = Instant::now();
            state.hand_over_if_ended(&keys.holder, now);
            if let Ok(granted) = granted.try_recv() {
                answer.stayed();
                return granted;
            }
            // Not granted, so still queued behind a holder.
            let Some(entry) = state.locks.get(&keys.holder) else {
                unreachable!("a queue stands behind a holder");
            };
            if until.is_some_and(|until| until <= now) {
                let busy = entry.busy(now);
                drop(state);
                return busy;
            }
            holder_ends = entry.ends;
        }
    }

    pub(super) fn release(&self, attempt: &Attempt) -> bool {
        let (keys, token) = (&attempt.keys, attempt.token);
        let mut state = self.state();
        let ours = state.is_held_by(&keys.holder, token);
        if ours {
            state.hand_over(&keys.holder);
        }
        ours
    }

    pub(super) fn keep(&self, attempt: &Attempt) -> bool {
        let (keys, token) = (&attempt.keys, attempt.token);
        let mut state = self.state();
        if !state.is_held_by(&keys.holder, token) {
            return false;
        }
        let now = Instant::now();
        let entry = state.locks.get_mut(&keys.holder).expect("just looked up");
        entry.how = How::Kept;
        // Whoever cannot live to see the end of the lease is told now.
        let ends = entry.ends;
        let (waiting, losing) = std::mem::take(&mut entry.waiters)
            .into_iter()
            .partition(|waiter| waiter.until.is_none_or(|until| until >= ends));
        entry.waiters = waiting;
        for loser in losing {
            let _ = loser.answer.send(entry.busy(now));
        }
        true
    }

    pub(super) fn renew(&self, attempt: &Attempt, left: Duration) -> bool {
        let (keys, token) = (&attempt.keys, attempt.token);
        let mut state = self.state();
        let ours = state.is_held_by(&keys.holder, token);
        if ours && let Some(entry) = state.locks.get_mut(&keys.holder) {
            // Waiters are not woken by a later end: their timers find it by themselves.
            entry.end_at(Instant::now() + left);
        }
        ours
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_held_by(&mut self, key: &[u8], token: Token) -> bool {
        self.hand_over_if_ended(key, Instant::now());
        self.locks
            .get(key)
            .is_some_and(|entry| entry.token == token && entry.how == How::Held)
    }

    fn hand_over_if_ended(&mut self, key: &[u8], now: Instant) {
        if self.locks.get(key).is_some_and(|entry| entry.ends <= now) {
            self.hand_over(key);
        }
    }

    /// Gives the lock to the first waiter who is still there, or frees it.
    fn hand_over(&mut self, key: &[u8]) {
        let Some(mut entry) = self.locks.remove(key) else {
            return;
        };
        while let Some(next) = entry.waiters.pop_front() {
            // Its wait may have just ended: as long as it listens, it is glad of the lock.
            if !next.answer.is_closed() {
                let ended = Some(entry.ends);
                let granted = self.grant(key, next.token, next.lease, entry.waiters, ended);
                // If it left just now, its `Leaving` waits for the mutex to release this.
                let _ = next.answer.send(granted);
                return;
            }
        }
    }

    fn grant(
        &mut self,
        key: &[u8],
        token: Token,
        lease: Duration,
        waiters: VecDeque<Waiter>,
        before: Option<Instant>,
    ) -> Answer {
        let micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        let clock = u64::try_from(micros).unwrap_or_default();
        self.last_fence = clock.max(self.last_fence + 1);
        let now = Instant::now();
        let deadline = now + lease;
        if self.locks.len() >= self.sweep_at {
            self.locks
                .retain(|_, entry| entry.ends > now || !entry.waiters.is_empty());
            self.sweep_at = (self.locks.len() * 2).max(64);
        }
        let mut entry = Entry {
            token,
            ends: before.unwrap_or(deadline),
            how: How::Held,
            waiters,
        };
        entry.end_at(deadline);
        self.locks.insert(key.to_vec(), entry);
        Answer::Granted {
            fence: self.last_fence,
            deadline,
        }
    }
}

impl Entry {
    fn end_at(&mut self, ends: Instant) {
        if ends < self.ends {
            self.waiters
                .iter()
                .for_each(|waiter| waiter.sooner.notify_one());
        }
        self.ends = ends;
    }

    fn can_be_waited_for(&self, until: Option<Instant>, now: Instant) -> bool {
        until.is_none_or(|until| until > now && (self.how == How::Held || until >= self.ends))
    }

    fn busy(&self, now: Instant) -> Answer {
        Answer::Busy {
            left: Some(self.ends.saturating_duration_since(now)),
            how: self.how,
        }
    }
}

/// Takes a waiter out of the queue when its future is dropped, and gives back a lock that
/// was granted to it in that very moment.
struct Leaving<'a> {
    memory: &'a Memory,
    keys: &'a Keys,
    token: Token,
    stayed: bool,
}

impl<'a> Leaving<'a> {
    fn new(memory: &'a Memory, keys: &'a Keys, token: Token) -> Self {
        Self {
            memory,
            keys,
            token,
            stayed: false,
        }
    }

    fn stayed(mut self) {
        self.stayed = true;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.stayed {
            return;
        }
        let mut state = self.memory.state();
        if let Some(entry) = state.locks.get_mut(&self.keys.holder) {
            entry.waiters.retain(|waiter| waiter.token != self.token);
        }
        if state.is_held_by(&self.keys.holder, self.token) {
            state.hand_over(&self.keys.holder);
        }
    }
}
