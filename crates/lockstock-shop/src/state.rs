//! What every handler sees.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use lockstock::Store;
use lockstock_http::LockLayer;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::http::idempotency::Keys;
use crate::settings::Settings;
use crate::storage::Storage;

/// What every handler sees. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shop(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) store: Store,
    /// Whose turn it is to change a product.
    pub(crate) turns: LockLayer,
    pub(crate) keys: Keys,
    pub(crate) settings: Settings,
    pub(crate) metrics: PrometheusHandle,
    /// Told to stop: still serving, but not to be sent more.
    pub(crate) draining: AtomicBool,
    /// API requests under way.
    pub(crate) in_flight: AtomicUsize,
}

impl Shop {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Shop {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
