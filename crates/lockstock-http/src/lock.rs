//! Mutual exclusion of requests with the same key, optionally with a cool-down after a success.
//!
//! Guarantees, as long as the store keeps its data and its clock: handlers of one key run one at a
//! time over all processes that use the store; with [`LockLayer::cooldown`], no handler runs
//! between a success and the end of its lease; a request that cannot get the lock is rejected as
//! soon as that is certain; a handler that has started runs to its end even if the client
//! disconnects, and the lock is released however the handler ends.
//!
//! Not guaranteed, by this or any other lock: that a handler which was paused for longer than the
//! lease does not write afterwards. It is stopped at its next await. Pass [`HeldLock::fence`] to
//! the database and compare it there: `UPDATE … WHERE fence < $fence`.
//!
//! The lock is held until the handler returns its response, not while a response body is
//! streamed. It is acquired before the request body is read: an outer layer must limit how long a
//! slow client may take.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{Extensions, Response, StatusCode};
use lockstock::{Acquired, Busy, Guard, Store};
use tokio::time::Instant;

use crate::admission::{Admission, Admit};
use crate::key::Key;
use crate::language::Language;
use crate::middleware::impl_layer;
use crate::observer::{LockObserver, Observer};
use crate::opaque::{Opaque, ResponsePredicate};
use crate::rejection::{Rejection, RejectionHandler};
use crate::success::has_effect;

/// Limits requests with the same key to one at a time ([`exclusive`](Self::exclusive)) or to one
/// success per lease ([`cooldown`](Self::cooldown)), over all processes that use the store.
///
/// A request that cannot get the lock is rejected with 429 and `Retry-After` as soon as that is
/// certain. The handler finds its [`HeldLock`] in the extensions of the request. It finishes even if
/// the client disconnects, and the lock is released however it ends.
/// If the lock is lost, the handler is stopped at its next await and the response is 409. If the
/// store is unavailable, the response is 503.
///
/// The lock is acquired before the request body is read: an outer layer must limit how long a slow
/// client may take. It is held until the handler returns its response, not while a response body
/// is streamed. The request to release it is sent before the response is returned. With a
/// [`wait`](Self::wait) the response does not wait for the reply of the store: the next request of this
/// process follows it on the same connection, and one of another process waits for the moment that it
/// takes.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, routing::post};
/// use lockstock::Store;
/// use lockstock_http::{HeldLock, Key, LockLayer};
/// # use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Store::memory();
/// // The first POST makes the report. Others are rejected for a minute.
/// let once = LockLayer::cooldown(&store, Key::matched_path(), Duration::from_secs(60));
///
/// let app = Router::new()
///     .route("/reports/{name}/", post(async |held: HeldLock| {
///         format!("made under fence {}", held.fence)
///     }))
///     .layer(once.clone());
///
/// # let post = || http::Request::post("/reports/weekly/").body(axum::body::Body::empty()).unwrap();
/// assert_eq!(app.clone().oneshot(post()).await.unwrap().status(), 200);
/// let second = app.oneshot(post()).await.unwrap();
/// assert_eq!(second.status(), 429);
/// assert_eq!(second.headers()["retry-after"], "60");
/// once.drain().await; // before the process exits
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LockLayer {
    admission: Admission,
    after_success: AfterSuccess,
    success: ResponsePredicate,
    finish_when_lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterSuccess {
    Release,
    Keep,
}

/// The lock of the handler: an extension of the request under a [`LockLayer`], and an extractor of
/// axum, which fails with the name of the layer if there is no lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLock {
    /// Number of this grant, higher than the fence of every earlier grant of the lock. A resource
    /// that remembers the highest fence can reject writes with a lower one.
    pub fence: u64,
    /// When the lock is lost.
    pub deadline: Instant,
}

/// Marks a response whose effect is unknown, such as a `COMMIT` whose reply was lost: an extension
/// of the response. [`LockLayer::cooldown`] then keeps the lock as after a success, because
/// another request could succeed a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutcomeUnknown;

/// Marks a response whose request changed nothing: an extension of the response.
/// [`LockLayer::cooldown`] then releases the lock, whatever the status is, because there is no
/// effect that the cool-down protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NothingWritten;

impl LockLayer {
    /// Allows one request at a time. The lock is released when the handler has returned its
    /// response.
    ///
    /// `lease` limits how long the handler may take, from [`MIN_LEASE`](lockstock::MIN_LEASE) to
    /// [`MAX_LEASE`](lockstock::MAX_LEASE). If the process dies, the lock is free after the lease.
    ///
    /// # Panics
    ///
    /// If the lease is out of range.
    #[track_caller]
    pub fn exclusive(store: &Store, key: Key, lease: Duration) -> Self {
        Self::new(store, key, lease, AfterSuccess::Release)
    }

    /// Allows one success per lease. After a success the lock is kept to the end of the lease;
    /// after any other response it is released. See [`success`](Self::success),
    /// [`OutcomeUnknown`] and [`NothingWritten`].
    ///
    /// # Panics
    ///
    /// If the lease is out of range, as in [`exclusive`](Self::exclusive).
    #[track_caller]
    pub fn cooldown(store: &Store, key: Key, lease: Duration) -> Self {
        Self::new(store, key, lease, AfterSuccess::Keep)
    }

    #[track_caller]
    fn new(store: &Store, key: Key, lease: Duration, after_success: AfterSuccess) -> Self {
        Self {
            admission: Admission::new(store, key, lease),
            after_success,
            success: Opaque(Arc::new(has_effect)),
            finish_when_lost: false,
        }
    }

    /// Sets how long a request waits for the lock. With zero, the default, it tries once.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.admission.wait = wait;
        self
    }

    /// Sets `Retry-After` of requests that are rejected while a handler holds the lock. The default
    /// is 1 s, or what remains of the lease if that is less. Use about the time that a handler
    /// takes. While the lock is kept after a success, `Retry-After` is what remains of the lease.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.admission.max_retry_after = retry_after;
        self
    }

    /// Sets which responses count as a success. By default those with a 2xx status, and 303 See
    /// Other, which redirects from a POST to its result.
    #[must_use]
    pub fn success(mut self, predicate: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.success = Opaque(Arc::new(predicate));
        self
    }

    /// Counts only responses with one of these statuses as a success.
    #[must_use]
    pub fn success_status(self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        let statuses: Vec<_> = statuses.into_iter().collect();
        self.success(move |response| statuses.contains(&response.status))
    }

    /// If the store is unavailable, processes requests without a lock and without [`HeldLock`]. By
    /// default they are rejected with 503.
    #[must_use]
    pub fn fail_open(mut self) -> Self {
        self.admission.fail_open = true;
        self
    }

    /// If the lock is lost, lets the handler finish and returns its response. For handlers that
    /// pass the [fence](HeldLock::fence) to the database, which then rejects a late write. By
    /// default the handler is stopped and the response is 409.
    #[must_use]
    pub fn finish_when_lost(mut self) -> Self {
        self.finish_when_lost = true;
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

    /// Sets an observer, which follows each request from before it acquires the lock until the lock is
    /// released or kept.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn LockObserver>) -> Self {
        self.admission.observer = Observer::new(observer);
        self
    }

    /// Waits until every running handler has finished and its lock is released. Call it on a
    /// clone of the layer, after the server has stopped accepting requests.
    pub async fn drain(&self) {
        self.admission.drain().await;
    }
}

impl_layer!(LockLayer);

impl Admit for LockLayer {
    const KIND: &str = "lock";

    fn admission(&self) -> &Admission {
        &self.admission
    }

    async fn acquire(&self, name: &str) -> lockstock::Result<Acquired> {
        let Admission {
            store, lease, wait, ..
        } = &self.admission;
        store.lock(name).lease(*lease)?.acquire_within(*wait).await
    }

    fn rejection(&self, busy: &Busy) -> Rejection {
        Rejection::Busy {
            retry_after: self.admission.retry_after(busy),
            kept: busy.is_kept(),
            lease: self.admission.lease,
        }
    }

    fn prepare(&self, guard: Guard, request: &mut Extensions) -> Guard {
        request.insert(HeldLock {
            fence: guard.fence(),
            deadline: guard.deadline(),
        });
        guard
    }

    fn max_duration(&self) -> Duration {
        self.admission.lease
    }

    fn stops_when_lost(&self) -> bool {
        !self.finish_when_lost
    }

    fn is_kept_after(&self, response: &Parts) -> bool {
        let extensions = &response.extensions;
        let keeps = || {
            (self.success)(response) && extensions.get::<NothingWritten>().is_none()
                || extensions.get::<OutcomeUnknown>().is_some()
        };
        self.after_success == AfterSuccess::Keep && keeps()
    }
}
