//! The look-up of the record of a request while the request waits for a guard.
//!
//! [`IdempotencyLayer::process_first`](crate::IdempotencyLayer::process_first) puts it into the request,
//! and the layers that let requests wait carry it out.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::time::sleep;

use crate::opaque::Opaque;
use crate::rejection::Rejection;

/// How long a request waits before its record is looked up. Most guards are acquired earlier.
const DELAY: Duration = Duration::from_millis(20);

/// What a record implies for a request that waits.
type Recorded = Result<Response<Bytes>, Rejection>;

/// A look-up that has not been carried out: an extension of the request.
#[derive(Clone)]
pub(crate) struct LateLookUp(
    Opaque<dyn Fn() -> BoxFuture<'static, Option<Recorded>> + Send + Sync>,
);

impl LateLookUp {
    /// `look_up` returns `None` if there is no record, or if it cannot be read.
    pub(crate) fn new<LookUp, Found>(look_up: LookUp) -> Self
    where
        LookUp: Fn() -> Found + Send + Sync + 'static,
        Found: Future<Output = Option<Recorded>> + Send + 'static,
    {
        Self(Opaque(Arc::new(move || look_up().boxed())))
    }

    /// Returns the look-up that an outer layer has put into the request.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        request.extensions().get().cloned()
    }

    /// Looks the record up after a moment, and returns what it implies. Never resolves without a record.
    pub(crate) async fn recorded(self) -> Recorded {
        sleep(DELAY).await;
        match (self.0)().await {
            Some(recorded) => recorded,
            None => pending().await,
        }
    }
}
