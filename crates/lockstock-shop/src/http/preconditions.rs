//! `If-Match` and `If-None-Match` (RFC 9110, section 13).

use lockstock_http::PreconditionsLayer;

use crate::error::ApiError;

/// Builds the layer that evaluates the preconditions of a request.
pub(crate) fn layer() -> PreconditionsLayer {
    PreconditionsLayer::new().on_rejection(ApiError::of_layer)
}
