//! Who holds what and who waits for it: the state of a memory store, and its every change.
//! Nothing here waits; whoever waits is told through its channel.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::inspect::{HolderId, HolderInfo, LockInfo, WaiterInfo, Who, minted};
use crate::key::{Keys, LockKind};
use crate::store::request::{Grant, HoldState, Mode, Outcome, Ownership, Request};
use crate::token::Token;

#[derive(Default)]
pub(super) struct LockTable {
    /// By the holder's key.
    rooms: HashMap<Vec<u8>, LockState>,
    /// How many there may be before those whose leases have ended are looked for.
    sweep_at: usize,
    /// One counter for all names: strictly rising for each of them, and nothing to forget.
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
    ends: Instant,
    how: HoldState,
    fence: u64,
}

struct Waiter {
    attempt: Requested,
    since: Instant,
    until: Option<Instant>,
    answer: oneshot::Sender<Outcome>,
    /// Told when the lease that it waits for ends sooner than it believes.
    sooner: Arc<Notify>,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Requested {
    token: Token,
    mode: Mode,
    lease: std::time::Duration,
}

/// What becomes of an attempt.
pub(super) enum EnqueueOutcome {
    Answered(Outcome),
    Queued(Queued),
}

/// A place in the queue.
pub(super) struct Queued {
    pub(super) answer: oneshot::Receiver<Outcome>,
    pub(super) sooner: Arc<Notify>,
    /// When there may be something to have.
    pub(super) next_end: Instant,
}

impl LockTable {
    /// Takes the lock, or a place in the queue unless waiting is in vain.
    pub(super) fn enter(&mut self, attempt: &Request, now: Instant) -> EnqueueOutcome {
        let key = &attempt.keys.holder;
        self.expire(key, now);
        let asked = Requested {
            token: attempt.token,
            mode: attempt.mode,
            lease: attempt.lease,
        };
        let Some(room) = self.rooms.get_mut(key) else {
            self.sweep(now);
            self.rooms.insert(key.clone(), LockState::default());
            return EnqueueOutcome::Answered(self.grant(key, asked, now));
        };
        if room.waiters.is_empty() && room.admits(asked.mode) {
            return EnqueueOutcome::Answered(self.grant(key, asked, now));
        }
        if room.is_waited_for_in_vain(attempt.until, now) {
            return EnqueueOutcome::Answered(room.busy(now));
        }
        let (answer, granted) = oneshot::channel();
        let sooner = Arc::new(Notify::new());
        room.waiters.push_back(Waiter {
            attempt: asked,
            since: now,
            until: attempt.until,
            answer,
            sooner: sooner.clone(),
        });
        EnqueueOutcome::Queued(Queued {
            answer: granted,
            sooner,
            next_end: room.next_end(now),
        })
    }

    /// What a waiter that was told nothing is waiting for: until when, and what it is to be
    /// answered if it waits no longer.
    pub(super) fn look(&mut self, keys: &Keys, now: Instant) -> (Instant, Outcome) {
        self.expire(&keys.holder, now);
        match self.rooms.get(&keys.holder) {
            Some(room) => (room.next_end(now), room.busy(now)),
            // It has just been granted the lock, or it would stand in that room.
            None => (now, LockState::default().busy(now)),
        }
    }

    /// Leaves the queue, and gives back what was granted in that very moment.
    pub(super) fn leave(&mut self, keys: &Keys, token: Token, now: Instant) {
        if let Some(room) = self.rooms.get_mut(&keys.holder) {
            room.waiters.retain(|waiter| waiter.attempt.token != token);
        }
        if !self.release(keys, token, now)
            && let Some(room) = self.rooms.get(&keys.holder)
        {
            // It may have stood in the way of those behind it.
            let before = room.next_end(now);
            self.hand_over(&keys.holder, before, now);
        }
    }

    /// Whether it was ours to release.
    pub(super) fn release(&mut self, keys: &Keys, token: Token, now: Instant) -> bool {
        let Some(room) = self.room_held_by(keys, token, now) else {
            return false;
        };
        let before = room.next_end(now);
        room.holders.retain(|holder| holder.token != token);
        self.hand_over(&keys.holder, before, now);
        true
    }

    /// Takes the lock away from one who holds or keeps it. Whether it did.
    pub(super) fn force(&mut self, keys: &Keys, token: Token, now: Instant) -> bool {
        self.expire(&keys.holder, now);
        let Some(room) = self.rooms.get_mut(&keys.holder) else {
            return false;
        };
        let (before, holders) = (room.next_end(now), room.holders.len());
        room.holders.retain(|holder| holder.token != token);
        let forced = room.holders.len() < holders;
        self.hand_over(&keys.holder, before, now);
        forced
    }

    /// What there is of one name.
    pub(super) fn seen(&mut self, key: &[u8], now: Instant) -> Option<LockInfo> {
        self.expire(key, now);
        let room = self.rooms.get(key)?;
        let (kind, name) = Keys::parse(key)?;
        let mut holders = room.holders.iter().collect::<Vec<_>>();
        holders.sort_by_key(|holder| holder.ends);
        let holders = holders.into_iter().map(|holder| HolderInfo {
            id: HolderId(Who::Ours(holder.token)),
            access: holder.mode.access(),
            acquired_at: Some(minted(holder.fence)),
            remaining: Some(holder.ends.saturating_duration_since(now)),
            kept: holder.how == HoldState::Kept,
            fence: Some(holder.fence),
        });
        // Those who have left are passed over at the next hand-over.
        let waiters = room
            .waiters
            .iter()
            .filter(|waiter| !waiter.answer.is_closed());
        let waiters = waiters.map(|waiter| WaiterInfo {
            client_id: waiter.attempt.token.client_id(),
            access: waiter.attempt.mode.access(),
            waited: now.saturating_duration_since(waiter.since),
            timeout_in: waiter
                .until
                .map(|until| until.saturating_duration_since(now)),
            lease: waiter.attempt.lease,
        });
        Some(LockInfo {
            kind,
            name,
            holders: holders.collect(),
            waiters: waiters.collect(),
            observed_at: SystemTime::now(),
        })
    }

    /// What there is of each name.
    pub(super) fn all_seen(&mut self, now: Instant) -> Vec<LockInfo> {
        let keys = self.rooms.keys().cloned().collect::<Vec<_>>();
        keys.iter().filter_map(|key| self.seen(key, now)).collect()
    }

    /// Whether it was ours to keep. Whoever waits for it in vain is told now.
    pub(super) fn keep(&mut self, keys: &Keys, token: Token, now: Instant) -> bool {
        let Some(room) = self.room_held_by(keys, token, now) else {
            return false;
        };
        // What is shared stays taken to the end of its lease, as it would anyway.
        if keys.kind == LockKind::Lock {
            for holder in &mut room.holders {
                holder.how = HoldState::Kept;
            }
            let ends = room.next_end(now);
            let in_vain = |waiter: &Waiter| waiter.until.is_some_and(|until| until < ends);
            let (losing, waiting) = std::mem::take(&mut room.waiters)
                .into_iter()
                .partition::<VecDeque<_>, _>(in_vain);
            room.waiters = waiting;
            for loser in losing {
                let _ = loser.answer.send(room.busy(now));
            }
        }
        true
    }

    /// Whether it was ours to renew, and now ends `ends`.
    pub(super) fn renew(&mut self, keys: &Keys, token: Token, ends: Instant, now: Instant) -> bool {
        let Some(room) = self.room_held_by(keys, token, now) else {
            return false;
        };
        let before = room.next_end(now);
        for holder in &mut room.holders {
            if holder.token == token {
                holder.ends = ends;
            }
        }
        // Nobody is woken by a later end: the waiters' timers find it by themselves.
        room.tell_if_sooner(before, now);
        true
    }

    fn room_held_by(&mut self, keys: &Keys, token: Token, now: Instant) -> Option<&mut LockState> {
        self.expire(&keys.holder, now);
        let room = self.rooms.get_mut(&keys.holder)?;
        let held = room
            .holders
            .iter()
            .any(|holder| holder.token == token && holder.how == HoldState::Held);
        held.then_some(room)
    }

    /// Ends the leases whose time has come.
    fn expire(&mut self, key: &[u8], now: Instant) {
        if let Some(room) = self.rooms.get_mut(key)
            && room.holders.iter().any(|holder| holder.ends <= now)
        {
            room.holders.retain(|holder| holder.ends > now);
            // The others' timers tell them of this end.
            self.hand_over(key, now, now);
        }
    }

    /// Gives what is free to the first waiters who are still there. The others believe that
    /// there is nothing for them until `before`.
    fn hand_over(&mut self, key: &[u8], before: Instant, now: Instant) {
        while let Some(room) = self.rooms.get_mut(key) {
            let Some(first) = room.waiters.front() else {
                if room.holders.is_empty() {
                    self.rooms.remove(key);
                }
                return;
            };
            // Its wait may have just ended: as long as it listens, it is glad of the lock.
            let gone = first.answer.is_closed();
            if !gone && !room.admits(first.attempt.mode) {
                return room.tell_if_sooner(before, now);
            }
            let first = room.waiters.pop_front().expect("just looked at");
            if !gone {
                let granted = self.grant(key, first.attempt, now);
                // If it left just now, its leaving waits for us to give this back.
                let _ = first.answer.send(granted);
            }
        }
    }

    fn grant(&mut self, key: &[u8], asked: Requested, now: Instant) -> Outcome {
        let micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        let clock = u64::try_from(micros).unwrap_or_default();
        self.last_fence = clock.max(self.last_fence + 1);
        let deadline = now + asked.lease;
        if let Some(room) = self.rooms.get_mut(key) {
            room.holders.push(Holder {
                token: asked.token,
                mode: asked.mode,
                ends: deadline,
                how: HoldState::Held,
                fence: self.last_fence,
            });
        }
        Outcome::Granted(Grant {
            claim: Ownership {
                token: asked.token,
                last_fence: self.last_fence,
                block: 1,
            },
            fence: self.last_fence,
            deadline,
            place: None,
        })
    }

    /// Forgets the names whose leases have ended with nobody waiting, now and then, so that
    /// they never outnumber the others by much.
    fn sweep(&mut self, now: Instant) {
        if self.rooms.len() >= self.sweep_at {
            self.rooms.retain(|_, room| {
                !room.waiters.is_empty() || room.holders.iter().any(|holder| holder.ends > now)
            });
            self.sweep_at = (self.rooms.len() * 2).max(64);
        }
    }
}

impl LockState {
    fn admits(&self, mode: Mode) -> bool {
        let shared = |holder: &Holder| holder.mode != Mode::Exclusive;
        match mode {
            Mode::Exclusive => self.holders.is_empty(),
            Mode::Read => self.holders.iter().all(shared),
            Mode::Permit(most) => {
                let most = usize::try_from(most.get()).unwrap_or(usize::MAX);
                self.holders.len() < most && self.holders.iter().all(shared)
            }
        }
    }

    /// When the next lease ends.
    fn next_end(&self, now: Instant) -> Instant {
        let ends = self.holders.iter().map(|holder| holder.ends);
        ends.min().unwrap_or(now)
    }

    fn tell_if_sooner(&self, before: Instant, now: Instant) {
        if self.next_end(now) < before {
            let sooner = self.waiters.iter().map(|waiter| &waiter.sooner);
            sooner.for_each(|sooner| sooner.notify_one());
        }
    }

    fn is_kept(&self) -> bool {
        self.holders
            .iter()
            .any(|holder| holder.how == HoldState::Kept)
    }

    fn is_waited_for_in_vain(&self, until: Option<Instant>, now: Instant) -> bool {
        until.is_some_and(|until| until <= now || (self.is_kept() && until < self.next_end(now)))
    }

    fn busy(&self, now: Instant) -> Outcome {
        Outcome::Busy {
            left: Some(self.next_end(now).saturating_duration_since(now)),
            how: if self.is_kept() {
                HoldState::Kept
            } else {
                HoldState::Held
            },
        }
    }
}
