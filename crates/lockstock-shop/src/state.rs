//! The state that all handlers share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use axum::extract::FromRef;
use lockstock::Store;
use lockstock_http::{IdempotencyLayer, LockLayer};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::drf::body::BodyLimits;
use crate::forwarding::Forwarding;
use crate::health::{Condition, Health, report_store_error};
use crate::live::Live;
use crate::prometheus::Metrics;
use crate::replicas::Replicas;
use crate::settings::Settings;
use crate::storage::{Order, OrderOutcome, Storage, StorageError};

/// The state of the server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AppState(Arc<AppStateInner>);

pub(crate) struct AppStateInner {
    pub(crate) storage: Arc<dyn Storage>,
    /// The store of the locks.
    pub(crate) store: Store,
    pub(crate) backends: Backends,
    pub(crate) live: Live,
    pub(crate) update_lock: LockLayer,
    pub(crate) idempotency: IdempotencyLayer,
    pub(crate) settings: Settings,
    pub(crate) forwarding: Arc<Forwarding>,
    /// `None` if the operator lists no other servers.
    pub(crate) replicas: Option<Replicas>,
    pub(crate) metrics: Metrics,
    /// Set when the shutdown begins: requests are still served, but `/readyz` fails.
    pub(crate) draining: AtomicBool,
    /// Number of API requests in progress.
    pub(crate) in_flight: AtomicUsize,
}

/// How long a check of a backend may take. A load balancer has a short timeout of its own.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a check is valid: probes may ask each second, from several places.
const CHECK_VALIDITY: Duration = Duration::from_millis(500);
/// How often the backends are checked without a probe: while both are up, so that the metrics
/// are true, and while one is not, so that its return is noticed.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The checks of the database and of the store of the locks: whether a write would succeed now.
pub(crate) struct Backends {
    storage: Arc<dyn Storage>,
    store: Store,
    pub(crate) store_health: Arc<Health>,
    /// The end of the last check. Locked during a check: concurrent callers share it.
    checked_at: Mutex<Option<Instant>>,
}

impl Backends {
    pub(crate) fn new(storage: Arc<dyn Storage>, store: Store, store_health: Arc<Health>) -> Self {
        Self {
            storage,
            store,
            store_health,
            checked_at: Mutex::new(None),
        }
    }

    pub(crate) fn database_health(&self) -> &Arc<Health> {
        self.storage.health()
    }

    /// Checks both backends, unless that was done a moment ago.
    pub(crate) async fn check(&self) {
        let mut checked_at = self.checked_at.lock().await;
        if checked_at.is_some_and(|at| at.elapsed() < CHECK_VALIDITY) {
            return;
        }
        tokio::join!(self.storage.check(CHECK_TIMEOUT), self.check_store());
        *checked_at = Some(Instant::now());
    }

    /// Checks both backends until it is dropped.
    pub(crate) async fn watch(&self) {
        loop {
            self.check().await;
            let (database, store) = (self.database_health(), &self.store_health);
            if database.is_up() && store.is_up() {
                tokio::select! {
                    () = sleep(CHECK_INTERVAL) => {}
                    () = database.failed() => {}
                    () = store.failed() => {}
                }
            } else {
                sleep(RETRY_INTERVAL).await;
            }
        }
    }

    async fn check_store(&self) {
        match timeout(CHECK_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => self.store_health.recovered(),
            Ok(Err(error)) => report_store_error(&self.store_health, &error),
            Err(_) => {
                let reason = format!("no reply within {CHECK_TIMEOUT:?}");
                self.store_health.report(Condition::Down, reason);
            }
        }
    }
}

impl AppState {
    pub(crate) fn new(inner: AppStateInner) -> Self {
        Self(Arc::new(inner))
    }
}

impl AppStateInner {
    /// Submits an order, and reports a change of its product to the live board.
    pub(crate) async fn submit_order(&self, order: Order) -> Result<OrderOutcome, StorageError> {
        let product = order.product;
        let outcome = self.storage.submit_order(order).await?;
        if outcome.has_effect() {
            self.live.product_changed(product);
        }
        Ok(outcome)
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
