//! What a client demands of the version of a product (RFC 9110, section 13).

use axum::body::Body;
use axum::response::IntoResponse;
use lockstock_http::PreconditionsLayer;

use crate::error::Refusal;

/// The layer that reads what a client demands of the version it reads or changes.
pub(crate) fn layer() -> PreconditionsLayer<Body> {
    PreconditionsLayer::new().on_rejection(|refused| Refusal::from(refused).into_response())
}
