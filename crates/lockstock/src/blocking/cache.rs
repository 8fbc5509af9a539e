//! Typed values with a time to live, for synchronous callers.

use std::fmt;
use std::marker::PhantomData;

use super::Store;
use crate::cache::{Codec, Entries, Integer, Json, Ttl};
use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::store::values::{
    Delete, Exists, Get, Increment, Persist, Set, SetCondition, Touch, TtlOf,
};

/// Values of type `T` under the keys of one namespace, from [`Store::cache`]. Cheap to clone. It
/// shares its entries with the asynchronous [`Cache`](crate::Cache) of the same namespace.
pub struct Cache<T, C = Json> {
    store: Store,
    entries: Entries<C>,
    values: PhantomData<fn(T) -> T>,
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
        let get = Get {
            key: self.entries.key(key.as_ref())?,
        };
        let bytes = self.store.value(&get)?;
        bytes.map(|bytes| self.entries.decode(&bytes)).transpose()
    }

    /// Writes `value` under `key`, and replaces an earlier value.
    ///
    /// # Errors
    ///
    /// As [`Cache::set`](crate::Cache::set).
    pub fn set(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<()> {
        self.write(key.as_ref(), value, ttl.into(), SetCondition::Always)
            .map(drop)
    }

    /// Writes `value` under `key` if there is no value. Returns whether it was written.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn add(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<bool> {
        self.write(key.as_ref(), value, ttl.into(), SetCondition::IfMissing)
    }

    /// Writes `value` under `key` if there is a value. Returns whether it was written.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn replace(&self, key: impl AsRef<[u8]>, value: &T, ttl: impl Into<Ttl>) -> Result<bool> {
        self.write(key.as_ref(), value, ttl.into(), SetCondition::IfPresent)
    }

    fn write(&self, key: &[u8], value: &T, ttl: Ttl, condition: SetCondition) -> Result<bool> {
        self.store.value(&Set {
            key: self.entries.key(key)?,
            value: self.entries.encode(value)?,
            ttl: self.entries.ttl(ttl)?,
            condition,
        })
    }
}

impl<T, C> Cache<T, C> {
    /// Removes the value under `key`. Returns whether there was one: as
    /// [`Cache::delete`](crate::Cache::delete).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let keys = vec![self.entries.key(key.as_ref())?];
        Ok(self.store.value(&Delete { keys })? > 0)
    }

    /// Returns whether there is a value under `key`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = self.entries.key(key.as_ref())?;
        self.store.value(&Exists { key })
    }

    /// Sets the time to live of the value under `key`, from now. Returns whether there is one.
    ///
    /// # Errors
    ///
    /// As [`Cache::touch`](crate::Cache::touch).
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool> {
        let key = self.entries.key(key.as_ref())?;
        match self.entries.ttl(ttl.into())? {
            Ttl::After(ttl) => self.store.value(&Touch { key, ttl }),
            Ttl::Never => {
                let had_ttl = self.store.value(&Persist { key: key.clone() })?;
                Ok(had_ttl || self.store.value(&Exists { key })?)
            }
        }
    }

    /// Returns the remaining time to live of the value under `key`, `None` if there is no value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        let key = self.entries.key(key.as_ref())?;
        self.store.value(&TtlOf { key })
    }

    /// Lets the value under `key` live without end. Returns whether there is a value that would have
    /// expired.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = self.entries.key(key.as_ref())?;
        self.store.value(&Persist { key })
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
        let sum = self.store.value(&Increment {
            key: self.entries.key(key.as_ref())?,
            by,
            if_missing: Some(self.entries.ttl(ttl.into())?),
        })?;
        Ok(sum.unwrap_or_default())
    }

    /// Subtracts `by` from the value under `key`: see [`incr`](Self::incr).
    ///
    /// # Errors
    ///
    /// As [`incr`](Self::incr).
    pub fn decr(&self, key: impl AsRef<[u8]>, by: i64, ttl: impl Into<Ttl>) -> Result<i64> {
        let by = by
            .checked_neg()
            .ok_or_else(|| Error::invalid(format!("{by} cannot be subtracted from an integer")))?;
        self.incr(key, by, ttl)
    }
}

impl<T, C: Clone> Clone for Cache<T, C> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            entries: self.entries.clone(),
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
