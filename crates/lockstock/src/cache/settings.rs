//! The settings of a cache: formats, keys, times to live, copies in the process.

use std::marker::PhantomData;

use super::{Cache, Codec, NearCache};

impl<T, C> Cache<T, C> {
    /// Sets the format of the values, JSON by default.
    pub fn codec<D: Codec<T>>(self, codec: D) -> Cache<T, D> {
        Cache {
            store: self.store,
            entries: self.entries.with_codec(codec),
            near: self.near,
            values: PhantomData,
        }
    }

    /// Sets the version, 1 by default. Versions of one namespace share no keys: a new version
    /// leaves all earlier entries behind, to expire.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.entries.set_version(version);
        self
    }

    /// Subtracts a random part of each time to live, at most `share` of it (0.1 is a tenth), so that
    /// values that were written together do not expire together. 0 by default.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.entries.set_jitter(share);
        self
    }

    /// Uses `NAMESPACE:VERSION:KEY` as the key in the store, as Django's caches do by default, to
    /// share entries with a Django project: the namespace is its `KEY_PREFIX`. Nothing is escaped,
    /// so a namespace that contains `:` can share keys with another one.
    #[must_use]
    pub fn django_keys(mut self) -> Self {
        self.entries.use_django_keys();
        self
    }

    /// Uses `KEY` itself as the key in the store: for bindings to other languages, where a function of
    /// the application makes the keys. The namespace and the version are not used, except for tags.
    /// A key must not begin with `lockstock:`.
    #[must_use]
    pub fn bare_keys(mut self) -> Self {
        self.entries.use_bare_keys();
        self
    }

    /// Keeps copies of the values in the memory of this process, so that reading them again costs
    /// no round trip. Redis tracks what was read, and pushes an invalidation when it changes. Clones
    /// of this cache share the copies. Not for the decision whether a write is allowed: that takes
    /// a [lock](crate::Store::lock), and a comparison in the database.
    ///
    /// Guarantees of [`get`](Self::get):
    ///
    /// - It returns no value after its time to live.
    /// - After a write through the same [`Store`](crate::Store) has returned, it returns that value or a later
    ///   one.
    /// - When the invalidation of a write by another client has arrived, usually less than a
    ///   millisecond after the write, it returns that value or a later one. If neither an
    ///   invalidation nor the end of a connection arrives, because the network or the server has
    ///   failed, it returns no value that was overwritten more than
    ///   [`max_staleness`](NearCache::max_staleness) before the call.
    /// - It returns no earlier value than a previous call through this cache or a clone, unless
    ///   Redis itself loses writes.
    ///
    /// If a connection breaks, a Sentinel fails over or the slots of a Cluster move, the copies are
    /// dropped, and read again. Without a connection on which Redis can track what was read
    /// (the ACL has to allow `+client|tracking`), every call reads from Redis, and a warning is
    /// logged.
    ///
    /// The bound holds for tags too: another process may return an entry for that long after
    /// [`invalidate_tag`](Self::invalidate_tag).
    ///
    /// Create such a cache once and clone it: each call of this function begins without copies. In a
    /// store in memory, this has no effect.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{NearCache, Store};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = Store::memory();
    /// let rates = store.cache::<f64>("rates").near(NearCache::new(64 * 1024 * 1024));
    /// rates.set("EUR", &1.09, Duration::from_secs(60)).await?;
    /// assert_eq!(rates.get("EUR").await?, Some(1.09)); // from Redis
    /// assert_eq!(rates.get("EUR").await?, Some(1.09)); // from memory
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn near(mut self, settings: NearCache) -> Self {
        self.near = self.store.open_near(&settings);
        self
    }

    /// Sets the maximum size of a value, 16 MiB ([`MAX_VALUE_BYTES`](crate::MAX_VALUE_BYTES)) by default.
    #[must_use]
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.entries.set_max_value_bytes(bytes);
        self
    }
}
