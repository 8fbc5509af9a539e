//! Limit of concurrent requests with the same key.
//!
//! Guarantees, as long as the store keeps its data and its clock: at most N handlers of one key
//! run at a time over all processes that use the store; a permit is renewed while its handler
//! runs, up to a maximum, so that a handler that hangs does not keep it; a handler that has
//! started runs to its end even if the client disconnects, and the permit is released however the
//! handler ends.
//!
//! If the permit is lost, because the maximum is reached or the store was not available for a
//! renewal, the handler is stopped at its next await and the response is 409. The permit is held
//! until the handler returns its response, not while a response body is streamed.

use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Response};
use lockstock::{Acquired, Busy, Guard, Store};

use crate::admission::{Admission, Admit, checked_lease};
use crate::key::Key;
use crate::language::Language;
use crate::middleware::impl_layer;
use crate::rejection::{Rejection, RejectionHandler};

/// Default time after which the permit of a dead process is free again.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
/// Default limit of the time that a handler may take.
const DEFAULT_MAX_DURATION: Duration = Duration::from_secs(600);

/// Limits how many requests with the same key run at a time, over all processes that use the
/// store.
///
/// A request that gets no permit is rejected with 429 and `Retry-After`. The handler finishes even if
/// the client disconnects, and the permit is released however it ends. While the handler runs, the permit is renewed [up to a maximum](Self::auto_renew); then
/// the handler is stopped at its next await and the response is 409. If the store is unavailable,
/// the response is 503.
///
/// ```
/// use axum::{Router, routing::post};
/// use lockstock::Store;
/// use lockstock_http::{ConcurrencyLimitLayer, Key};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Store::memory();
/// // Two imports at a time over all processes.
/// let two = ConcurrencyLimitLayer::new(&store, Key::from_fn(|_| Some("imports".to_owned())), 2);
///
/// let app: Router = Router::new().route("/imports/", post(async || "done")).layer(two);
/// # let _ = app;
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ConcurrencyLimitLayer {
    admission: Admission,
    permits: u32,
    max_duration: Duration,
}

impl ConcurrencyLimitLayer {
    /// Allows at most `permits` requests with one key at a time. All layers that share a key
    /// should use the same number. A lock and a semaphore with the same name are independent.
    ///
    /// # Panics
    ///
    /// If `permits` is zero.
    #[track_caller]
    pub fn new(store: &Store, key: Key, permits: u32) -> Self {
        assert!(permits > 0, "a concurrency limit needs at least one permit");
        Self {
            admission: Admission::new(store, key, DEFAULT_LEASE),
            permits,
            max_duration: DEFAULT_MAX_DURATION,
        }
    }

    /// Sets the time after which the permit of a dead process is free again, from
    /// [`MIN_LEASE`](lockstock::MIN_LEASE) to [`MAX_LEASE`](lockstock::MAX_LEASE). 10 s by default.
    /// A permit is renewed whenever a third of its lease has passed.
    ///
    /// # Panics
    ///
    /// If the lease is out of range.
    #[must_use]
    #[track_caller]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.admission.lease = checked_lease(lease);
        self
    }

    /// Sets for how long in total a permit is renewed, which limits how long a handler may take.
    /// 10 minutes by default.
    #[must_use]
    pub fn auto_renew(mut self, max_duration: Duration) -> Self {
        self.max_duration = max_duration;
        self
    }

    /// Sets how long a request waits for a permit. With zero, the default, it tries once.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.admission.wait = wait;
        self
    }

    /// Sets `Retry-After` of rejected requests. The default is 1 s, or what remains of the lease if
    /// that is less. Use about the time that a handler takes.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.admission.max_retry_after = retry_after;
        self
    }

    /// If the store is unavailable, processes requests without a limit. By default they are
    /// rejected with 503.
    #[must_use]
    pub fn fail_open(mut self) -> Self {
        self.admission.fail_open = true;
        self
    }

    /// Sets the response to rejected requests, in the language that the client prefers. The layer
    /// adds `Retry-After` if the response has none.
    #[must_use]
    pub fn on_rejection(
        mut self,
        respond: impl Fn(Rejection, Language) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.admission.on_rejection = RejectionHandler::new(respond);
        self
    }

    /// Waits until every running handler has finished and its permit is released. Call it on a
    /// clone of the layer, after the server has stopped accepting requests.
    pub async fn drain(&self) {
        self.admission.drain().await;
    }
}

impl_layer!(ConcurrencyLimitLayer);

impl Admit for ConcurrencyLimitLayer {
    const KIND: &str = "semaphore";

    fn admission(&self) -> &Admission {
        &self.admission
    }

    async fn acquire(&self, name: &str) -> lockstock::Result<Acquired> {
        let Admission {
            store, lease, wait, ..
        } = &self.admission;
        let semaphore = store.semaphore(name, self.permits).lease(*lease)?;
        semaphore.acquire_within(*wait).await
    }

    fn rejection(&self, busy: &Busy) -> Rejection {
        Rejection::Full {
            retry_after: self.admission.retry_after(busy),
            permits: self.permits,
        }
    }

    fn prepare(&self, permit: Guard, _: &mut Extensions) -> Guard {
        permit.auto_renew(self.max_duration)
    }

    fn max_duration(&self) -> Duration {
        self.max_duration
    }
}
