//! Copies of values in the memory of this process, and when they may be returned.
//!
//! Guarantees, as long as the backend reports each invalidation, and each loss of the connection
//! that invalidations arrive on:
//!
//! - A value that was invalidated before the reply of its read was processed is not copied: a
//!   reader takes a [`Ticket`] before it sends, and each invalidation cancels the tickets of its
//!   epoch.
//! - After a write of this store has returned, no copy has an earlier value.
//! - No copy is returned after the time to live of its value.
//! - No copy is returned if its value was overwritten before the [`Pulse`].
//!
//! Everything here is synchronous: a copy is found without a runtime.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::clock::{as_nanos, now_ns};
use crate::cache::NearCache;

/// Number of epochs of a table. Keys that share one cancel each other's tickets, which costs a
/// read its copy.
const EPOCHS: usize = 256;
/// What a copy needs besides the bytes of key and value: its place in the table, two allocations,
/// and the hashes of keys that were dropped lately.
const ENTRY_BYTES: u64 = 192;
/// The bytes of a copy, for the first size of the table.
const TYPICAL_BYTES: u64 = 1024;
/// The parts of a table, each with a lock and a share of the bytes of its own.
const MIN_PARTS: u64 = 4;
const MAX_PARTS: u64 = 64;
const PART_BYTES: u64 = 4 * 1024 * 1024;

/// The keys that a command writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Written<'a> {
    Nothing,
    Key(&'a [u8]),
    Keys(&'a [Vec<u8>]),
    Everything,
}

/// Copies of values, by their keys in the store.
pub(crate) struct NearTable {
    copies: Cache<Box<[u8]>, NearCopy, WeightInBytes>,
    /// The number of invalidations. A copy is added, and invalidated, under the mutex of its key.
    epochs: Box<[Mutex<u64>]>,
    hasher: DefaultHashBuilder,
    pulse: Arc<Pulse>,
    ttl_ns: u64,
    max_staleness_ns: u64,
    /// Since they were last reported.
    hits: AtomicU64,
}

#[derive(Clone)]
struct NearCopy {
    /// `None`: there is no value under the key.
    value: Option<Bytes>,
    expires_at_ns: u64,
}

#[derive(Clone, Copy)]
struct WeightInBytes;

impl Weighter<Box<[u8]>, NearCopy> for WeightInBytes {
    fn weight(&self, key: &Box<[u8]>, copy: &NearCopy) -> u64 {
        let value = copy.value.as_ref().map_or(0, Bytes::len);
        ENTRY_BYTES + (key.len() + value) as u64
    }
}

/// The state of a key before it was read. The copy is added only if it is the same afterwards.
pub(crate) struct Ticket {
    epoch_index: usize,
    epoch: u64,
    taken_at_ns: u64,
}

/// The remaining life of a value that was read, `None` if it has no end.
pub(crate) type Remaining = Option<Duration>;

impl NearTable {
    fn new(settings: &NearCache, pulse: Arc<Pulse>) -> Self {
        let parts = (settings.max_bytes / PART_BYTES).clamp(MIN_PARTS, MAX_PARTS);
        let typical = settings.max_bytes / TYPICAL_BYTES;
        let options = OptionsBuilder::new()
            .shards(parts as usize)
            .estimated_items_capacity(typical as usize)
            .weight_capacity(settings.max_bytes)
            .build()
            .unwrap_or_else(|error| unreachable!("all options are set: {error}"));
        let hasher = DefaultHashBuilder::default();
        Self {
            copies: Cache::with_options(
                options,
                WeightInBytes,
                hasher.clone(),
                DefaultLifecycle::default(),
            ),
            epochs: (0..EPOCHS).map(|_| Mutex::new(0)).collect(),
            hasher,
            pulse,
            ttl_ns: as_nanos(settings.ttl),
            max_staleness_ns: as_nanos(settings.max_staleness),
            hits: AtomicU64::new(0),
        }
    }

    /// Counts a copy that was returned. A counter of `metrics` would cost more than the read.
    pub(crate) fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the copy of the value under `key`, `Some(None)` if it is known that there is no
    /// value. `None`: the store has to be asked.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        // Before the copy: the bound is counted from the beginning of the read.
        let now_ns = now_ns();
        if now_ns >= self.pulse.get_ns()?.saturating_add(self.max_staleness_ns) {
            return None;
        }
        let copy = self.copies.get(key)?;
        (now_ns < copy.expires_at_ns).then_some(copy.value)
    }

    /// Notes the state of a key. The read is sent afterwards.
    pub(crate) fn ticket(&self, key: &[u8]) -> Ticket {
        let epoch_index = self.epoch_index(key);
        Ticket {
            epoch_index,
            epoch: *lock(&self.epochs[epoch_index]),
            taken_at_ns: now_ns(),
        }
    }

    /// Adds a copy of what was read, unless the key was invalidated since the ticket was taken.
    pub(crate) fn add(
        &self,
        ticket: &Ticket,
        key: Vec<u8>,
        value: Option<Bytes>,
        remaining: Remaining,
    ) {
        let lives_ns = remaining.map_or(u64::MAX, as_nanos).min(self.ttl_ns);
        let copy = NearCopy {
            value,
            // The value was read later, so the copy ends earlier than the value.
            expires_at_ns: ticket.taken_at_ns.saturating_add(lives_ns),
        };
        let epoch = lock(&self.epochs[ticket.epoch_index]);
        if *epoch == ticket.epoch {
            self.copies.insert(key.into_boxed_slice(), copy);
        }
    }

    pub(crate) fn max_staleness(&self) -> Duration {
        Duration::from_nanos(self.max_staleness_ns)
    }

    /// Removes the copy under `key`, and cancels the tickets that were taken for it.
    pub(crate) fn invalidate(&self, key: &[u8]) {
        let mut epoch = lock(&self.epochs[self.epoch_index(key)]);
        *epoch += 1;
        self.copies.remove(key);
    }

    /// Removes all copies, and cancels all tickets.
    fn clear(&self) {
        for epoch in &self.epochs {
            *lock(epoch) += 1;
        }
        self.copies.clear();
    }

    fn epoch_index(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize % EPOCHS
    }
}

impl fmt::Debug for NearTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NearTable")
            .field("copies", &self.copies.len())
            .field("bytes", &self.copies.weight())
            .finish_non_exhaustive()
    }
}

/// The latest time before which every invalidation has been processed: the beginning of the last
/// round in which each connection that copies were read on was probed. A connection that did not
/// reply was dropped in that round, and the copies with it.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// 0: no round yet.
    probed_at_ns: AtomicU64,
}

/// A round of probes that has begun.
pub(crate) struct Round {
    began_at_ns: u64,
}

impl Pulse {
    pub(crate) fn begin_round() -> Round {
        Round {
            began_at_ns: now_ns(),
        }
    }

    /// Sets the pulse to the beginning of the round.
    pub(crate) fn complete_round(&self, round: Round) {
        self.probed_at_ns
            .store(round.began_at_ns, Ordering::Release);
    }

    fn get_ns(&self) -> Option<u64> {
        let probed_at_ns = self.probed_at_ns.load(Ordering::Acquire);
        (probed_at_ns > 0).then_some(probed_at_ns)
    }
}

/// The near caches of one store.
#[derive(Debug)]
pub(crate) struct NearTables {
    tables: RwLock<Vec<Weak<NearTable>>>,
    /// The length of `tables`: a write of a store without near caches costs a load.
    count: AtomicUsize,
    pulse: Arc<Pulse>,
}

impl NearTables {
    pub(crate) fn new() -> Self {
        Self {
            tables: RwLock::default(),
            count: AtomicUsize::new(0),
            pulse: Arc::default(),
        }
    }

    pub(crate) fn open(&self, settings: &NearCache) -> Arc<NearTable> {
        let table = Arc::new(NearTable::new(settings, self.pulse.clone()));
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|table| table.strong_count() > 0);
        tables.push(Arc::downgrade(&table));
        self.count.store(tables.len(), Ordering::SeqCst);
        table
    }

    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Returns whether a near cache is still in use.
    pub(crate) fn is_in_use(&self) -> bool {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.iter().any(|table| table.strong_count() > 0)
    }

    /// Reports the hits since the last report.
    pub(crate) fn report_hits(&self) {
        let hits = counter!("lockstock_cache_hits_total");
        self.each(|table| hits.increment(table.hits.swap(0, Ordering::Relaxed)));
    }

    /// Invalidates what a command writes, now and when the returned guard is dropped: after the
    /// reply, after an error, or when the caller is cancelled.
    ///
    /// Now, so that copies do not hide the write while it is on its way; then, because a read that
    /// was sent in between may have returned the earlier value, and the invalidation of the server
    /// may arrive after the reply to the write.
    pub(crate) fn overwrite<'a>(&'a self, keys: Written<'a>) -> Overwriting<'a> {
        self.invalidate(keys);
        Overwriting { tables: self, keys }
    }

    pub(crate) fn invalidate(&self, keys: Written<'_>) {
        match keys {
            Written::Nothing => {}
            Written::Everything => self.clear(),
            Written::Key(key) => self.each(|table| table.invalidate(key)),
            Written::Keys(keys) => {
                self.each(|table| keys.iter().for_each(|key| table.invalidate(key)));
            }
        }
    }

    /// Empties all tables.
    pub(crate) fn clear(&self) {
        self.each(NearTable::clear);
    }

    fn each(&self, change: impl Fn(&NearTable)) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        for table in tables.iter().filter_map(Weak::upgrade) {
            change(&table);
        }
    }
}

/// A write on its way. The keys are invalidated on drop.
#[must_use]
pub(crate) struct Overwriting<'a> {
    tables: &'a NearTables,
    keys: Written<'a>,
}

impl Drop for Overwriting<'_> {
    fn drop(&mut self) {
        self.tables.invalidate(self.keys);
    }
}

fn lock(epoch: &Mutex<u64>) -> MutexGuard<'_, u64> {
    // Locked for one operation of the table.
    epoch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"a";

    fn tables() -> (NearTables, Arc<NearTable>) {
        let tables = NearTables::new();
        tables.pulse().complete_round(Pulse::begin_round());
        let table = tables.open(&NearCache::new(1024 * 1024));
        (tables, table)
    }

    fn add(table: &NearTable, ticket: &Ticket, value: &'static str) {
        table.add(ticket, KEY.to_vec(), Some(value.into()), None);
    }

    #[test]
    fn a_read_that_was_sent_before_an_invalidation_adds_no_copy() {
        let (tables, table) = tables();
        let ticket = table.ticket(KEY);
        tables.invalidate(Written::Key(KEY));
        add(&table, &ticket, "old");
        assert_eq!(table.get(KEY), None);
        let ticket = table.ticket(KEY);
        tables.clear();
        add(&table, &ticket, "old");
        assert_eq!(table.get(KEY), None);
        let ticket = table.ticket(KEY);
        add(&table, &ticket, "new");
        assert_eq!(table.get(KEY), Some(Some("new".into())));
    }

    #[test]
    fn a_write_drops_the_copy_before_it_is_sent_and_when_it_has_returned() {
        let (tables, table) = tables();
        add(&table, &table.ticket(KEY), "old");
        let keys = [KEY.to_vec()];
        for written in [Written::Key(KEY), Written::Keys(&keys)] {
            let before = table.ticket(KEY);
            let overwriting = tables.overwrite(written);
            assert_eq!(table.get(KEY), None);
            // Read on another connection, before the write was carried out.
            let meanwhile = table.ticket(KEY);
            add(&table, &meanwhile, "old");
            assert!(table.get(KEY).is_some());
            drop(overwriting);
            assert_eq!(table.get(KEY), None);
            for late in [before, meanwhile] {
                add(&table, &late, "old");
                assert_eq!(table.get(KEY), None);
            }
        }
    }

    #[test]
    fn a_copy_is_returned_only_while_the_pulse_is_recent() {
        let (tables, table) = tables();
        add(&table, &table.ticket(KEY), "1");
        assert!(table.get(KEY).is_some());
        let round = |before: Duration| Round {
            began_at_ns: now_ns() - as_nanos(before),
        };
        tables.pulse().complete_round(round(Duration::from_secs(2)));
        assert_eq!(table.get(KEY), None);
        tables.pulse().complete_round(Pulse::begin_round());
        assert!(table.get(KEY).is_some());
        tables.pulse().complete_round(Round { began_at_ns: 0 });
        assert_eq!(table.get(KEY), None, "before the first round");
    }

    #[test]
    fn a_dropped_near_cache_is_in_use_no_more() {
        let (tables, table) = tables();
        assert!(tables.is_in_use());
        drop(table);
        assert!(!tables.is_in_use());
    }
}
