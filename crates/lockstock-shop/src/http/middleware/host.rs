//! The `Host` header (RFC 9112, section 3.2), and the authority of HTTP/2 (RFC 9113, section 8.3.1).

use axum::extract::Request;
use axum::http::Version;
use axum::http::header::HOST;

use crate::error::{ApiError, sentences};

/// Rejects a request that does not name exactly one host: a proxy in front of the server may
/// have routed it by another one. HTTP/1.0 requires none.
pub(super) fn require_one(request: &Request) -> Result<(), ApiError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, has_one_at_most) = (hosts.next(), hosts.next().is_none());
    let version = request.version();
    let is_named = match request.uri().authority() {
        Some(authority) if version >= Version::HTTP_2 => {
            host.is_none_or(|host| host.as_bytes() == authority.as_str().as_bytes())
        }
        _ => host.is_some() || version < Version::HTTP_11,
    };
    match is_named && has_one_at_most {
        true => Ok(()),
        false => Err(ApiError::bad_request(sentences::HOST_REQUIRED)),
    }
}
