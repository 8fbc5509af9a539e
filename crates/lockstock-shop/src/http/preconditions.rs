//! What a client demands of the version of a product (RFC 9110, section 13).

use axum::body::Body;
use axum::response::IntoResponse;
use lockstock_http::Preconditions;

use crate::error::ApiError;

/// The layer that reads what a client demands of the version it reads or changes.
pub(crate) fn layer() -> Preconditions<Body> {
    Preconditions::new().refuse(|refused| ApiError::from(refused).into_response())
}
