//! The `Host` header (RFC 9112, section 3.2).

use axum::extract::Request;
use axum::http::Version;
use axum::http::header::HOST;

use crate::error::{ApiError, sentences};

/// Rejects a request that does not name exactly one host: a proxy in front of the server may
/// have routed it by another one. HTTP/1.0 requires none.
pub(super) fn require_one(request: &Request) -> Result<(), ApiError> {
    let count = request.headers().get_all(HOST).iter().count();
    if count == 1 || count == 0 && request.version() < Version::HTTP_11 {
        return Ok(());
    }
    Err(ApiError::bad_request(sentences::HOST_REQUIRED))
}
