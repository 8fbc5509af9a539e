//! Typed values with a time to live, for synchronous callers.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use lockstock_fork::PerProcess;

use super::Store;
use super::owned::Owned;
use crate::cache::{
    Codec, ComputeError, ComputePolicy, Entries, Integer, Json, NearCache, Tags, Ttl,
};
use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::runtime;
use crate::store::near::NearTable;

/// Values of type `T` under the keys of one namespace, from [`Store::cache`]. Cheap to clone. It
/// shares its entries with the asynchronous [`Cache`](crate::Cache) of the same namespace.
pub struct Cache<T, C = Json> {
    store: Store,
    entries: Entries<C>,
    near: Option<Arc<Near>>,
    values: PhantomData<fn(T) -> T>,
}

/// A near cache, which a child of `fork` does not inherit.
struct Near {
    settings: NearCache,
    table: PerProcess<Option<Arc<NearTable>>>,
}

impl Store {
    /// Returns the cache of `namespace`: as [`Store::cache`](crate::Store::cache).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::blocking::Store::memory();
    /// let rates = store.cache::<f64>("rates");
    /// rates.set("EUR", &1.09, Duration::from_secs(60))?;
    /// assert_eq!(rates.get("EUR")?, Some(1.09));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cache<T>(&self, namespace: impl AsRef<[u8]>) -> Cache<T> {
        Cache {
            store: self.clone(),
            entries: Entries::new(namespace.as_ref(), Json),
            near: None,
            values: PhantomData,
        }
    }
}

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

    /// Sets the version, 1 by default: as [`Cache::version`](crate::Cache::version).
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.entries.set_version(version);
        self
    }

    /// Subtracts a random part of each time to live: as [`Cache::jitter`](crate::Cache::jitter).
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.entries.set_jitter(share);
        self
    }

    /// Uses the keys of Django's caches: as [`Cache::django_keys`](crate::Cache::django_keys).
    #[must_use]
    pub fn django_keys(mut self) -> Self {
        self.entries.use_django_keys();
        self
    }

    /// Keeps copies of the values in the memory of this process: as
    /// [`Cache::near`](crate::Cache::near). Starts the runtime at the first call. Reading a copy
    /// needs no runtime, and reading a value that has no copy takes two changes of threads more than
    /// without a near cache.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{NearCache, blocking::Store};
    /// # fn main() -> lockstock::Result<()> {
    /// # let store = Store::memory();
    /// let rates = store.cache::<f64>("rates").near(NearCache::new(64 * 1024 * 1024));
    /// rates.set("EUR", &1.09, Duration::from_secs(60))?;
    /// assert_eq!(rates.get("EUR")?, Some(1.09));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn near(mut self, settings: NearCache) -> Self {
        self.near = Some(Arc::new(Near {
            settings,
            table: PerProcess::new(),
        }));
        self
    }

    /// Sets the maximum size of a value: as
    /// [`Cache::max_value_bytes`](crate::Cache::max_value_bytes).
    #[must_use]
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.entries.set_max_value_bytes(bytes);
        self
    }
}

impl<T, C: Codec<T>> Cache<T, C> {
    /// Returns the value under `key`, `None` if there is none or it has expired.
    ///
    /// # Errors
    ///
    /// As [`Cache::get`](crate::Cache::get).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.run(|cache| async move { cache.get(key).await })
    }

    /// Writes `value` under `key`, and replaces an earlier value.
    ///
    /// # Errors
    ///
    /// As [`Cache::set`](crate::Cache::set).
    pub fn set(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<()> {
        self.run(|cache| async move { cache.set(key, value, ttl).await })
    }

    /// Writes `value` under `key` if there is no value. Returns whether it was written.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn add(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<bool> {
        self.run(|cache| async move { cache.add(key, value, ttl).await })
    }

    /// Writes `value` under `key` if there is a value. Returns whether it was written.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn replace(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<bool> {
        self.run(|cache| async move { cache.replace(key, value, ttl).await })
    }

    /// Returns the values under several keys, in the order of the keys: as
    /// [`Cache::get_many`](crate::Cache::get_many). On a Cluster one round trip for each node.
    ///
    /// # Errors
    ///
    /// As [`Cache::get_many`](crate::Cache::get_many).
    pub fn get_many(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Vec<Option<T>>> {
        self.run(|cache| async move { cache.get_many(keys).await })
    }

    /// Writes several values with one time to live: as
    /// [`Cache::set_many`](crate::Cache::set_many).
    ///
    /// # Errors
    ///
    /// As [`Cache::set_many`](crate::Cache::set_many).
    pub fn set_many<K: AsRef<[u8]>, V: Borrow<T>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
        ttl: impl Into<Ttl>,
    ) -> Result<()> {
        self.run(|cache| async move { cache.set_many(entries, ttl).await })
    }

    /// Returns the value under `key`. If there is none, computes it and writes it: as
    /// [`Cache::get_or_set`](crate::Cache::get_or_set).
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid), as [`Cache::get_or_set`](crate::Cache::get_or_set).
    pub fn get_or_set(
        &self,
        key: impl AsRef<[u8]>,
        policy: impl Into<ComputePolicy>,
        compute: impl FnOnce() -> T,
    ) -> Result<T> {
        let cache = self.cache();
        runtime::wait(cache.get_or_set(key, policy, async || compute()))?
    }

    /// Returns the value under `key`. If there is none, calls `compute`, and writes and returns its
    /// value: as [`Cache::get_or_try_set`](crate::Cache::get_or_try_set). Callers in this process,
    /// and on request in all processes, share one computation. `compute` runs on this thread, and may
    /// use the store. Starts the runtime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn rate_of(currency: &str) -> std::io::Result<f64> { Ok(1.09) }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = lockstock::blocking::Store::memory();
    /// let rates = store.cache::<f64>("rates");
    /// let rate = rates.get_or_try_set("EUR", Duration::from_secs(60), || rate_of("EUR"))?;
    /// assert_eq!((rate, rates.get("EUR")?), (1.09, Some(1.09)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Cache::get_or_try_set`](crate::Cache::get_or_try_set).
    pub fn get_or_try_set<E: Send + Sync + 'static>(
        &self,
        key: impl AsRef<[u8]>,
        policy: impl Into<ComputePolicy>,
        compute: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, ComputeError<E>> {
        let cache = self.cache();
        runtime::wait(cache.get_or_try_set(key, policy, async || compute()))
            .map_err(ComputeError::Invalid)?
    }

    /// Returns the state of `tags`, for [`set_tagged`](Self::set_tagged): as
    /// [`Cache::tags`](crate::Cache::tags).
    ///
    /// # Errors
    ///
    /// As [`Cache::tags`](crate::Cache::tags).
    pub fn tags<N: AsRef<[u8]>>(&self, tags: impl IntoIterator<Item = N>) -> Result<Tags> {
        self.run(|cache| async move { cache.tags(tags).await })
    }

    /// Writes `value` under `key` and the tags: as [`Cache::set_tagged`](crate::Cache::set_tagged).
    ///
    /// # Errors
    ///
    /// As [`Cache::set_tagged`](crate::Cache::set_tagged).
    pub fn set_tagged(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
        ttl: impl Into<Ttl>,
        tags: &Tags,
    ) -> Result<()> {
        self.run(|cache| async move { cache.set_tagged(key, value, ttl, tags).await })
    }

    /// Invalidates all entries that were written under `tag`: as
    /// [`Cache::invalidate_tag`](crate::Cache::invalidate_tag).
    ///
    /// # Errors
    ///
    /// As [`Cache::invalidate_tag`](crate::Cache::invalidate_tag).
    pub fn invalidate_tag(&self, tag: impl AsRef<[u8]>) -> Result<()> {
        self.run(|cache| async move { cache.invalidate_tag(tag).await })
    }
}

impl<T, C: Clone> Cache<T, C> {
    /// Removes the value under `key`. Returns whether there was one: as
    /// [`Cache::delete`](crate::Cache::delete).
    ///
    /// # Errors
    ///
    /// As [`Cache::delete`](crate::Cache::delete).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.run(|cache| async move { cache.delete(key).await })
    }

    /// Removes the values under several keys. Returns how many there were: as
    /// [`Cache::delete_many`](crate::Cache::delete_many).
    ///
    /// # Errors
    ///
    /// As [`Cache::delete_many`](crate::Cache::delete_many).
    pub fn delete_many(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<u64> {
        self.run(|cache| async move { cache.delete_many(keys).await })
    }

    /// Returns whether there is a value under `key`.
    ///
    /// # Errors
    ///
    /// As [`Cache::contains`](crate::Cache::contains).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.run(|cache| async move { cache.contains(key).await })
    }

    /// Sets the time to live of the value under `key`, from now. Returns whether there is one.
    ///
    /// # Errors
    ///
    /// As [`Cache::touch`](crate::Cache::touch).
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool> {
        self.run(|cache| async move { cache.touch(key, ttl).await })
    }

    /// Returns the remaining time to live of the value under `key`, `None` if there is no value.
    ///
    /// # Errors
    ///
    /// As [`Cache::ttl`](crate::Cache::ttl).
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        self.run(|cache| async move { cache.ttl(key).await })
    }

    /// Lets the value under `key` live without end. Returns whether there is a value that would have
    /// expired: as [`Cache::persist`](crate::Cache::persist).
    ///
    /// # Errors
    ///
    /// As [`Cache::persist`](crate::Cache::persist).
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.run(|cache| async move { cache.persist(key).await })
    }

    /// Scans for the keys that match a glob pattern: as [`Cache::keys`](crate::Cache::keys). Starts
    /// the runtime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::blocking::Store::memory();
    /// let carts = store.cache::<u32>("carts");
    /// carts.set_many([("de:1", 2), ("fr:1", 5)], Duration::from_secs(60))?;
    /// for key in carts.keys("de:*")? {
    ///     assert_eq!(key?, b"de:1");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Cache::keys`](crate::Cache::keys).
    pub fn keys(&self, pattern: impl AsRef<[u8]>) -> Result<KeyScan> {
        Ok(KeyScan(Owned::new(self.cache().keys(pattern)?)))
    }

    /// Removes the values whose keys match a glob pattern: as
    /// [`Cache::delete_matching`](crate::Cache::delete_matching). Starts the runtime.
    ///
    /// # Errors
    ///
    /// As [`Cache::delete_matching`](crate::Cache::delete_matching).
    pub fn delete_matching(&self, pattern: impl AsRef<[u8]>) -> Result<u64> {
        runtime::wait(self.cache().delete_matching(pattern))?
    }

    /// Removes all values of this namespace and version, and nothing else: as
    /// [`Cache::clear`](crate::Cache::clear). Starts the runtime.
    ///
    /// # Errors
    ///
    /// As [`Cache::clear`](crate::Cache::clear).
    pub fn clear(&self) -> Result<u64> {
        runtime::wait(self.cache().clear())?
    }

    /// Runs a call of the asynchronous cache, whose commands on values block.
    fn run<R, F: Future<Output = Result<R>>>(
        &self,
        call: impl FnOnce(crate::Cache<T, C>) -> F,
    ) -> Result<R> {
        runtime::complete(call(self.cache()))?
    }

    fn cache(&self) -> crate::Cache<T, C> {
        let store = self.store.process();
        let near = self.near.as_ref().and_then(|near| {
            let Near { settings, table } = &**near;
            table.get_or_init(|| store.open_near(settings)).clone()
        });
        crate::Cache::new(store, self.entries.clone(), near)
    }
}

impl Cache<i64, Integer> {
    /// Adds `by` to the value under `key` and returns the sum: as
    /// [`Cache::incr`](crate::Cache::incr).
    ///
    /// # Errors
    ///
    /// As [`Cache::incr`](crate::Cache::incr).
    pub fn incr(&self, key: impl AsRef<[u8]>, by: i64, ttl: impl Into<Ttl>) -> Result<i64> {
        self.run(|cache| async move { cache.incr(key, by, ttl).await })
    }

    /// Subtracts `by` from the value under `key`: see [`incr`](Self::incr).
    ///
    /// # Errors
    ///
    /// As [`incr`](Self::incr).
    pub fn decr(&self, key: impl AsRef<[u8]>, by: i64, ttl: impl Into<Ttl>) -> Result<i64> {
        self.run(|cache| async move { cache.decr(key, by, ttl).await })
    }
}

/// Scan for the keys of a [`Cache`], from [`Cache::keys`]. After a failure, the next call continues
/// it. A child of `fork` cannot continue the scan of its parent.
pub struct KeyScan(Owned<crate::KeyScan>);

impl Iterator for KeyScan {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(scan) = self.0.get_mut() else {
            return Some(Err(Error::invalid(
                "the scan is that of the parent of this process",
            )));
        };
        let next = runtime::wait(scan.next());
        next.and_then(|next| next).transpose()
    }
}

impl<T, C: Clone> Clone for Cache<T, C> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            entries: self.entries.clone(),
            near: self.near.clone(),
            values: PhantomData,
        }
    }
}

impl<T, C> fmt::Debug for Cache<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cache")
            .field(&Escaped(self.entries.prefix()))
            .finish()
    }
}

impl fmt::Debug for KeyScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyScan")
    }
}
