//! The locks that requests of this process want, hold or keep: counted per lock and frame, with the
//! single events of a lock that has few of them.
//!
//! Called on the path of every update, so each call locks one of several mutexes for a few map
//! operations. The table is bounded: a lock for which there is no room is not shown.
//!
//! Holds that have ended are remembered at all times, so that the board shows what happened before it
//! was opened; if they are many, only those that were long or that others met. Counts and events are
//! collected only while there is a watcher.

mod followed;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
use lockstock::HolderId;
use tokio::time::Instant;

pub(crate) use self::followed::Followed;
use super::clock::Moment;
use super::lock::{Counts, Ended, Episode, EventDetail, EventRoom, Events, Lock, Requester};
use super::wire::{self, EpisodeEnd, EventKind, LockStatus};

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
    /// For the next frame.
    event_room: EventRoom,
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

struct NamedLock {
    name: Arc<str>,
    lock: Lock,
}

#[derive(Default)]
struct Shard {
    /// By the hashes of their names. A request computes that of its lock once.
    locks: HashTable<NamedLock>,
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
            event_room: EventRoom::default(),
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
        let hash = self.hasher.hash_one(name);
        let mut shard = self.shard(hash);
        let name = match shard.locks.find(hash, |known| *known.name == *name) {
            Some(known) => known.name.clone(),
            None => {
                shard.make_room(now)?;
                let name: Arc<str> = name.into();
                let known = NamedLock {
                    name: name.clone(),
                    lock: Lock::new(self.product_locks.product(&name), now),
                };
                let hash_of = |known: &NamedLock| self.hasher.hash_one(&*known.name);
                shard.locks.insert_unique(hash, known, hash_of);
                name
            }
        };
        let room = self.event_room();
        shard.with(hash, &name, now, room.is_some(), |lock, _| {
            lock.begin_wait(now);
            lock.push(now, room, &requester, || EventDetail::Waiting);
        });
        drop(shard);
        Some(Followed::new(self.clone(), hash, name, requester, now))
    }

    /// Notes that an operator has taken the lock away from `holder`. Returns whether a request of this
    /// process was the holder.
    pub(super) fn forced(&self, name: &str, holder: HolderId) -> bool {
        let hash = self.hasher.hash_one(name);
        let (now, room) = (Instant::now(), self.event_room());
        let mut was_held = false;
        self.shard(hash)
            .with(hash, name, now, room.is_some(), |lock, ended| {
                let hold = lock.hold.take_if(|hold| hold.holder == holder);
                if let Some(hold) = hold {
                    was_held = true;
                    let held = now.saturating_duration_since(hold.since);
                    lock.push(now, room, &hold.requester, || EventDetail::Ended {
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
        self.event_room.set(usize::MAX);
        self.is_watched.store(is_watched, Ordering::Relaxed);
        for mut shard in self.shards() {
            shard.unsent_episodes = 0;
            shard.locks.retain(|NamedLock { lock, .. }| {
                lock.counts = Counts::default();
                lock.events = Events::default();
                // The first frame has the locks that are in use.
                lock.has_changed = is_watched && lock.is_busy();
                !lock.is_idle()
            });
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Returns the room for events, if there is a watcher.
    fn event_room(&self) -> Option<&EventRoom> {
        self.is_watched().then_some(&self.event_room)
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
        self.event_room.set(limits.events);
        // Another one each time, so that no shard is left out for long.
        let first = self.first_shard.fetch_add(1, Ordering::Relaxed);
        for only_contended in [true, false] {
            for index in (first..first + SHARDS).map(|index| index % SHARDS) {
                let mut shard = lock(&self.shards[index]);
                if only_contended {
                    shard.settle(now.instant, true);
                    let unsent = std::mem::take(&mut shard.unsent_episodes);
                    let room = limits.locks.saturating_sub(episodes.len());
                    let unsent = shard.episodes.iter().rev().take(unsent.min(room));
                    episodes.extend(unsent.map(|episode| episode.to_wire(now)));
                }
                shard.locks.retain(|NamedLock { name, lock }| {
                    let is_due = lock.has_changed && (lock.is_contended() || !only_contended);
                    if is_due && locks.len() < limits.locks {
                        let has_room = events + lock.events.count() <= limits.events;
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
        for mut shard in self.shards() {
            shard.settle(now.instant, self.is_watched());
            let locks = shard.locks.iter();
            let busy = locks.filter(|known| known.lock.is_busy());
            statuses.extend(busy.map(|known| known.lock.status(&known.name, server, now)));
        }
        statuses
    }

    /// Returns the holds that have ended lately.
    pub(super) fn episodes(&self, now: Moment) -> Vec<wire::Episode> {
        let mut episodes = Vec::new();
        for mut shard in self.shards() {
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

    /// Returns the shard of the locks with this hash.
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // Not by the lowest bits, which choose the place in a shard.
        let index = (hash >> 32) as usize % SHARDS;
        lock(&self.shards[index])
    }

    /// Locks one shard after another.
    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // No change of a shard can panic halfway.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.locks.retain(|known| known.lock.is_busy());
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
        for NamedLock { name, lock } in locks.iter_mut() {
            if let Some(ended) = lock.expired(now) {
                lock.has_changed = is_watched;
                let unsent = &mut *unsent_episodes;
                remember(episodes, unsent, is_watched, name, lock.product, ended);
            }
        }
    }

    /// Changes a lock, and remembers the holds that end by that.
    fn with(
        &mut self,
        hash: u64,
        name: &str,
        now: Instant,
        is_watched: bool,
        change: impl FnOnce(&mut Lock, &mut Vec<Ended>),
    ) {
        let found = self.locks.find_entry(hash, |known| *known.name == *name);
        let Ok(mut found) = found else {
            return;
        };
        let NamedLock { name, lock } = found.get_mut();
        // Most changes end no hold, and then there is no allocation.
        let mut ended = Vec::new();
        ended.extend(lock.expired(now));
        change(lock, &mut ended);
        lock.has_changed = is_watched;
        for hold in ended {
            let unsent = &mut self.unsent_episodes;
            let episodes = &mut self.episodes;
            remember(episodes, unsent, is_watched, name, lock.product, hold);
        }
        if lock.is_idle() {
            found.remove();
        }
    }
}

fn remember(
    episodes: &mut VecDeque<Episode>,
    unsent: &mut usize,
    is_watched: bool,
    lock: &Arc<str>,
    product: Option<i64>,
    (hold, ended_at, end): Ended,
) {
    let episode = Episode {
        lock: lock.clone(),
        product,
        hold,
        ended_at,
        end,
    };
    if episodes.len() == MAX_EPISODES {
        let displaced = match is_watched {
            true => Some(0),
            false => displaced(episodes, &episode),
        };
        let Some(displaced) = displaced else {
            return;
        };
        episodes.remove(displaced);
    }
    episodes.push_back(episode);
    *unsent = (*unsent + 1).min(episodes.len());
}

/// Returns which hold is forgotten for a new one. `None` if that is the new one: it would displace a hold
/// of the last minutes that may have been a stall.
fn displaced(episodes: &VecDeque<Episode>, new: &Episode) -> Option<usize> {
    let oldest = episodes.front()?;
    if oldest.ended_at + EPISODE_RETENTION <= new.ended_at {
        return Some(0);
    }
    if new.is_uneventful() {
        return None;
    }
    let uneventful = episodes.iter().position(Episode::is_uneventful);
    Some(uneventful.unwrap_or(0))
}

#[cfg(test)]
mod tests;
