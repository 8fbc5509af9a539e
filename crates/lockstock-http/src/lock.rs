//! One request at a time for each key, or one in so long.
//!
//! Guarantees, while the store keeps its memory and its clock: of the requests with one key one
//! is carried out at a time, over all processes that use the store, and with [`LockLayer::cooldown`]
//! none after a success until the lease ends; whoever cannot have the lock is told as soon as
//! that is certain; what has begun is finished though the client is gone, and the lock is given
//! back however it ends.
//!
//! Not guaranteed, by this or any other lock: that a handler which was paused for longer than
//! the lease writes nothing afterwards. It is stopped where it next waits. Hand
//! [`HeldLock::fence`] to the database and let it compare: `UPDATE … WHERE fence < $fence`.
//!
//! The lock is held until the handler has answered; a body that is streamed after that is not
//! under it. It is taken before the request's body is read, so let a layer outside of this one
//! bound how long a slow client may take to send it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use lockstock::{Acquired, MAX_LEASE, MIN_LEASE, Store};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::warn;

use crate::detached::{Cancellation, DetachedTasks};
use crate::key::Key;
use crate::middleware::{Handle, Middleware};
use crate::rejection::{Rejection, RejectionHandler};

type Success<B> = Arc<dyn Fn(&Response<B>) -> bool + Send + Sync>;

/// A layer: one request at a time for each key ([`exclusive`](Self::exclusive)), or one success
/// in so long ([`keep`](Self::keep)), over all processes that use the store.
///
/// Whoever cannot have the lock hears 429 with `Retry-After`, as soon as that is certain. The
/// handler finds its [`HeldLock`] among the request's extensions. It runs on a task of its own, so
/// it finishes though the client is gone, and however it ends the lock is given back. When it
/// loses the lock it is stopped where it next waits, and the answer is 409. When the store is
/// unavailable the answer is 503.
///
/// The lock is taken before the request's body is read: let a layer outside of this one bound
/// how long a slow client may take. It is held until the handler has answered; a body that is
/// streamed after that is not under it.
///
/// ```
/// use std::time::Duration;
/// use axum::{Extension, Router, routing::post};
/// use lockstock::Store;
/// use lockstock_http::{LockLayer, HeldLock, Key};
/// # use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Store::memory();
/// // The first POST makes the report; for a minute after it there is no second.
/// let once = LockLayer::cooldown(&store, Key::path("/reports/{name}/"), Duration::from_secs(60));
///
/// let app = Router::new()
///     .route("/reports/{name}/", post(async |Extension(held): Extension<HeldLock>| {
///         format!("made under fence {}", held.fence)
///     }))
///     .layer(once.clone());
///
/// # let post = || http::Request::post("/reports/weekly/").body(axum::body::Body::empty()).unwrap();
/// assert_eq!(app.clone().oneshot(post()).await.unwrap().status(), 200);
/// let again = app.oneshot(post()).await.unwrap();
/// assert_eq!(again.status(), 429);
/// assert_eq!(again.headers()["retry-after"], "60");
/// once.drain().await; // before the process exits
/// # }
/// ```
pub struct LockLayer<B> {
    store: Store,
    key: Key,
    lease: Duration,
    wait: Duration,
    after: After,
    success: Success<B>,
    fail_open: bool,
    finish_when_lost: bool,
    on_rejection: RejectionHandler<B>,
    work: DetachedTasks,
}

/// What becomes of the lock after a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Release,
    Keep,
}

/// What a handler under a [`LockLayer`] knows of its lock: an extension of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLock {
    /// The number of this grant: higher than that of any earlier one of the key. Let whatever
    /// is written refuse one that is not higher than the last it saw.
    pub fence: u64,
    /// When the lock is lost.
    pub deadline: Instant,
}

/// An extension of a response: whether it was written is not known, a `COMMIT` whose answer was
/// lost for one. [`LockLayer::cooldown`] then keeps the lock as after a success, since another request
/// might be the second to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutcomeUnknown;

impl<B> LockLayer<B> {
    /// One request at a time: the lock is released when the handler has answered.
    ///
    /// `lease` is how long the handler may take, [`MIN_LEASE`] to [`MAX_LEASE`]. If the process
    /// dies, others wait for so long.
    ///
    /// # Panics
    ///
    /// If the lease is out of range.
    pub fn exclusive(store: &Store, key: Key, lease: Duration) -> Self {
        Self::new(store, key, lease, After::Release)
    }

    /// One success in so long: after it the lock stays taken for the rest of the lease, after
    /// anything else it is released. See [`success`](Self::success) and [`OutcomeUnknown`].
    ///
    /// # Panics
    ///
    /// As [`exclusive`](Self::exclusive).
    pub fn cooldown(store: &Store, key: Key, lease: Duration) -> Self {
        Self::new(store, key, lease, After::Keep)
    }

    fn new(store: &Store, key: Key, lease: Duration, after: After) -> Self {
        assert!(
            (MIN_LEASE..=MAX_LEASE).contains(&lease),
            "a lease takes {MIN_LEASE:?} to {MAX_LEASE:?}, not {lease:?}"
        );
        Self {
            store: store.clone(),
            key,
            lease,
            wait: Duration::ZERO,
            after,
            success: Arc::new(|response| response.status().is_success()),
            fail_open: false,
            finish_when_lost: false,
            on_rejection: RejectionHandler::default(),
            work: DetachedTasks::default(),
        }
    }

    /// How long a request waits for the one before it. Zero, the default, is one try.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Which answers are a success; by default those with a status of 2xx.
    #[must_use]
    pub fn success(self, is: impl Fn(&Response<B>) -> bool + Send + Sync + 'static) -> Self {
        let success = Arc::new(is);
        Self { success, ..self }
    }

    /// The same by status: only answers with one of these.
    #[must_use]
    pub fn success_status(self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        let statuses: Vec<_> = statuses.into_iter().collect();
        self.success(move |response| statuses.contains(&response.status()))
    }

    /// When the store is unavailable, lets requests through without a lock and without
    /// [`HeldLock`]. By default they are refused with 503.
    #[must_use]
    pub fn fail_open(self) -> Self {
        let fail_open = true;
        Self { fail_open, ..self }
    }

    /// Lets a handler go on that has lost its lock, and its answer stand. For those that hand
    /// the [fence](HeldLock::fence) to the database, which then refuses the write if it is late. By
    /// default the handler is stopped and the answer is 409.
    #[must_use]
    pub fn finish_when_lost(self) -> Self {
        let finish_when_lost = true;
        Self {
            finish_when_lost,
            ..self
        }
    }

    /// How on_rejection are told. `Retry-After` is added if the response has none.
    #[must_use]
    pub fn on_rejection(
        self,
        tell: impl Fn(Rejection) -> Response<B> + Send + Sync + 'static,
    ) -> Self {
        let on_rejection = RejectionHandler::by(tell);
        Self {
            on_rejection,
            ..self
        }
    }

    /// Waits until every handler that has begun is finished and its lock given back: for a
    /// clone of the layer, after the server has stopped to accept requests.
    pub async fn drain(&self) {
        self.work.drain().await;
        self.store.drain().await;
    }

    async fn acquire(&self, name: &str) -> lockstock::Result<Acquired> {
        let lock = self.store.lock(name).lease(self.lease)?;
        lock.acquire_within(self.wait).await
    }

    /// Ends the hold. The answer does not depend on it: what is done is done, and a lock that
    /// could not be given back ends with its lease.
    async fn end(&self, guard: lockstock::Guard, keep: bool) {
        let fence = guard.fence();
        let ended = if keep {
            guard.keep().await
        } else {
            guard.release().await
        };
        if let Err(why) = ended {
            warn!(fence, %why, "the lock was not given back");
        }
    }

    fn is_kept_after<E>(&self, answer: &Result<Response<B>, E>) -> bool {
        let done = answer.as_ref().is_ok_and(|response| {
            (self.success)(response) || response.extensions().get::<OutcomeUnknown>().is_some()
        });
        done && self.after == After::Keep
    }
}

impl<B> Clone for LockLayer<B> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            key: self.key.clone(),
            success: self.success.clone(),
            on_rejection: self.on_rejection.clone(),
            work: self.work.clone(),
            ..*self
        }
    }
}

impl<B> fmt::Debug for LockLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockLayer")
            .field("store", &self.store)
            .field("lease", &self.lease)
            .field("wait", &self.wait)
            .field("after", &self.after)
            .field("fail_open", &self.fail_open)
            .field("finish_when_lost", &self.finish_when_lost)
            .field("on_rejection", &self.on_rejection)
            .finish_non_exhaustive()
    }
}

impl<S, B> Layer<S> for LockLayer<B> {
    type Service = Middleware<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Middleware::new(inner, self)
    }
}

impl<S, ReqBody, ResBody> Handle<S, ReqBody> for LockLayer<ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: From<Bytes> + Send + 'static,
{
    async fn handle(
        self: Arc<Self>,
        mut inner: S,
        request: Request<ReqBody>,
    ) -> Result<Response<ResBody>, S::Error> {
        let guard = self;
        let (parts, body) = request.into_parts();
        let name = guard.key.name(&parts);
        let mut request = Request::from_parts(parts, body);
        let stop = Cancellation::of(&request);
        let Some(name) = name else {
            return inner.call(request).await;
        };
        let held = match guard.acquire(&name).await {
            Ok(Acquired::Held(held)) => held,
            Ok(Acquired::Busy(busy)) => {
                return Ok(guard.on_rejection.answer(Rejection::Busy {
                    // A foreign holder may never end.
                    retry_after: busy.retry_after().unwrap_or(guard.lease),
                    kept: busy.is_kept(),
                    lease: guard.lease,
                }));
            }
            Err(why) if guard.fail_open => {
                warn!(lock = name, %why, "carried out without its lock");
                let work = async move { inner.call(request).await };
                return guard.work.run(stop, work).await;
            }
            Err(why) => {
                warn!(lock = name, %why, "no lock could be had");
                let error = why.into();
                return Ok(guard
                    .on_rejection
                    .answer(Rejection::StoreUnavailable { error }));
            }
        };
        request.extensions_mut().insert(HeldLock {
            fence: held.fence(),
            deadline: held.deadline(),
        });
        let inside = stop.inside(&mut request);
        let work = {
            let guard = guard.clone();
            async move {
                let handler = inner.call(request);
                let answer = if guard.finish_when_lost {
                    handler.await
                } else {
                    match held.run(handler).await {
                        Ok(answer) => answer,
                        Err(_) => {
                            inside.now();
                            let lease = guard.lease;
                            return Ok(guard.on_rejection.answer(Rejection::LockLost { lease }));
                        }
                    }
                };
                let keep = guard.is_kept_after(&answer);
                // Before the answer: who has it may come again at once.
                guard.end(held, keep).await;
                answer
            }
        };
        guard.work.run(stop, work).await
    }
}
