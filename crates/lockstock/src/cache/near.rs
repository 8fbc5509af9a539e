//! Settings of a near cache: copies of values in the memory of this process.

use std::time::Duration;

/// How old a copy may be that was overwritten in the meantime, unless
/// [`max_staleness`](NearCache::max_staleness) sets another bound: 2 s.
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(2);
/// The minimum of [`max_staleness`](NearCache::max_staleness): 1 s.
pub const MIN_MAX_STALENESS: Duration = Duration::from_secs(1);

/// Settings of the copies of values that a cache keeps in the memory of this process, for
/// [`Cache::near`](crate::Cache::near).
#[derive(Debug, Clone)]
pub struct NearCache {
    pub(crate) max_bytes: u64,
    pub(crate) ttl: Duration,
    pub(crate) max_staleness: Duration,
}

impl NearCache {
    /// Creates settings for copies of at most `max_bytes` in all: keys, values, and what is needed
    /// to find them. If they need more, the ones that are rarely read are dropped. A value of more
    /// than a quarter of `max_bytes` has no copy, from 256 MiB on one of more than 4 MiB.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes: max_bytes as u64,
            ttl: Duration::MAX,
            max_staleness: DEFAULT_MAX_STALENESS,
        }
    }

    /// Limits the age of a copy. Without this, a copy lives as long as the value in the store. With
    /// it, the value is read from the store again after that time, even if it has not changed.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets for how long a value that was overwritten may still be returned if the store sends
    /// no invalidation, because the network or the server has failed silently: 2 s
    /// ([`DEFAULT_MAX_STALENESS`]) by default, at least 1 s ([`MIN_MAX_STALENESS`]).
    #[must_use]
    pub fn max_staleness(mut self, bound: Duration) -> Self {
        self.max_staleness = bound.max(MIN_MAX_STALENESS);
        self
    }
}
