//! Copies of values by their keys in the store, for bindings to other languages, whose values and
//! keys have formats of their own.

use std::sync::Arc;

use bytes::Bytes;
use lockstock_fork::PerProcess;

use super::Store;
use crate::cache::NearCache;
use crate::error::Result;
use crate::store::near::NearTable;
use crate::store::values::Get;

/// Copies of values in the memory of this process, from [`Store::near_copies`]. A child of `fork`
/// begins without copies.
pub struct NearCopies {
    store: Store,
    settings: NearCache,
    opened: PerProcess<Opened>,
}

struct Opened {
    store: crate::Store,
    /// `None`: the values are in the memory of this process anyway.
    table: Option<Arc<NearTable>>,
}

impl Store {
    /// Returns copies of values, by their keys in the store: as those of
    /// [`Cache::near`](super::Cache::near), without keys and formats of a cache. Every command of
    /// this store but `GET` drops the copy under its first key, `FLUSHDB` all copies.
    pub fn near_copies(&self, settings: NearCache) -> NearCopies {
        NearCopies {
            store: self.clone(),
            settings,
            opened: PerProcess::new(),
        }
    }
}

impl NearCopies {
    /// Returns the copy of the value under `key`, `Some(None)` if it is known that there is no
    /// value. `None`: it has to be read. Needs no runtime.
    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let table = self.opened.get()?.table.as_ref()?;
        let copy = table.get(key)?;
        if copy.is_some() {
            table.count_hit();
        }
        Some(copy)
    }

    /// Returns a task for the [runtime](Store::runtime) that reads the value under `key`, and
    /// copies it.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the runtime cannot be started. The task
    /// fails as a call of [`Cache::get`](crate::Cache::get).
    pub fn read(
        &self,
        key: Vec<u8>,
    ) -> Result<impl Future<Output = Result<Option<Bytes>>> + Send + use<>> {
        let opened = self.opened.get_or_try_init(|| {
            let store = self.store.asynchronous()?;
            let table = store.open_near(&self.settings);
            Ok::<_, crate::Error>(Opened { store, table })
        })?;
        let (store, table) = (opened.store.clone(), opened.table.clone());
        Ok(async move {
            match table {
                Some(table) => store.read_near(&table, key).await,
                None => store.value(&Get { key }).await,
            }
        })
    }
}
