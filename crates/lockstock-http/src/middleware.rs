//! The [`tower`](https://docs.rs/tower) side of the layers: one [`Service`] for all of them.
//!
//! Guarantees: errors of the inner service are passed on unchanged; the inner service that
//! reported itself ready is the instance that is called.

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

/// Behaviour of a layer. Public only because [`Middleware`] is.
pub trait Handle<S, ReqBody>: Send + Sync + 'static
where
    S: Service<Request<ReqBody>>,
{
    /// Handles a request. Calls the inner service at most once.
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
        // A fresh clone may not be ready, so the instance that was polled handles this request.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(self.layer.clone().handle(inner, request))
    }
}

/// Implements [`tower_layer::Layer`] for a layer of this crate. The orphan rule forbids a blanket
/// implementation.
macro_rules! impl_layer {
    ($layer:ty) => {
        impl<S> tower_layer::Layer<S> for $layer {
            type Service = $crate::middleware::Middleware<S, Self>;

            fn layer(&self, inner: S) -> Self::Service {
                $crate::middleware::Middleware::new(inner, self)
            }
        }
    };
}

pub(crate) use impl_layer;
