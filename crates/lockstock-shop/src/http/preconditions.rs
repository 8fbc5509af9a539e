//! `If-Match` and `If-None-Match` (RFC 9110, section 13).

use axum::body::Body;
use axum::response::IntoResponse;
use lockstock_http::Preconditions;

use crate::error::ApiError;

/// Builds the layer that evaluates the preconditions of a request.
pub(crate) fn layer() -> Preconditions<Body> {
    Preconditions::new().refuse(|refused| ApiError::from(refused).into_response())
}
