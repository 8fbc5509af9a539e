//! Request ids: the one of the request, or a new one.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::response::Response;

use crate::http::request_context::{REQUEST_ID, RequestId};

const MAX_LENGTH: usize = 128;

/// Returns the id of a request and makes it available to handlers. An id that the client sends
/// is accepted if it is harmless in a log.
pub(super) fn assign(request: &mut Request) -> HeaderValue {
    let sent = request.headers().get(REQUEST_ID);
    let sent = sent.filter(|id| is_valid(id.as_bytes())).cloned();
    let id = sent.unwrap_or_else(generate);
    let text = id.to_str().unwrap_or_default();
    request.extensions_mut().insert(RequestId(text.into()));
    id
}

/// Sends the id with the response.
pub(super) fn add_header(response: &mut Response, id: HeaderValue) {
    response.headers_mut().insert(REQUEST_ID, id);
}

fn is_valid(id: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn generate() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none"))
}
