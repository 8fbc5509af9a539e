//! What every handler sees.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use axum::body::Body;
use lockstock::Store;
use lockstock_http::Guard;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::http::idempotency::IdempotencyLayers;
use crate::settings::Settings;
use crate::storage::Storage;

/// What every handler sees. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AppState(Arc<AppStateInner>);

pub(crate) struct AppStateInner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) store: Store,
    /// Whose turn it is to change a product.
    pub(crate) update_lock: Guard<Body>,
    pub(crate) idempotency: IdempotencyLayers,
    pub(crate) settings: Settings,
    pub(crate) metrics: PrometheusHandle,
    /// Told to stop: still serving, but not to be sent more.
    pub(crate) draining: AtomicBool,
    /// API requests under way.
    pub(crate) in_flight: AtomicUsize,
}

impl AppState {
    pub(crate) fn new(parts: AppStateInner) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for AppState {
    type Target = AppStateInner;

    fn deref(&self) -> &AppStateInner {
        &self.0
    }
}
