//! Typed values with a time to live.
//!
//! Guarantees: [`get`](Cache::get) returns the value that was last written under the key, complete,
//! and never after its time to live; with a [near cache](Cache::near), an earlier value within the
//! bound that it sets. Every call returns or fails within the store's timeout; one with many keys
//! within a timeout for each thousand of them, and a timeout after its first failure.
//!
//! Not guaranteed: that a value lives that long. A store may lose it (the memory store ends with
//! the process; Redis restarts, fails over, or evicts by `maxmemory`), so callers must handle
//! `None`. A write whose reply was lost is sent again, and may overwrite a later write of another
//! client.

mod bypass;
mod codec;
mod compute;
mod election;
mod entries;
mod envelope;
mod flight;
mod keys;
mod lookup;
mod near;
mod policy;
mod settings;
mod tags;
mod ttl;
mod writing;

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use metrics::counter;

pub(crate) use self::bypass::Bypass;
#[cfg(feature = "messagepack")]
pub use self::codec::MessagePack;
pub(crate) use self::codec::parse_integer;
pub use self::codec::{Codec, CodecError, Integer, Json, Raw};
pub use self::compute::ComputeError;
pub(crate) use self::entries::Entries;
pub use self::entries::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use self::envelope::Envelope;
pub(crate) use self::flight::Flights;
pub use self::keys::KeyScan;
pub use self::near::{DEFAULT_MAX_STALENESS, MIN_MAX_STALENESS, NearCache};
pub use self::policy::{ComputePolicy, DEFAULT_COMPUTE_WAIT};
pub use self::tags::{MAX_TAG_BYTES, MAX_TAGS, Tags};
pub use self::ttl::{MAX_TTL, MIN_TTL, Ttl};
use crate::error::Result;
use crate::escaped::Escaped;
use crate::store::Store;
use crate::store::near::NearTable;
use crate::store::values::{
    Delete, Exists, Get, Increment, Persist, Set, SetCondition, Touch, TtlOf,
};

/// Values of type `T` under the keys of one namespace, from [`Store::cache`]. Cheap to clone.
pub struct Cache<T, C = Json> {
    store: Store,
    entries: Entries<C>,
    near: Option<Arc<NearTable>>,
    values: PhantomData<fn(T) -> T>,
}

/// Where a value is read.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A copy in this process, if there is one.
    Any,
    /// The store: another process may have just written the value.
    Store,
}

impl Store {
    /// Returns the cache of `namespace`, which may contain any bytes. Caches of different
    /// namespaces share no keys. Values are JSON, unless [`codec`](Cache::codec) sets another
    /// format.
    ///
    /// In Redis, a value is a string under `lockstock:cache:NAMESPACE:VERSION:KEY`. A `%` in the
    /// namespace is written as `%25`, a `:` as `%3A`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let rates = store.cache::<f64>("rates");
    /// rates.set("EUR", &1.09, Duration::from_secs(60)).await?;
    /// assert_eq!(rates.get("EUR").await?, Some(1.09));
    /// rates.delete("EUR").await?;
    /// assert_eq!(rates.get("EUR").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cache<T>(&self, namespace: impl AsRef<[u8]>) -> Cache<T> {
        Cache::new(self, Entries::new(namespace.as_ref(), Json), None)
    }
}

impl<T, C> Cache<T, C> {
    pub(crate) fn new(store: &Store, entries: Entries<C>, near: Option<Arc<NearTable>>) -> Self {
        Self {
            store: store.clone(),
            entries,
            near,
            values: PhantomData,
        }
    }
}

impl<T, C: Codec<T>> Cache<T, C> {
    /// Returns the value under `key`, `None` if there is none or it has expired. A key has 1 byte
    /// to 64 KiB ([`MAX_KEY_BYTES`]).
    ///
    /// # Errors
    ///
    /// [`is_invalid`](crate::Error::is_invalid) if the key is empty or too long,
    /// [`is_malformed`](crate::Error::is_malformed) if the codec cannot decode the value,
    /// [`is_unavailable`](crate::Error::is_unavailable) if the store fails or does not reply.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        let (copy, entry) = match self.near_copy(key.as_ref())? {
            Some(copy) => (self.near.as_ref(), copy),
            // Boxed: the future of a hit stays small.
            None => {
                let read = self.read(self.entries.key(key.as_ref())?);
                (None, Box::pin(read).await?)
            }
        };
        match entry {
            // Most entries, without a second future.
            Some(bytes) if Envelope::is_plain(&bytes) => {
                match copy {
                    Some(near) => near.count_hit(),
                    None => counter!("lockstock_cache_hits_total").increment(1),
                }
                self.entries.decode(&bytes).map(Some)
            }
            entry => Box::pin(self.value(entry)).await,
        }
    }

    /// Returns the value of an entry.
    async fn value(&self, entry: Option<Bytes>) -> Result<Option<T>> {
        let payload = match entry {
            Some(bytes) => self.payload(bytes).await?,
            None => None,
        };
        let metric = match payload {
            Some(_) => counter!("lockstock_cache_hits_total"),
            None => counter!("lockstock_cache_misses_total"),
        };
        metric.increment(1);
        payload
            .map(|payload| self.entries.decode(&payload))
            .transpose()
    }

    /// Returns the value of an entry, `None` if it is stale or one of its tags was invalidated.
    async fn payload(&self, entry: Bytes) -> Result<Option<Bytes>> {
        let envelope = Envelope::open(entry)?;
        let is_fresh = !envelope.is_stale()
            && (envelope.tags.is_empty() || self.are_valid(&envelope.tags, Source::Any).await?);
        Ok(is_fresh.then_some(envelope.payload))
    }

    /// Reads an entry, or the token of a tag, for a call that may compute a value.
    async fn read_bytes(&self, key: Vec<u8>, source: Source) -> Result<Option<Bytes>> {
        let read = match (source, &self.near) {
            (Source::Any, near) => {
                if let Some(copy) = near.as_ref().and_then(|near| near.get(&key)) {
                    return Ok(copy);
                }
                self.read(key).await
            }
            (Source::Store, Some(near)) => {
                let get = Get { key };
                let value = self.store.value(&get).await;
                // A copy may be older than this value, and must not be returned after it.
                near.invalidate(&get.key);
                value
            }
            (Source::Store, None) => self.store.value(&Get { key }).await,
        };
        if read.is_ok() {
            // Not after a copy, which is returned without the store.
            self.store.bypass().note_success();
        }
        read
    }

    /// Returns the bytes that the near cache has under `key`, `Some(None)` if it is known that
    /// there is no value. Needs no runtime.
    fn near_copy(&self, key: &[u8]) -> Result<Option<Option<Bytes>>> {
        let Some(near) = &self.near else {
            return Ok(None);
        };
        self.entries.with_key(key, |key| near.get(key))
    }

    /// Reads the bytes under a key of the store, into the near cache too.
    async fn read(&self, key: Vec<u8>) -> Result<Option<Bytes>> {
        match &self.near {
            Some(near) => self.store.read_near(near, key).await,
            None => self.store.value(&Get { key }).await,
        }
    }

    /// Writes `value` under `key`, and replaces an earlier value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`is_invalid`](crate::Error::is_invalid) if `ttl` is out of range
    /// or the encoded value has more than 16 MiB ([`MAX_VALUE_BYTES`]). If the store is unavailable,
    /// the value may have been written nevertheless.
    pub async fn set(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<()> {
        let always = SetCondition::Always;
        self.write(key.as_ref(), value, ttl.into(), always).await?;
        Ok(())
    }

    /// Writes `value` under `key` if there is no value. Returns whether it was written.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub async fn add(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<bool> {
        let if_missing = SetCondition::IfMissing;
        self.write(key.as_ref(), value, ttl.into(), if_missing)
            .await
    }

    /// Writes `value` under `key` if there is a value. Returns whether it was written.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub async fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
        ttl: impl Into<Ttl>,
    ) -> Result<bool> {
        let if_present = SetCondition::IfPresent;
        self.write(key.as_ref(), value, ttl.into(), if_present)
            .await
    }

    /// Returns the values under several keys, in the order of the keys, `None` for each that has no
    /// value. One round trip for about a thousand keys; on a Cluster a command for each slot, all at
    /// the same time. The values are not of one moment.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let rates = store.cache::<f64>("rates");
    /// rates.set_many([("EUR", 1.09), ("GBP", 1.27)], Duration::from_secs(60)).await?;
    /// assert_eq!(rates.get_many(["GBP", "CHF", "EUR"]).await?, [Some(1.27), None, Some(1.09)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), if any of the keys or values is the reason. What Redis has under a key
    /// and is no string counts as no value here.
    pub async fn get_many(
        &self,
        keys: impl IntoIterator<Item: AsRef<[u8]>>,
    ) -> Result<Vec<Option<T>>> {
        let keys = self.keys_in_store(keys)?;
        let entries = match &self.near {
            Some(_) => {
                let read = async |key| match self.read_bytes(key, Source::Any).await {
                    // As `MGET` does.
                    Err(error) if error.is_malformed() => Ok(None),
                    read => read,
                };
                try_join_all(keys.into_iter().map(read)).await?
            }
            None => self.store.get_values(keys).await?,
        };
        // At the same time: entries with tags have a second round trip.
        try_join_all(entries.into_iter().map(|entry| self.value(entry))).await
    }

    /// Writes several values with one time to live, and replaces earlier ones. One round trip for
    /// about a thousand values or 1 MiB; on a Cluster a command for each, all at the same time.
    /// Each value is written at once, all together are not. Keys should differ: if a key is there
    /// twice, any of its values may remain.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set). If the call is [invalid](crate::Error::is_invalid), nothing was
    /// written. If the store is [unavailable](crate::Error::is_unavailable), any of the values may
    /// have been written: all were tried, and the error is that of the first one that failed. The call
    /// can be repeated.
    pub async fn set_many<K: AsRef<[u8]>, V: Borrow<T>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
        ttl: impl Into<Ttl>,
    ) -> Result<()> {
        let ttl = ttl.into();
        let set = |(key, value): (K, V)| {
            Ok(Set {
                key: self.entries.key(key.as_ref())?,
                value: self.entries.encode(value.borrow())?,
                // Each has a random part of its own.
                ttl: self.entries.ttl(ttl)?,
                condition: SetCondition::Always,
            })
        };
        let sets = entries.into_iter().map(set).collect::<Result<Vec<_>>>()?;
        sets.iter()
            .for_each(|set| self.store.flights().supersede(&set.key));
        self.store.values(&sets).await.map(drop)
    }

    async fn write(
        &self,
        key: &[u8],
        value: &T,
        ttl: Ttl,
        condition: SetCondition,
    ) -> Result<bool> {
        let set = Set {
            key: self.entries.key(key)?,
            value: self.entries.encode(value)?,
            ttl: self.entries.ttl(ttl)?,
            condition,
        };
        self.store.flights().supersede(&set.key);
        self.store.value(&set).await
    }
}

impl<T, C> Cache<T, C> {
    /// Removes the value under `key`. Returns whether there was one; if the reply was lost and
    /// the command was sent again, `false` is possible although there was one.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let keys = vec![self.entries.key(key.as_ref())?];
        self.store.flights().supersede(&keys[0]);
        Ok(self.store.value(&Delete { keys }).await? > 0)
    }

    /// Removes the values under several keys. Returns how many there were, too few if a reply was
    /// lost and a command was sent again. Round trips as in [`get_many`](Self::get_many).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get). If the store is unavailable, any of the values may have been removed:
    /// all were tried.
    pub async fn delete_many(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<u64> {
        let keys = self.keys_in_store(keys)?;
        keys.iter()
            .for_each(|key| self.store.flights().supersede(key));
        self.store.delete_values(keys).await
    }

    fn keys_in_store(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Vec<Vec<u8>>> {
        keys.into_iter()
            .map(|key| self.entries.key(key.as_ref()))
            .collect()
    }

    /// Returns whether there is a value under `key`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = self.entries.key(key.as_ref())?;
        self.store.value(&Exists { key }).await
    }

    /// Sets the time to live of the value under `key`, from now. Returns whether there is one.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`is_invalid`](crate::Error::is_invalid) if `ttl` is out of range.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool> {
        let key = self.entries.key(key.as_ref())?;
        match self.entries.ttl(ttl.into())? {
            Ttl::After(ttl) => self.store.value(&Touch { key, ttl }).await,
            Ttl::Never => {
                let had_ttl = self.store.value(&Persist { key: key.clone() }).await?;
                Ok(had_ttl || self.store.value(&Exists { key }).await?)
            }
        }
    }

    /// Returns the remaining time to live of the value under `key`, `None` if there is no value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        let key = self.entries.key(key.as_ref())?;
        self.store.value(&TtlOf { key }).await
    }

    /// Lets the value under `key` live without end. Returns whether there is a value that
    /// would have expired; if the command was sent again, `false` is possible although there is.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = self.entries.key(key.as_ref())?;
        self.store.value(&Persist { key }).await
    }
}

impl Cache<i64, Integer> {
    /// Adds `by` to the value under `key` and returns the sum. A missing value counts as 0 and gets
    /// the time to live; a present one keeps its own.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::Integer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let logins = store.cache("logins").codec(Integer);
    /// assert_eq!(logins.incr("alice", 1, Duration::from_secs(3600)).await?, 1);
    /// assert_eq!(logins.incr("alice", 2, Duration::from_secs(3600)).await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`is_malformed`](crate::Error::is_malformed) if the sum overflows.
    /// If the store is unavailable, `by` may have been added nevertheless: the call is not repeated.
    pub async fn incr(&self, key: impl AsRef<[u8]>, by: i64, ttl: impl Into<Ttl>) -> Result<i64> {
        let increment = Increment {
            key: self.entries.key(key.as_ref())?,
            by,
            if_missing: Some(self.entries.ttl(ttl.into())?),
        };
        self.store.flights().supersede(&increment.key);
        let sum = self.store.value(&increment).await?;
        Ok(sum.unwrap_or_default())
    }

    /// Subtracts `by` from the value under `key`: see [`incr`](Self::incr).
    ///
    /// # Errors
    ///
    /// As [`incr`](Self::incr).
    pub async fn decr(&self, key: impl AsRef<[u8]>, by: i64, ttl: impl Into<Ttl>) -> Result<i64> {
        let by = by.checked_neg().ok_or_else(|| {
            crate::Error::invalid(format!("{by} cannot be subtracted from an integer"))
        })?;
        self.incr(key, by, ttl).await
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
