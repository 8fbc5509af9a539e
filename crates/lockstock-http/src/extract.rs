//! Extractors of axum for what the layers put into a request.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::IntoResponse;
use http::StatusCode;
use http::request::Parts;
use tracing::error;

use crate::idempotency::RequestKey;
use crate::lock::HeldLock;
use crate::preconditions::Preconditions;

/// Rejection of a handler whose layer is missing: 500, with the name of the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingLayer {
    extractor: &'static str,
    /// Layer, and why it may be there and not have put anything into the request.
    cause: &'static str,
}

impl std::fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { extractor, cause } = self;
        write!(f, "the request has no {extractor}: {cause}")
    }
}

impl std::error::Error for MissingLayer {}

impl IntoResponse for MissingLayer {
    fn into_response(self) -> axum::response::Response {
        error!(error = %self, "a handler has no layer");
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// Implements the extractors of a type in the extensions of a request: `T` fails with
/// [`MissingLayer`], `Option<T>` is `None`.
macro_rules! impl_extractors {
    ($type:ident, $cause:literal) => {
        impl<S: Sync> FromRequestParts<S> for $type {
            type Rejection = MissingLayer;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
                let found = parts.extensions.get().cloned();
                found.ok_or(MissingLayer {
                    extractor: stringify!($type),
                    cause: $cause,
                })
            }
        }

        impl<S: Sync> OptionalFromRequestParts<S> for $type {
            type Rejection = std::convert::Infallible;

            async fn from_request_parts(
                parts: &mut Parts,
                _: &S,
            ) -> Result<Option<Self>, Self::Rejection> {
                Ok(parts.extensions.get().cloned())
            }
        }
    };
}

impl_extractors!(
    HeldLock,
    "add a LockLayer around the route. A LockLayer takes no lock if its Key does not describe the \
     request, or if it fails open; use Option<HeldLock> there"
);
impl_extractors!(
    Preconditions,
    "add a PreconditionsLayer around the route. It leaves the conditions of GET and HEAD requests \
     to itself; use Option<Preconditions> there"
);
impl_extractors!(
    RequestKey,
    "add an IdempotencyLayer around the route, with require() if every request must have an \
     Idempotency-Key; otherwise use Option<RequestKey>"
);
