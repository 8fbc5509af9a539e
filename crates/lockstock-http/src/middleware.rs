//! A service with one of our layers around it: what all of them are to tower.
//!
//! Guarantees: the error of the inner service is its own; the inner service that was asked
//! whether it is ready is the one that is called.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::Request;
use tower_service::Service;

/// A service with a layer of this crate around it.
#[derive(Debug)]
pub struct Middleware<S, L> {
    inner: S,
    layer: Arc<L>,
}

impl<S, L> Middleware<S, L> {
    pub(crate) fn new(inner: S, layer: &L) -> Self
    where
        L: Clone,
    {
        let layer = Arc::new(layer.clone());
        Self { inner, layer }
    }
}

impl<S: Clone, L> Clone for Middleware<S, L> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

/// What a layer does with a request. Nobody else's business: it is here to name what is called.
pub trait Handle<S, ReqBody>: Send + Sync + 'static
where
    S: Service<Request<ReqBody>>,
{
    /// Treats it, and calls the inner service at most once.
    fn handle(
        self: Arc<Self>,
        inner: S,
        request: Request<ReqBody>,
    ) -> impl Future<Output = Result<S::Response, S::Error>> + Send;
}

impl<S, L, ReqBody> Service<Request<ReqBody>> for Middleware<S, L>
where
    S: Service<Request<ReqBody>> + Clone + Send + 'static,
    L: Handle<S, ReqBody>,
    ReqBody: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The clone may not be ready: the one that was asked is the one that is called.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(self.layer.clone().handle(inner, request))
    }
}
