//! The precondition headers of a request (RFC 9110, section 13).

use lockstock_http::PreconditionsLayer;

use crate::error::Refusal;

/// Returns the layer that parses `If-Match`.
pub(crate) fn layer() -> PreconditionsLayer {
    PreconditionsLayer::new().on_rejection(Refusal::of_layer)
}
