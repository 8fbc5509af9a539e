//! Values that go by themselves: bytes under a key, for so long and no longer.
//!
//! Guarantees: what is read under a key is what was written there last, whole, and never after
//! its time to live; each call is answered or fails within the store's timeout.
//!
//! Not guaranteed: that a value is still there. A store may lose it before its time (memory
//! that ends with the process, a restart, a failover, `maxmemory`), so whoever reads must know
//! what to do without. A write whose answer was lost is sent again and may come after somebody
//! else's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::lease::truncate_to_millis;
use crate::store::Store;

/// The longest key of a value, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// The largest value, in bytes. Locks go through the same connection, and wait behind it.
pub const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;
/// The shortest time to live.
pub const MIN_TTL: Duration = Duration::from_millis(1);
/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// What all keys of values begin with. No lock has such a key (see `key.rs`).
const KEYS: &[u8] = b"lockstock:cache:";

/// Values under keys that begin alike: see [`Store::cache`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    store: Store,
    /// What its keys begin with in the store.
    front: Arc<[u8]>,
}

impl Store {
    /// The values whose keys begin with `prefix`, any bytes. Two prefixes share no key.
    ///
    /// In Redis a value is a string under `lockstock:cache:PREFIX:KEY`, where `%` and `:` of the
    /// prefix are written as `%25` and `%3A`.
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
        let mut front = KEYS.to_vec();
        for &byte in prefix.as_ref() {
            match byte {
                b'%' => front.extend_from_slice(b"%25"),
                b':' => front.extend_from_slice(b"%3A"),
                _ => front.push(byte),
            }
        }
        front.push(b':');
        Cache {
            store: self.clone(),
            front: front.into(),
        }
    }
}

impl Cache {
    /// What is under `key`: 1 to [`MAX_KEY_BYTES`] bytes. `None` if nothing is, or not any
    /// more.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) for a key that is empty or too long,
    /// [`is_unavailable`](Error::is_unavailable) when the store cannot be asked.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.store.get(&self.key(key.as_ref())?).await
    }

    /// Puts `value` under `key` for `ttl`, in the place of what was there:
    /// [`MIN_TTL`] to [`MAX_TTL`], counted in whole milliseconds.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`is_invalid`](Error::is_invalid) for a time out of range and
    /// a value of more than [`MAX_VALUE_BYTES`]. When the store is unavailable the value may
    /// have been written all the same.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<()> {
        let (key, value) = (self.key(key.as_ref())?, value.into());
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::invalid(format!(
                "a value takes at most {MAX_VALUE_BYTES} bytes, this one has {}",
                value.len()
            )));
        }
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            return Err(Error::invalid(format!(
                "a time to live takes {MIN_TTL:?} to {MAX_TTL:?}, not {ttl:?}"
            )));
        }
        self.store.set(&key, value, truncate_to_millis(ttl)).await
    }

    /// Removes what is under `key`, if anything is.
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
                "a key takes 1 to {MAX_KEY_BYTES} bytes, this one has {}",
                key.len()
            )));
        }
        Ok([&self.front, key].concat())
    }
}
