//! What this server knows beside its own locks: the locks of other servers, from their frames; those
//! of any program, from the last look into the store; the products.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use lockstock::{LockInfo, LockKind};
use tokio::time::Instant;

use super::clock::{Moment, millis, whole_millis};
use super::table::{EPISODE_RETENTION, ProductLocks};
use super::wire::{Episode, Frame, Holder, LockState, LockStatus, ProductStatus, Waiter};

/// Maximum number of locks that are known of one other server.
const MAX_LOCKS: usize = 4096;
/// Maximum number of other servers.
const MAX_SERVERS: usize = 64;
/// A server that has sent nothing for so long is not listed any more.
const SERVER_RETENTION: Duration = Duration::from_secs(60);
/// Maximum number of locks that are remembered of a look into the store.
const MAX_FOUND: usize = 4096;
/// Maximum number of products.
pub(super) const MAX_PRODUCTS: usize = 500;
/// Maximum number of holds in a snapshot, and of those of other servers.
pub(super) const MAX_EPISODES: usize = 500;
/// Number of digits of a client id that name a server.
const SERVER_DIGITS: usize = 8;

#[derive(Default)]
pub(super) struct Known {
    servers: HashMap<String, OtherServer>,
    found: HashMap<String, LockStatus>,
    found_at: Option<Instant>,
    /// Whether the last look found all locks.
    is_complete: bool,
    products: BTreeMap<i64, ProductStatus>,
    /// Of other servers, the newest last.
    episodes: VecDeque<Episode>,
}

#[derive(Default)]
struct OtherServer {
    /// Locks that are not free.
    locks: HashMap<String, LockStatus>,
    seen_at: Option<Instant>,
}

/// Returns the name of the server with this client id.
pub(super) fn server_name(client_id: &impl ToString) -> String {
    let mut name = client_id.to_string();
    name.truncate(SERVER_DIGITS);
    name
}

impl Known {
    /// Forgets the other servers, whose frames are not received any more.
    pub(super) fn forget_servers(&mut self) {
        self.servers.clear();
    }

    /// Adds a frame of another server.
    pub(super) fn add_frame(&mut self, frame: &Frame, now: Instant) {
        if !self.servers.contains_key(&frame.server) && self.servers.len() >= MAX_SERVERS {
            return;
        }
        let server = self.servers.entry(frame.server.clone()).or_default();
        server.seen_at = Some(now);
        for lock in &frame.locks {
            if lock.state == LockState::Free && lock.waiting == 0 {
                server.locks.remove(&lock.name);
            } else if server.locks.len() < MAX_LOCKS || server.locks.contains_key(&lock.name) {
                server.locks.insert(lock.name.clone(), at_rest(lock));
            }
        }
        for episode in &frame.episodes {
            if self.episodes.len() == MAX_EPISODES {
                self.episodes.pop_front();
            }
            self.episodes.push_back(episode.clone());
        }
        self.add_products(&frame.products);
    }

    /// Notes that a lock was taken away from a holder.
    pub(super) fn forget_holder(&mut self, lock: &str, holder: &str) {
        let others = self.servers.values_mut().map(|server| &mut server.locks);
        for locks in others.chain([&mut self.found]) {
            let is_held = locks.get(lock).and_then(LockStatus::holder_id) == Some(holder);
            if is_held {
                locks.remove(lock);
            }
        }
    }

    pub(super) fn add_products(&mut self, products: &[ProductStatus]) {
        for product in products {
            if product.deleted {
                self.products.remove(&product.id);
            } else {
                self.products.insert(product.id, product.clone());
            }
        }
        while self.products.len() > MAX_PRODUCTS {
            self.products.pop_last();
        }
    }

    /// Replaces the products. Returns those that differ from before.
    pub(super) fn set_products(&mut self, products: Vec<ProductStatus>) -> Vec<ProductStatus> {
        let is_same = |product: &&ProductStatus| {
            let before = self.products.get(&product.id);
            before.is_some_and(|before| before.state == product.state)
        };
        let changed = products.iter().filter(|product| !is_same(product));
        let mut changed: Vec<_> = changed.cloned().collect();
        let now: BTreeMap<_, _> = products.into_iter().map(|it| (it.id, it)).collect();
        let gone = self.products.keys().filter(|id| !now.contains_key(id));
        changed.extend(gone.map(|&id| ProductStatus::deleted(id)));
        self.products = now;
        changed
    }

    pub(super) fn products(&self) -> Vec<ProductStatus> {
        self.products.values().cloned().collect()
    }

    /// Replaces what the last look into the store has found. Returns the locks that differ from before
    /// and that no server reports: `own` and those whose frames are received report theirs.
    pub(super) fn set_found(
        &mut self,
        locks: Vec<LockStatus>,
        is_complete: bool,
        own: Option<&str>,
        now: Instant,
    ) -> Vec<LockStatus> {
        self.found_at = Some(now);
        self.is_complete = is_complete && locks.len() <= MAX_FOUND;
        let found = locks.into_iter().take(MAX_FOUND);
        let found: HashMap<_, _> = found.map(|lock| (lock.name.clone(), lock)).collect();
        let reports_itself = |lock: &LockStatus| {
            let server = lock.holder.as_ref();
            let server = server.and_then(|holder| holder.server.as_deref());
            server.is_some_and(|server| self.sends_frames(server, own))
        };
        let is_same = |lock: &LockStatus| {
            let before = self.found.get(&lock.name);
            before.is_some_and(|before| {
                (before.holder_id(), before.state, before.waiting)
                    == (lock.holder_id(), lock.state, lock.waiting)
            })
        };
        let changed = found.values();
        let changed = changed.filter(|lock| !reports_itself(lock) && !is_same(lock));
        let mut changed: Vec<_> = changed.cloned().collect();
        let gone = self.found.values();
        let gone = gone.filter(|lock| !reports_itself(lock) && !found.contains_key(&lock.name));
        changed.extend(gone.map(|lock| LockStatus {
            name: lock.name.clone(),
            product: lock.product,
            ..LockStatus::default()
        }));
        self.found = found;
        changed
    }

    pub(super) fn set_incomplete(&mut self) {
        self.is_complete = false;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns the names of the other servers.
    pub(super) fn servers(&mut self, now: Instant) -> Vec<String> {
        self.servers.retain(|_, server| {
            let seen = server.seen_at;
            seen.is_some_and(|seen| seen + SERVER_RETENTION > now)
        });
        let mut names: Vec<_> = self.servers.keys().cloned().collect();
        names.sort();
        names
    }

    /// Returns the holds of other servers that have ended lately.
    pub(super) fn episodes(&self, now: Moment) -> impl Iterator<Item = &Episode> {
        let oldest = now.epoch_ms - whole_millis(EPISODE_RETENTION);
        let episodes = self.episodes.iter();
        episodes.filter(move |episode| episode.to > oldest)
    }

    /// Returns all locks that are held, kept or waited for. `locks` are those of the server `own`, if
    /// it reports them.
    pub(super) fn locks(
        &self,
        own: Option<&str>,
        locks: Vec<LockStatus>,
        now: Moment,
    ) -> Vec<LockStatus> {
        let mut merged: BTreeMap<String, LockStatus> = BTreeMap::new();
        let found = self.found.values();
        for lock in found.filter_map(|lock| self.without_servers(lock, own, now.instant)) {
            merged.insert(lock.name.clone(), lock);
        }
        let others = self.servers.values();
        let others = others.flat_map(|server| server.locks.values().cloned());
        for lock in others.chain(locks) {
            match merged.get_mut(&lock.name) {
                None => drop(merged.insert(lock.name.clone(), lock)),
                Some(known) => {
                    let waiting = known.waiting.saturating_add(lock.waiting);
                    if known.holder.is_none() || lock.fence() > known.fence() {
                        let waiters = std::mem::take(&mut known.waiters);
                        *known = LockStatus { waiters, ..lock };
                    }
                    known.waiting = waiting;
                }
            }
        }
        let mut locks: Vec<_> = merged.into_values().collect();
        for lock in &mut locks {
            lock.free_after_lease(now);
        }
        locks.retain(LockStatus::is_in_use);
        locks
    }

    /// Whether the frames of a server are received: what the store had of it a while ago is outdated.
    fn sends_frames(&self, server: &str, own: Option<&str>) -> bool {
        Some(server) == own || self.servers.contains_key(server)
    }

    /// Returns what was found about a lock in the store, without servers whose frames are received.
    fn without_servers(
        &self,
        found: &LockStatus,
        own: Option<&str>,
        now: Instant,
    ) -> Option<LockStatus> {
        let age = self.found_at.map_or(Duration::ZERO, |at| now - at);
        let mut lock = found.clone();
        lock.waiters.retain_mut(|waiter| {
            waiter.waited_ms += millis(age);
            if let Some(timeout_in_ms) = &mut waiter.timeout_in_ms {
                *timeout_in_ms -= millis(age);
            }
            !self.sends_frames(&waiter.server, own)
                && waiter
                    .timeout_in_ms
                    .is_none_or(|timeout_in_ms| timeout_in_ms > 0.0)
        });
        lock.waiting = u32::try_from(lock.waiters.len()).unwrap_or(u32::MAX);
        let server = lock.holder.as_ref();
        let server = server.and_then(|holder| holder.server.as_deref());
        if server.is_some_and(|server| self.sends_frames(server, own)) {
            (lock.state, lock.holder) = (LockState::Free, None);
        }
        (lock.holder.is_some() || lock.waiting > 0).then_some(lock)
    }
}

/// Returns a lock without what has happened to it.
fn at_rest(lock: &LockStatus) -> LockStatus {
    LockStatus {
        name: lock.name.clone(),
        product: lock.product,
        state: lock.state,
        holder: lock.holder.clone(),
        waiting: lock.waiting,
        ..LockStatus::default()
    }
}

impl LockStatus {
    /// Whether the lock has been held, or waited for, for longer than this at the time `at`.
    pub(crate) fn lasts_longer(&self, longer: Duration, at: i64) -> bool {
        let since = self.holder.as_ref().and_then(|holder| holder.since);
        let mut waits = self.waiters.iter().map(|waiter| waiter.waited_ms);
        since.is_some_and(|since| at - since > whole_millis(longer))
            || waits.any(|waited_ms| waited_ms > millis(longer))
    }

    fn holder_id(&self) -> Option<&str> {
        self.holder.as_ref().map(|holder| &*holder.id)
    }

    /// Whether the lock is held, kept or waited for.
    pub(super) fn is_in_use(&self) -> bool {
        self.state != LockState::Free || self.waiting > 0
    }

    /// Takes over what the store has now, and keeps whose request it is if it is the same grant.
    pub(super) fn update_from(&mut self, found: Self) {
        let is_same = self.holder_id() == found.holder_id();
        if !is_same || self.state != found.state {
            let known = self.holder.take().filter(|_| is_same);
            (self.state, self.holder) = (found.state, known.or(found.holder));
        }
        self.waiters = found.waiters;
        self.waiting = self.waiting.max(found.waiting);
    }

    fn fence(&self) -> Option<u64> {
        self.holder.as_ref()?.fence
    }

    /// Frees a lock whose lease has ended since it was looked at.
    fn free_after_lease(&mut self, now: Moment) {
        let until = self.holder.as_ref().and_then(|holder| holder.until);
        if until.is_some_and(|until| until <= now.epoch_ms) {
            (self.state, self.holder) = (LockState::Free, None);
        }
    }

    /// Describes what the store has about a lock. `None` for another kind of lock.
    pub(super) fn of_store(info: &LockInfo, products: &ProductLocks, now: Moment) -> Option<Self> {
        if info.kind != LockKind::Lock {
            return None;
        }
        let name = String::from_utf8_lossy(&info.name).into_owned();
        let holder = info.holders.first();
        let waiters = info.waiters.iter().map(|waiter| Waiter {
            server: server_name(&waiter.client_id),
            waited_ms: millis(waiter.waited),
            timeout_in_ms: waiter.timeout_in.map(millis),
        });
        let waiters: Vec<_> = waiters.collect();
        Some(Self {
            product: products.product(&name),
            state: holder.map_or(LockState::Free, |holder| match holder.kept {
                true => LockState::Kept,
                false => LockState::Held,
            }),
            holder: holder.map(|holder| Holder {
                id: holder.id.to_string(),
                server: holder.id.client_id().as_ref().map(server_name),
                // By the clock of the store, at the moment of the look. What remains is a duration.
                since: holder.acquired_at.map(|at| {
                    let age = info.observed_at.duration_since(at).unwrap_or_default();
                    now.epoch_ms - whole_millis(age)
                }),
                until: holder.remaining.map(|rest| now.epoch_ms_after(rest)),
                fence: holder.fence,
                ..Holder::default()
            }),
            waiting: u32::try_from(waiters.len()).unwrap_or(u32::MAX),
            waiters,
            name,
            ..Self::default()
        })
    }
}

impl ProductStatus {
    pub(super) fn deleted(id: i64) -> Self {
        Self {
            id,
            deleted: true,
            state: None,
        }
    }
}
