//! Identity of a request with an `Idempotency-Key`: its caller, its key and its content.

use std::borrow::Cow;

use http::HeaderValue;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;

use super::multipart;
use crate::authorization::normalized_authorization;
use crate::hash::{hash, hex_hash};

/// Identity of a request with an `Idempotency-Key`: an extension of the request, for handlers that
/// write the [`RecordedResponse`](crate::RecordedResponse) in their own transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Caller that the key belongs to: see
    /// [`IdempotencyLayer::caller`](crate::IdempotencyLayer::caller).
    pub caller: String,
    /// Idempotency key: 1 to 255 visible ASCII characters.
    pub key: String,
    /// SHA-256 of method, path, query, content type and body.
    pub fingerprint: [u8; 32],
}

impl RequestKey {
    /// Returns a name for caller and key in 64 hexadecimal digits: for a column, or a key in a
    /// store.
    pub fn id(&self) -> String {
        id(&self.caller, &self.key)
    }
}

/// Returns [`RequestKey::id`].
pub(super) fn id(caller: &str, key: &str) -> String {
    hex_hash([caller.as_bytes(), key.as_bytes()])
}

/// Returns a name for the caller that does not reveal its credentials.
pub(super) fn credentials(parts: &Parts) -> String {
    let authorization = parts.headers.get_all(AUTHORIZATION).iter();
    let authorization =
        authorization.map(|value| ("authorization", normalized_authorization(value)));
    let api_key = parts.headers.get_all("x-api-key").iter();
    let api_key = api_key.map(|value| ("x-api-key", value.as_bytes().into()));
    let credentials: Vec<(&str, Cow<[u8]>)> = authorization.chain(api_key).collect();
    if credentials.is_empty() {
        return String::new();
    }
    let parts = credentials.iter();
    hex_hash(parts.flat_map(|(name, value)| [name.as_bytes(), value]))
}

pub(super) fn fingerprint(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let content_type = parts.headers.get(CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let request = [parts.method.as_str().as_bytes(), path.as_bytes()];
    match multipart::boundary(content_type) {
        // Clients choose a new boundary for each attempt.
        Some(boundary) => hash(request.into_iter().chain(multipart::parts(body, boundary))),
        None => hash(request.into_iter().chain([content_type, body])),
    }
}
