//! Values with a time to live: bytes under a cache key.
//!
//! Guarantees: [`get`](Cache::get) returns the value that was last written under the key, complete,
//! and never after its time to live. Every call returns or fails within the store's timeout.
//!
//! Not guaranteed: that a value lives that long. A store may lose it (the memory store ends with
//! the process; Redis restarts, fails over, or evicts by `maxmemory`), so callers must handle
//! `None`. A write whose reply was lost is sent again, and may overwrite a later write of another
//! client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::lease::truncate_to_millis;
use crate::store::Store;

/// The maximum length of a cache key: 1 KiB.
pub const MAX_KEY_BYTES: usize = 1024;
/// The maximum size of a value: 16 MiB. Larger values would delay the locks, which use the same
/// connection.
pub const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;
/// The minimum time to live: 1 ms.
pub const MIN_TTL: Duration = Duration::from_millis(1);
/// The maximum time to live: 366 days.
pub const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// The prefix of the Redis keys of all values. No lock uses it (see `key.rs`).
const KEY_PREFIX: &[u8] = b"lockstock:cache:";

/// The values of one prefix, from [`Store::cache`]. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    store: Store,
    /// The prefix of its keys in the store.
    prefix: Arc<[u8]>,
}

impl Store {
    /// Returns the cache of `prefix`, which may contain any bytes. Caches of different prefixes
    /// share no keys.
    ///
    /// In Redis, a value is a string under `lockstock:cache:PREFIX:KEY`. A `%` in the prefix is
    /// written as `%25`, a `:` as `%3A`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let rates = store.cache("rates");
    /// rates.set("EUR", "1.09", Duration::from_secs(60)).await?;
    /// assert_eq!(rates.get("EUR").await?.as_deref(), Some(&b"1.09"[..]));
    /// rates.delete("EUR").await?;
    /// assert_eq!(rates.get("EUR").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cache(&self, prefix: impl AsRef<[u8]>) -> Cache {
        let mut full_prefix = KEY_PREFIX.to_vec();
        for &byte in prefix.as_ref() {
            match byte {
                b'%' => full_prefix.extend_from_slice(b"%25"),
                b':' => full_prefix.extend_from_slice(b"%3A"),
                _ => full_prefix.push(byte),
            }
        }
        full_prefix.push(b':');
        Cache {
            store: self.clone(),
            prefix: full_prefix.into(),
        }
    }
}

impl Cache {
    /// Returns the value under `key`, `None` if there is none or it has expired. A key has 1 byte
    /// to 1 KiB ([`MAX_KEY_BYTES`]).
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) if the key is empty or too long,
    /// [`is_unavailable`](Error::is_unavailable) if the store fails or does not reply.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.store.get(&self.key(key.as_ref())?).await
    }

    /// Writes `value` under `key`, and replaces an earlier value. The time to live is truncated to
    /// whole milliseconds, from 1 ms ([`MIN_TTL`]) to 366 days ([`MAX_TTL`]).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`is_invalid`](Error::is_invalid) if `ttl` is out of range or
    /// the value has more than 16 MiB ([`MAX_VALUE_BYTES`]). If the store is unavailable, the value may
    /// have been written nevertheless.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<()> {
        let (key, value) = (self.key(key.as_ref())?, value.into());
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::invalid(format!(
                "a value can have at most {MAX_VALUE_BYTES} bytes, this one has {}",
                value.len()
            )));
        }
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            return Err(Error::invalid(format!(
                "the time to live must be {MIN_TTL:?} to {MAX_TTL:?}, not {ttl:?}"
            )));
        }
        self.store.set(&key, value, truncate_to_millis(ttl)).await
    }

    /// Removes the value under `key`, if there is one.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.store.delete(&self.key(key.as_ref())?).await
    }

    fn key(&self, key: &[u8]) -> Result<Vec<u8>> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(Error::invalid(format!(
                "a cache key must have 1 to {MAX_KEY_BYTES} bytes, this one has {}",
                key.len()
            )));
        }
        Ok([&self.prefix, key].concat())
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cache")
            .field(&Escaped(&self.prefix))
            .finish()
    }
}
