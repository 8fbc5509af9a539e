//! Admission of requests by a guard of the store: the common part of
//! [`LockLayer`](crate::LockLayer) and [`ConcurrencyLimitLayer`](crate::ConcurrencyLimitLayer).
//!
//! Guarantees: if the guard is not acquired, the inner service is not called, unless the layer
//! fails open; a disconnect of the client does not cancel an admitted handler; the request to release
//! or keep the guard is sent before the response is returned, and no later request of this process
//! overtakes it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::response::Parts;
use http::{Extensions, Request, Response};
use http_body::Body;
use lockstock::{Acquired, Busy, Guard, MAX_LEASE, MIN_LEASE, Store};
use tower_service::Service;
use tracing::{debug, warn};

use crate::detached::{Cancellation, DetachedTasks};
use crate::key::Key;
use crate::language::Language;
use crate::late_look_up::LateLookUp;
use crate::middleware::Handle;
use crate::observer::{LockEvent, Observation, Observer};
use crate::rejection::{Rejection, RejectionHandler};
use crate::response_body::ResponseBody;

/// Default upper bound of `Retry-After` while the guard is held: most handlers finish earlier.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

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
    pub(crate) max_retry_after: Duration,
    pub(crate) fail_open: bool,
    pub(crate) on_rejection: RejectionHandler,
    pub(crate) observer: Observer,
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
            max_retry_after: DEFAULT_RETRY_AFTER,
            fail_open: false,
            on_rejection: RejectionHandler::default(),
            observer: Observer::default(),
            key,
            tasks: DetachedTasks::default(),
        }
    }

    /// Returns when a rejected request should be sent again. A guard that is kept is taken to the end
    /// of its lease; a guard that is held is free when its handler returns.
    pub(crate) fn retry_after(&self, busy: &Busy) -> Duration {
        // A foreign holder may have no lease.
        let remaining = busy.retry_after().unwrap_or(self.lease);
        if busy.is_kept() {
            remaining
        } else {
            remaining.min(self.max_retry_after)
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

impl<L, S, ReqBody, ResBody> Handle<S, ReqBody, ResBody> for L
where
    L: Admit,
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes, Error: Send> + Send + 'static,
{
    async fn handle(
        self: Arc<Self>,
        mut inner: S,
        request: Request<ReqBody>,
    ) -> Result<Response<ResponseBody<ResBody>>, S::Error> {
        let Admission {
            fail_open,
            on_rejection,
            observer,
            key,
            tasks,
            ..
        } = self.admission();
        let (parts, body) = request.into_parts();
        let name = key.name(&parts);
        let language = Language::preferred(&parts.headers);
        let Some(name) = name else {
            let request = Request::from_parts(parts, body);
            return Ok(inner.call(request).await?.map(ResponseBody::inner));
        };
        let mut observation = observer.begin(&name, &parts);
        let mut request = Request::from_parts(parts, body);
        let cancellation = Cancellation::of(&request);
        let acquiring = self.acquire(&name);
        let acquired = match LateLookUp::of(&request) {
            None => acquiring.await,
            Some(look_up) => tokio::select! {
                biased;
                acquired = acquiring => acquired,
                recorded = look_up.recorded() => {
                    return Ok(match recorded {
                        Ok(recorded) => recorded.map(ResponseBody::from),
                        Err(rejection) => on_rejection.respond(rejection, language),
                    });
                }
            },
        };
        let guard = match acquired {
            Ok(Acquired::Held(guard)) => guard,
            Ok(Acquired::Busy(busy)) => {
                observation.event(LockEvent::Rejected {
                    kept: busy.is_kept(),
                    retry_after: self.admission().retry_after(&busy),
                });
                return Ok(on_rejection.respond(self.rejection(&busy), language));
            }
            Err(error) if *fail_open => {
                observation.event(LockEvent::Failed);
                warn!(kind = L::KIND, name, %error, "processing the request without its lock");
                let handler = async move { inner.call(request).await };
                let response = tasks.run(cancellation, handler).await?;
                return Ok(response.map(ResponseBody::inner));
            }
            Err(error) => {
                observation.event(LockEvent::Failed);
                debug!(kind = L::KIND, name, %error, "the lock could not be acquired");
                let error = error.into();
                let rejection = Rejection::StoreUnavailable { error };
                return Ok(on_rejection.respond(rejection, language));
            }
        };
        observation.event(LockEvent::Granted(&guard));
        let guard = self.prepare(guard, request.extensions_mut());
        let inner_tasks = cancellation.child(&mut request);
        let layer = self.clone();
        let tasks_of_layer = tasks.clone();
        let handler = async move {
            let handler = inner.call(request);
            run(
                &*layer,
                guard,
                observation,
                handler,
                &inner_tasks,
                &tasks_of_layer,
            )
            .await
        };
        match tasks.run(cancellation, handler).await? {
            Ok(response) => Ok(response.map(ResponseBody::inner)),
            Err(lost) => Ok(on_rejection.respond(lost, language)),
        }
    }
}

/// Runs a handler under its guard, and ends the guard. Returns a rejection if the guard was lost.
async fn run<L: Admit, ResBody, E>(
    layer: &L,
    guard: Guard,
    mut observation: Observation,
    handler: impl Future<Output = Result<Response<ResBody>, E>>,
    inner_tasks: &Cancellation,
    tasks: &DetachedTasks,
) -> Result<Result<Response<ResBody>, Rejection>, E> {
    let result = if layer.stops_when_lost() {
        let mut handler = std::pin::pin!(handler);
        let Ok(result) = guard.run(&mut handler).await else {
            // Before the handler is dropped, after which inner layers run the rest of it.
            inner_tasks.cancel();
            observation.event(LockEvent::Lost);
            let lease = layer.max_duration();
            return Ok(Err(Rejection::LockLost { lease }));
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
    let ended = end::<L>(guard, observation, keep);
    // The client may send its next request to another process. That must find a lock that is kept, and
    // would not wait for one that is released in a moment, if it waits for none.
    if keep || layer.admission().wait.is_zero() {
        ended.await;
    } else {
        tasks.begin(ended);
    }
    result.map(Ok)
}

/// Sends the request to keep or release the guard, and returns what waits for its end. A failure does
/// not change the response: the effect stands, and the lease ends by itself.
fn end<L: Admit>(
    guard: Guard,
    mut observation: Observation,
    keep: bool,
) -> impl Future<Output = ()> + Send + 'static {
    let fence = guard.fence();
    let ended = if keep {
        guard.keep().left_future()
    } else {
        guard.release().right_future()
    };
    async move {
        observation.event(match ended.await {
            Ok(()) if keep => LockEvent::Kept,
            Ok(()) => LockEvent::Released,
            // Logged when the guard noticed it.
            Err(error) if error.is_lost() => LockEvent::Lost,
            Err(error) => {
                warn!(kind = L::KIND, fence, %error, "the lock was not released");
                LockEvent::Failed
            }
        });
    }
}
