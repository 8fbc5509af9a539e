//! Answers that can be recorded and given again: a status, a few headers, a body of JSON.

use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use lockstock_http::RecordedResponse;
use serde::Serialize;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The answer that shows `body`.
pub(crate) fn shown(status: StatusCode, body: &impl Serialize) -> RecordedResponse {
    RecordedResponse {
        // Of which request is noted beside it.
        fingerprint: [0; 32],
        status,
        headers: vec![(CONTENT_TYPE, JSON)],
        // Our own shapes have nothing that JSON has not.
        body: serde_json::to_vec(body).unwrap_or_default().into(),
    }
}

/// The answer that shows what has been created, and where it is.
pub(crate) fn created(place: String, body: &impl Serialize) -> RecordedResponse {
    let answer = shown(StatusCode::CREATED, body);
    match HeaderValue::try_from(place) {
        Ok(place) => answer.header(LOCATION, place),
        // Numbers and hexadecimal digits always are a header value.
        Err(_) => answer,
    }
}
