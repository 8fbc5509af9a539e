//! Admission of requests by a guard of the store: the common part of
//! [`LockLayer`](crate::LockLayer) and [`ConcurrencyLimitLayer`](crate::ConcurrencyLimitLayer).
//!
//! Guarantees: if the guard is not acquired, the inner service is not called, unless the layer
//! fails open; an admitted handler runs on its own task, so a disconnect of the client does not
//! cancel it; the guard is released or kept before the response is returned.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{Extensions, Request, Response};
use lockstock::{Acquired, Busy, Guard, MAX_LEASE, MIN_LEASE, Store};
use tower_service::Service;
use tracing::warn;

use crate::detached::{Cancellation, DetachedTasks};
use crate::key::Key;
use crate::middleware::Handle;
use crate::rejection::{Rejection, RejectionHandler};

/// Returns `lease`.
///
/// # Panics
///
/// If it is out of range.
#[track_caller]
pub(crate) fn checked_lease(lease: Duration) -> Duration {
    assert!(
        (MIN_LEASE..=MAX_LEASE).contains(&lease),
        "a lease must be between {MIN_LEASE:?} and {MAX_LEASE:?}, not {lease:?}"
    );
    lease
}

/// Settings and tasks of a layer that admits requests.
#[derive(Debug, Clone)]
pub struct Admission {
    pub(crate) store: Store,
    pub(crate) lease: Duration,
    pub(crate) wait: Duration,
    pub(crate) fail_open: bool,
    pub(crate) on_rejection: RejectionHandler,
    key: Key,
    tasks: DetachedTasks,
}

impl Admission {
    #[track_caller]
    pub(crate) fn new(store: &Store, key: Key, lease: Duration) -> Self {
        Self {
            store: store.clone(),
            lease: checked_lease(lease),
            wait: Duration::ZERO,
            fail_open: false,
            on_rejection: RejectionHandler::default(),
            key,
            tasks: DetachedTasks::default(),
        }
    }

    /// Waits until every handler has finished and its guard is released.
    pub(crate) async fn drain(&self) {
        self.tasks.drain().await;
        self.store.drain().await;
    }
}

/// Layer that admits a request if it acquires a guard.
pub trait Admit: Send + Sync + 'static {
    /// Kind of the guard, for the log.
    const KIND: &str;

    fn admission(&self) -> &Admission;

    /// Waits for the guard as long as the settings allow.
    fn acquire(&self, name: &str) -> impl Future<Output = lockstock::Result<Acquired>> + Send;

    /// Returns the rejection of a request that did not get the guard.
    fn rejection(&self, busy: &Busy) -> Rejection;

    /// Prepares the guard and the request for the handler.
    fn prepare(&self, guard: Guard, request: &mut Extensions) -> Guard;

    /// How long a handler may take.
    fn max_duration(&self) -> Duration;

    /// Whether losing the guard stops the handler.
    fn stops_when_lost(&self) -> bool {
        true
    }

    /// Whether the guard is kept to the end of its lease after this response.
    fn is_kept_after(&self, response: &Parts) -> bool {
        let _ = response;
        false
    }
}

impl<L, S, ReqBody, ResBody> Handle<S, ReqBody> for L
where
    L: Admit,
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
        let Admission {
            fail_open,
            on_rejection,
            key,
            tasks,
            ..
        } = self.admission();
        let (parts, body) = request.into_parts();
        let name = key.name(&parts);
        let mut request = Request::from_parts(parts, body);
        let cancellation = Cancellation::of(&request);
        let Some(name) = name else {
            return inner.call(request).await;
        };
        let guard = match self.acquire(&name).await {
            Ok(Acquired::Held(guard)) => guard,
            Ok(Acquired::Busy(busy)) => return Ok(on_rejection.respond(self.rejection(&busy))),
            Err(error) if *fail_open => {
                warn!(kind = L::KIND, name, %error, "processing the request without its lock");
                let handler = async move { inner.call(request).await };
                return tasks.run(cancellation, handler).await;
            }
            Err(error) => {
                warn!(kind = L::KIND, name, %error, "the lock could not be acquired");
                let error = error.into();
                return Ok(on_rejection.respond(Rejection::StoreUnavailable { error }));
            }
        };
        let guard = self.prepare(guard, request.extensions_mut());
        let inner_tasks = cancellation.child(&mut request);
        let layer = self.clone();
        let handler = async move { run(&*layer, guard, inner.call(request), &inner_tasks).await };
        tasks.run(cancellation, handler).await
    }
}

/// Runs a handler under its guard, and ends the guard.
async fn run<L: Admit, ResBody: From<Bytes>, E>(
    layer: &L,
    guard: Guard,
    handler: impl Future<Output = Result<Response<ResBody>, E>>,
    inner_tasks: &Cancellation,
) -> Result<Response<ResBody>, E> {
    let result = if layer.stops_when_lost() {
        let Ok(result) = guard.run(handler).await else {
            inner_tasks.cancel();
            let lease = layer.max_duration();
            let rejection = Rejection::LockLost { lease };
            return Ok(layer.admission().on_rejection.respond(rejection));
        };
        result
    } else {
        handler.await
    };
    let (result, keep) = match result {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let keep = layer.is_kept_after(&parts);
            (Ok(Response::from_parts(parts, body)), keep)
        }
        failed => (failed, false),
    };
    // Before responding: the client may retry as soon as it has the response.
    end::<L>(guard, keep).await;
    result
}

/// Keeps or releases the guard. A failure does not change the response: the effect stands, and
/// the lease ends by itself.
async fn end<L: Admit>(guard: Guard, keep: bool) {
    let fence = guard.fence();
    let ended = if keep {
        guard.keep().await
    } else {
        guard.release().await
    };
    if let Err(error) = ended {
        warn!(kind = L::KIND, fence, %error, "the lock was not released");
    }
}
