//! The state that all handlers share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use axum::extract::FromRef;
use lockstock::Store;
use lockstock_http::{IdempotencyLayer, LockLayer};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::drf::body::BodyLimits;
use crate::forwarding::Forwarding;
use crate::settings::Settings;
use crate::storage::Storage;

/// The state of the server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AppState(Arc<AppStateInner>);

pub(crate) struct AppStateInner {
    pub(crate) storage: Arc<dyn Storage>,
    /// The store of the locks.
    pub(crate) store: Store,
    pub(crate) update_lock: LockLayer,
    pub(crate) idempotency: IdempotencyLayers,
    pub(crate) settings: Settings,
    pub(crate) forwarding: Arc<Forwarding>,
    pub(crate) metrics: PrometheusHandle,
    /// Set when the shutdown begins: requests are still served, but `/readyz` fails.
    pub(crate) draining: AtomicBool,
    /// Number of API requests in progress.
    pub(crate) in_flight: AtomicUsize,
}

/// The idempotency layers of the two kinds of requests.
pub(crate) struct IdempotencyLayers {
    /// Needs only the database.
    pub(crate) orders: IdempotencyLayer,
    /// Also claims the key in the store of the locks, which an update needs in any case.
    pub(crate) updates: IdempotencyLayer,
}

impl IdempotencyLayers {
    /// Waits until every request that has begun is finished.
    pub(crate) async fn drain(&self) {
        self.orders.drain().await;
        self.updates.drain().await;
    }
}

impl AppState {
    pub(crate) fn new(inner: AppStateInner) -> Self {
        Self(Arc::new(inner))
    }
}

impl Deref for AppState {
    type Target = AppStateInner;

    fn deref(&self) -> &AppStateInner {
        &self.0
    }
}

impl FromRef<AppState> for BodyLimits {
    fn from_ref(state: &AppState) -> Self {
        state.settings.body
    }
}

impl FromRef<AppState> for Arc<Forwarding> {
    fn from_ref(state: &AppState) -> Self {
        state.forwarding.clone()
    }
}
