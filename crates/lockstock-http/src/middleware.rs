//! The [`tower`](https://docs.rs/tower) side of the layers: one [`Service`] for all of them.
//!
//! Any [`Service`] of [`http`] requests whose response body is a [`Body`] of [`Bytes`] can have
//! these layers, whatever the types of its bodies.
//!
//! Guarantees: errors of the inner service are passed on unchanged; the inner service that
//! reported itself ready is the instance that is called.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::response_body::ResponseBody;

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
#[diagnostic::on_unimplemented(
    message = "this layer of lockstock-http cannot wrap the service `{S}`",
    label = "the layer is added here",
    note = "the service must be `Send + 'static`, with a `Send` future and a response body that \
            implements `http_body::Body<Data = Bytes>`",
    note = "`IdempotencyLayer` reads and restores the request body: it must implement \
            `http_body::Body` and `From<Bytes>`, as `axum::body::Body` and `http_body_util::Full` do"
)]
pub trait Handle<S, ReqBody, ResBody: Body>: Send + Sync + 'static
where
    S: Service<Request<ReqBody>>,
{
    /// Handles a request. Calls the inner service at most once.
    fn handle(
        self: Arc<Self>,
        inner: S,
        request: Request<ReqBody>,
    ) -> impl Future<Output = Result<Response<ResponseBody<ResBody>>, S::Error>> + Send;
}

impl<S, L, ReqBody, ResBody> Service<Request<ReqBody>> for Middleware<S, L>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    L: Handle<S, ReqBody, ResBody>,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

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
