//! The locks that requests of this process want, hold or keep: counted per lock and frame, with the
//! single events of a lock that has few of them.
//!
//! Called on the path of every update, so each call locks one of several mutexes for a few map
//! operations. The table is bounded: a lock for which there is no room is not shown.
//!
//! Holds that have ended are remembered at all times, so that the board shows what happened before it
//! was opened. Counts and events are collected only while there is a watcher.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstock::{GrantKind, Guard, HolderId};
use tokio::time::Instant;

use super::clock::Moment;
use super::lock::{Counts, Ended, Episode, EventDetail, Hold, Lock, Requester};
use super::wire::{self, EpisodeEnd, EventKind, GrantedBy, LockStatus};

/// Number of mutexes, several for each core of a usual machine.
const SHARDS: usize = 16;
/// Maximum number of locks in a shard: 4,096 in all, of some 400 bytes each.
const MAX_LOCKS: usize = 4096 / SHARDS;
/// Pause between two searches of a full shard for locks whose lease has ended.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of remembered holds in a shard, 1,024 in all.
const MAX_EPISODES: usize = 1024 / SHARDS;
/// How long an ended hold is remembered.
pub(super) const EPISODE_RETENTION: Duration = Duration::from_secs(300);

/// How the update locks of products are named.
#[derive(Debug, Clone)]
pub(crate) struct ProductLocks {
    pub(crate) prefix: String,
    pub(crate) suffix: String,
}

impl ProductLocks {
    /// Returns the product whose lock has this name.
    pub(super) fn product(&self, name: &str) -> Option<i64> {
        let id = name.strip_prefix(&*self.prefix)?;
        id.strip_suffix(&*self.suffix)?.parse().ok()
    }
}

/// The locks of this process.
pub(crate) struct LockTable {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    product_locks: ProductLocks,
    /// Whether counts and events are collected.
    is_watched: AtomicBool,
    /// Whether anything has happened since it was last asked.
    is_active: AtomicBool,
    /// Where the next frame begins.
    first_shard: AtomicUsize,
}

/// What one frame may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameLimits {
    /// Maximum number of locks, and of holds that have ended.
    pub(super) locks: usize,
    /// Maximum number of events. The locks beyond it have counts only.
    pub(super) events: usize,
}

#[derive(Default)]
struct Shard {
    locks: HashMap<Arc<str>, Lock>,
    /// The newest last.
    episodes: VecDeque<Episode>,
    /// How many of the newest episodes no frame has contained.
    unsent_episodes: usize,
    swept_at: Option<Instant>,
}

impl LockTable {
    pub(crate) fn new(product_locks: ProductLocks) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            product_locks,
            is_watched: AtomicBool::new(false),
            is_active: AtomicBool::new(false),
            first_shard: AtomicUsize::new(0),
        }
    }

    pub(super) fn product_locks(&self) -> &ProductLocks {
        &self.product_locks
    }

    /// Begins to follow a request that wants a lock. Returns `None` if there is no room for the lock.
    pub(crate) fn begin(self: &Arc<Self>, name: &str, requester: Requester) -> Option<Followed> {
        let now = Instant::now();
        self.note_activity();
        let requester = Arc::new(requester);
        let index = self.hasher.hash_one(name) as usize % SHARDS;
        let mut shard = self.shard(index);
        let name = match shard.locks.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None => {
                shard.make_room(now)?;
                let name: Arc<str> = name.into();
                let product = self.product_locks.product(&name);
                shard.locks.insert(name.clone(), Lock::new(product, now));
                name
            }
        };
        let is_watched = self.is_watched();
        shard.with(&name, now, is_watched, |lock, _| {
            lock.begin_wait(now);
            lock.push(now, is_watched, &requester, || EventDetail::Waiting);
        });
        drop(shard);
        Some(Followed {
            table: self.clone(),
            shard: index,
            name,
            requester,
            asked_at: now,
            stage: Stage::Waiting,
        })
    }

    /// Notes that an operator has taken the lock away from `holder`. Returns whether a request of this
    /// process was the holder.
    pub(super) fn forced(&self, name: &str, holder: HolderId) -> bool {
        let index = self.hasher.hash_one(name) as usize % SHARDS;
        let (now, is_watched) = (Instant::now(), self.is_watched());
        let mut was_held = false;
        self.shard(index)
            .with(name, now, is_watched, |lock, ended| {
                let hold = lock.hold.take_if(|hold| hold.holder == holder);
                if let Some(hold) = hold {
                    was_held = true;
                    let held = now.saturating_duration_since(hold.since);
                    lock.push(now, is_watched, &hold.requester, || EventDetail::Ended {
                        kind: EventKind::Forced,
                        held,
                        until: None,
                    });
                    ended.push(lock.end(hold, now, EpisodeEnd::Forced));
                }
            });
        was_held
    }

    /// Starts or stops the collection of counts and events.
    pub(super) fn set_watched(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
        for index in 0..SHARDS {
            let mut shard = self.shard(index);
            shard.unsent_episodes = 0;
            shard.locks.retain(|_, lock| {
                lock.counts = Counts::default();
                lock.events = Vec::new();
                // The first frame has the locks that are in use.
                lock.has_changed = is_watched && lock.is_busy();
                !lock.is_idle()
            });
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Notes that something has happened.
    pub(super) fn note_activity(&self) {
        // Written once a second at most: other cores keep their copy of it.
        if !self.is_active.load(Ordering::Relaxed) {
            self.is_active.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether anything has happened since the last call.
    pub(super) fn take_activity(&self) -> bool {
        self.is_active.swap(false, Ordering::Relaxed)
    }

    /// Returns the locks that have changed and the holds that have ended since the last frame, within
    /// `limits`. Locks for which requests compete come first; those that do not fit are in the next
    /// frames.
    pub(super) fn take_changes(
        &self,
        server: &str,
        now: Moment,
        limits: FrameLimits,
    ) -> (Vec<LockStatus>, Vec<wire::Episode>) {
        let (mut locks, mut episodes) = (Vec::new(), Vec::new());
        let mut events = 0;
        // Another one each time, so that no shard is left out for long.
        let first = self.first_shard.fetch_add(1, Ordering::Relaxed);
        for only_contended in [true, false] {
            for index in (first..first + SHARDS).map(|index| index % SHARDS) {
                let mut shard = self.shard(index);
                if only_contended {
                    shard.settle(now.instant, true);
                    let unsent = std::mem::take(&mut shard.unsent_episodes);
                    let room = limits.locks.saturating_sub(episodes.len());
                    let unsent = shard.episodes.iter().rev().take(unsent.min(room));
                    episodes.extend(unsent.map(|episode| episode.to_wire(now)));
                }
                shard.locks.retain(|name, lock| {
                    let is_due = lock.has_changed && (lock.is_contended() || !only_contended);
                    if is_due && locks.len() < limits.locks {
                        let has_room = events + lock.events.len() <= limits.events;
                        let status = lock.take_changes(name, server, now, has_room);
                        events += status.events.len();
                        locks.push(status);
                    }
                    !lock.is_idle()
                });
            }
        }
        (locks, episodes)
    }

    /// Returns the locks that are held, kept or waited for.
    pub(super) fn statuses(&self, server: &str, now: Moment) -> Vec<LockStatus> {
        let mut statuses = Vec::new();
        for index in 0..SHARDS {
            let mut shard = self.shard(index);
            shard.settle(now.instant, self.is_watched());
            let locks = shard.locks.iter();
            let busy = locks.filter(|(_, lock)| lock.is_busy());
            statuses.extend(busy.map(|(name, lock)| lock.status(name, server, now)));
        }
        statuses
    }

    /// Returns the holds that have ended lately.
    pub(super) fn episodes(&self, now: Moment) -> Vec<wire::Episode> {
        let mut episodes = Vec::new();
        for index in 0..SHARDS {
            let mut shard = self.shard(index);
            shard.settle(now.instant, self.is_watched());
            // The next frame has the others.
            let recent = shard.episodes.iter().rev();
            let recent = recent.skip(match self.is_watched() {
                true => shard.unsent_episodes,
                false => 0,
            });
            let recent =
                recent.filter(|episode| episode.ended_at + EPISODE_RETENTION > now.instant);
            episodes.extend(recent.map(|episode| episode.to_wire(now)));
        }
        episodes
    }

    fn shard(&self, index: usize) -> MutexGuard<'_, Shard> {
        // No change of a shard can panic halfway.
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Makes room for one more lock, if that is possible.
    fn make_room(&mut self, now: Instant) -> Option<()> {
        if self.locks.len() < MAX_LOCKS {
            return Some(());
        }
        if self.swept_at.is_none_or(|at| at + SWEEP_INTERVAL <= now) {
            self.swept_at = Some(now);
            self.settle(now, false);
            self.locks.retain(|_, lock| lock.is_busy());
        }
        (self.locks.len() < MAX_LOCKS).then_some(())
    }

    /// Ends the holds whose lease has ended.
    fn settle(&mut self, now: Instant, is_watched: bool) {
        let Self {
            locks,
            episodes,
            unsent_episodes,
            ..
        } = self;
        for (name, lock) in locks {
            if let Some(ended) = lock.expired(now) {
                lock.has_changed = is_watched;
                remember(episodes, unsent_episodes, name, lock.product, ended);
            }
        }
    }

    /// Changes a lock, and remembers the holds that end by that.
    fn with(
        &mut self,
        name: &str,
        now: Instant,
        is_watched: bool,
        change: impl FnOnce(&mut Lock, &mut Vec<Ended>),
    ) {
        let Some((name, _)) = self.locks.get_key_value(name) else {
            return;
        };
        let name = name.clone();
        let Some(lock) = self.locks.get_mut(&name) else {
            return;
        };
        // Most changes end no hold, and then there is no allocation.
        let mut ended = Vec::new();
        ended.extend(lock.expired(now));
        change(lock, &mut ended);
        lock.has_changed = is_watched;
        let product = lock.product;
        let is_idle = lock.is_idle();
        for hold in ended {
            let unsent = &mut self.unsent_episodes;
            remember(&mut self.episodes, unsent, &name, product, hold);
        }
        if is_idle {
            self.locks.remove(&name);
        }
    }
}

fn remember(
    episodes: &mut VecDeque<Episode>,
    unsent: &mut usize,
    lock: &Arc<str>,
    product: Option<i64>,
    (hold, ended_at, end): Ended,
) {
    if episodes.len() == MAX_EPISODES {
        episodes.pop_front();
    }
    episodes.push_back(Episode {
        lock: lock.clone(),
        product,
        hold,
        ended_at,
        end,
    });
    *unsent = (*unsent + 1).min(episodes.len());
}

/// A request that wants a lock.
pub(crate) struct Followed {
    table: Arc<LockTable>,
    shard: usize,
    name: Arc<str>,
    requester: Arc<Requester>,
    asked_at: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Holding { fence: u64, since: Instant },
    Done,
}

impl Followed {
    pub(crate) fn granted(&mut self, guard: &Guard) {
        let by = match guard.grant_kind() {
            GrantKind::Local => GrantedBy::Local,
            GrantKind::Remote => GrantedBy::Remote,
            GrantKind::Expired => GrantedBy::Expired,
            _ => GrantedBy::Free,
        };
        let (waited, until) = (guard.waited(), guard.deadline());
        let (fence, holder) = (guard.fence(), guard.id());
        let requester = self.requester.clone();
        let since = self.change(|lock, ended, now, is_watched| {
            lock.end_wait(waited);
            let granted = &mut lock.counts.granted;
            *match by {
                GrantedBy::Free => &mut granted.free,
                GrantedBy::Local => &mut granted.local,
                GrantedBy::Remote => &mut granted.remote,
                GrantedBy::Expired => &mut granted.expired,
            } += 1;
            lock.push(now, is_watched, &requester, || EventDetail::Granted {
                by,
                waited,
                until,
                fence,
                holder,
            });
            let hold = Hold {
                requester,
                holder,
                fence,
                since: now,
                until,
                is_kept: false,
                waited: lock.waiting,
                refused: 0,
                longest_wait: Duration::ZERO,
                waiting_since: (lock.waiting > 0).then_some(now),
            };
            if let Some(previous) = lock.hold.replace(hold) {
                // It has been released, and reports that in a moment.
                ended.push(lock.end(previous, now, EpisodeEnd::Released));
            }
        });
        self.stage = Stage::Holding { fence, since };
    }

    pub(crate) fn rejected(&mut self, kept: bool, retry_after: Duration) {
        let (requester, asked_at) = (self.requester.clone(), self.asked_at);
        self.change(|lock, _, now, is_watched| {
            let waited = now.saturating_duration_since(asked_at);
            lock.end_wait(waited);
            lock.counts.refused += 1;
            if let Some(hold) = &mut lock.hold {
                hold.refused += 1;
            }
            lock.push(now, is_watched, &requester, || EventDetail::Refused {
                waited,
                kept,
                retry_after,
            });
        });
        self.stage = Stage::Done;
    }

    pub(crate) fn failed(&mut self) {
        match self.stage {
            Stage::Waiting => self.give_up(EventKind::Failed),
            // Until its lease ends, which the table notices by itself.
            Stage::Holding { .. } | Stage::Done => self.stage = Stage::Done,
        }
    }

    pub(crate) fn ended(&mut self, kind: EventKind) {
        let Stage::Holding { fence, since } = self.stage else {
            return;
        };
        self.stage = Stage::Done;
        let requester = self.requester.clone();
        self.change(|lock, ended, now, is_watched| {
            let held = now.saturating_duration_since(since);
            let hold = lock.hold.as_mut().filter(|hold| hold.fence == fence);
            let until = hold.as_ref().map(|hold| hold.until);
            match (kind, hold) {
                (EventKind::Kept, Some(hold)) => hold.is_kept = true,
                (_, Some(_)) => {
                    let end = match kind {
                        EventKind::Lost => EpisodeEnd::Lost,
                        _ => EpisodeEnd::Released,
                    };
                    if let Some(hold) = lock.hold.take() {
                        ended.push(lock.end(hold, now, end));
                    }
                }
                // The next holder was faster.
                (_, None) => {}
            }
            lock.push(now, is_watched, &requester, || EventDetail::Ended {
                kind,
                held,
                until: until.filter(|_| kind == EventKind::Kept),
            });
        });
    }

    fn give_up(&mut self, kind: EventKind) {
        self.stage = Stage::Done;
        let (requester, asked_at) = (self.requester.clone(), self.asked_at);
        self.change(|lock, _, now, is_watched| {
            let waited = now.saturating_duration_since(asked_at);
            lock.end_wait(waited);
            lock.push(now, is_watched, &requester, || EventDetail::GaveUp {
                kind,
                waited,
            });
        });
    }

    /// Changes the lock. Returns when.
    fn change(&self, change: impl FnOnce(&mut Lock, &mut Vec<Ended>, Instant, bool)) -> Instant {
        let (now, is_watched) = (Instant::now(), self.table.is_watched());
        let mut shard = self.table.shard(self.shard);
        shard.with(&self.name, now, is_watched, |lock, ended| {
            change(lock, ended, now, is_watched);
        });
        now
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        match self.stage {
            Stage::Waiting => self.give_up(EventKind::Cancelled),
            // The handler has panicked: its guard releases the lock.
            Stage::Holding { .. } => self.ended(EventKind::Released),
            Stage::Done => {}
        }
    }
}

#[cfg(test)]
mod tests;
