//! Responses that by default mean that a request had its effect.

use http::StatusCode;
use http::response::Parts;

/// Whether the status is 2xx, or 303 See Other, which redirects from a POST to its result.
pub(crate) fn has_effect(response: &Parts) -> bool {
    response.status.is_success() || response.status == StatusCode::SEE_OTHER
}
