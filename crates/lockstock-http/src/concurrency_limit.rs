//! At most so many requests at a time for each key, over all processes.
//!
//! Guarantees, while the store keeps its memory and its clock: no more than N handlers of one
//! key work at a time; the permit is renewed while a handler works, up to a cap, so that one
//! which hangs does not hold for ever; what has begun is finished though the client is gone,
//! and the permit is given back however it ends.
//!
//! A handler that loses its permit, because the cap is reached or the store was not there to
//! renew it, is stopped where it next waits, and the answer is 409. The permit is held until the
//! handler has answered; a body that is streamed after that is not counted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use lockstock::{Acquired, MAX_LEASE, MIN_LEASE, Store};
use tower_layer::Layer;
use tower_service::Service;
use tracing::warn;

use crate::detached::{Cancellation, DetachedTasks};
use crate::key::Key;
use crate::middleware::{Handle, Middleware};
use crate::rejection::{Rejection, RejectionHandler};

/// How soon the permit of a process that died is free again, unless `lease` says otherwise.
const LEASE: Duration = Duration::from_secs(10);
/// How long a handler may take, unless `auto_renew` says otherwise.
const MOST: Duration = Duration::from_secs(600);

/// A layer: at most so many requests at a time for each key, over all processes that use the
/// store.
///
/// Whoever finds no permit hears 429 with `Retry-After`. The handler runs on a task of its own,
/// so it finishes though the client is gone, and however it ends the permit is given back. While
/// it works the permit is renewed, [up to a cap](Self::auto_renew); then it is stopped where it
/// next waits, and the answer is 409. When the store is unavailable the answer is 503.
///
/// ```
/// use axum::{Router, routing::post};
/// use lockstock::Store;
/// use lockstock_http::{ConcurrencyLimitLayer, Key};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Store::memory();
/// // Two imports at a time, whatever they import and wherever they run.
/// let two = ConcurrencyLimitLayer::new(&store, Key::from_fn(|_| Some("imports".to_owned())), 2);
///
/// let app: Router = Router::new().route("/imports/", post(async || "done")).layer(two);
/// # let _ = app;
/// # }
/// ```
pub struct ConcurrencyLimitLayer<B> {
    store: Store,
    key: Key,
    permits: u32,
    lease: Duration,
    most: Duration,
    wait: Duration,
    fail_open: bool,
    on_rejection: RejectionHandler<B>,
    work: DetachedTasks,
}

impl<B> ConcurrencyLimitLayer<B> {
    /// At most `permits` requests with one key at a time. Everybody who uses the key should
    /// name the same number. Keys of locks and of permits have nothing to do with each other.
    ///
    /// # Panics
    ///
    /// If there is no permit.
    pub fn new(store: &Store, key: Key, permits: u32) -> Self {
        assert!(permits > 0, "without a permit nobody is ever let in");
        Self {
            store: store.clone(),
            key,
            permits,
            lease: LEASE,
            most: MOST,
            wait: Duration::ZERO,
            fail_open: false,
            on_rejection: RejectionHandler::default(),
            work: DetachedTasks::default(),
        }
    }

    /// How soon a permit is free again whose process has died: [`MIN_LEASE`] to [`MAX_LEASE`],
    /// 10 s by default. It is renewed each time a third of it has passed.
    ///
    /// # Panics
    ///
    /// If it is out of range.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        assert!(
            (MIN_LEASE..=MAX_LEASE).contains(&lease),
            "a lease takes {MIN_LEASE:?} to {MAX_LEASE:?}, not {lease:?}"
        );
        Self { lease, ..self }
    }

    /// For how long a permit is renewed, in all: how long a handler may take. 10 minutes by
    /// default.
    #[must_use]
    pub fn auto_renew(self, most: Duration) -> Self {
        Self { most, ..self }
    }

    /// How long a request waits for a permit. Zero, the default, is one try.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// When the store is unavailable, lets requests through uncounted. By default they are
    /// refused with 503.
    #[must_use]
    pub fn fail_open(self) -> Self {
        let fail_open = true;
        Self { fail_open, ..self }
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

    /// Waits until every handler that has begun is finished and its permit given back: for a
    /// clone of the layer, after the server has stopped to accept requests.
    pub async fn drain(&self) {
        self.work.drain().await;
        self.store.drain().await;
    }

    async fn acquire(&self, name: &str) -> lockstock::Result<Acquired> {
        let semaphore = self.store.semaphore(name, self.permits).lease(self.lease)?;
        semaphore.acquire_within(self.wait).await
    }
}

impl<B> Clone for ConcurrencyLimitLayer<B> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            key: self.key.clone(),
            on_rejection: self.on_rejection.clone(),
            work: self.work.clone(),
            ..*self
        }
    }
}

impl<B> fmt::Debug for ConcurrencyLimitLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimitLayer")
            .field("store", &self.store)
            .field("permits", &self.permits)
            .field("lease", &self.lease)
            .field("most", &self.most)
            .field("wait", &self.wait)
            .field("fail_open", &self.fail_open)
            .field("on_rejection", &self.on_rejection)
            .finish_non_exhaustive()
    }
}

impl<S, B> Layer<S> for ConcurrencyLimitLayer<B> {
    type Service = Middleware<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Middleware::new(inner, self)
    }
}

impl<S, ReqBody, ResBody> Handle<S, ReqBody> for ConcurrencyLimitLayer<ResBody>
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
        let rules = self;
        let (parts, body) = request.into_parts();
        let name = rules.key.name(&parts);
        let mut request = Request::from_parts(parts, body);
        let stop = Cancellation::of(&request);
        let Some(name) = name else {
            return inner.call(request).await;
        };
        let permit = match rules.acquire(&name).await {
            Ok(Acquired::Held(permit)) => permit,
            Ok(Acquired::Busy(busy)) => {
                return Ok(rules.on_rejection.answer(Rejection::Full {
                    retry_after: busy.retry_after().unwrap_or(rules.lease),
                    permits: rules.permits,
                }));
            }
            Err(why) if rules.fail_open => {
                warn!(semaphore = name, %why, "carried out without a permit");
                let work = async move { inner.call(request).await };
                return rules.work.run(stop, work).await;
            }
            Err(why) => {
                warn!(semaphore = name, %why, "no permit could be had");
                let error = why.into();
                return Ok(rules
                    .on_rejection
                    .answer(Rejection::StoreUnavailable { error }));
            }
        };
        let inside = stop.inside(&mut request);
        let work = {
            let rules = rules.clone();
            async move {
                let permit = permit.auto_renew(rules.most);
                let Ok(answer) = permit.run(inner.call(request)).await else {
                    inside.now();
                    let lease = rules.most;
                    return Ok(rules.on_rejection.answer(Rejection::LockLost { lease }));
                };
                // Before the answer: who has it may come again at once.
                if let Err(why) = permit.release().await {
                    warn!(semaphore = name, %why, "the permit was not given back");
                }
                answer
            }
        };
        rules.work.run(stop, work).await
    }
}
