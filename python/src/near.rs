//! Copies of values in the memory of this process, shared by the caches of all threads.

use std::time::Duration;

use lockstock::blocking::NearCopies;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::store::Store;

/// Copies of values of a store.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct NearCache {
    pub(crate) copies: NearCopies,
}

#[pymethods]
impl NearCache {
    #[new]
    #[pyo3(signature = (store, max_bytes, ttl=None))]
    fn new(store: &Bound<'_, Store>, max_bytes: usize, ttl: Option<f64>) -> PyResult<Self> {
        let mut settings = lockstock::NearCache::new(max_bytes);
        if let Some(ttl) = ttl {
            let ttl = Duration::try_from_secs_f64(ttl)
                .map_err(|_| PyValueError::new_err("the ttl must be a number of seconds"))?;
            settings = settings.ttl(ttl);
        }
        Ok(Self {
            copies: store.get().inner.near_copies(settings),
        })
    }
}
